"""A server that kills itself before or after a named step of a round.

The first argument of `main` is "STEP before|after NUMBER". Each step is a call that the server makes once or more in a
round, so every phase is reached on any machine. "before 6" is before the sixth call. "after 6" is after the sixth call
that was not refused; a report that is submitted before the round is open, for example, is refused.
"""

import os
import signal
import sys
from itertools import count
from typing import Any

from edgefd_server.coordinator import open_run, rounds
from edgefd_server.coordinator.round_coordinator import RoundCoordinator
from edgefd_server.grpc_link.device_service import DeviceLink
from edgefd_server.grpc_link.sessions import DeviceSessions
from edgefd_server.serve import grpc

from edgefd.cli import main as cli
from edgefd.runs import checkpoint, execute

STEPS: dict[str, tuple[Any, str]] = {
    "begin": (open_run, "create_checkpoint"),
    "listen": (grpc, "open_link"),
    "join": (DeviceSessions, "join"),
    "open": (RoundCoordinator, "open"),
    "hand out": (DeviceLink, "_wake"),
    "report": (RoundCoordinator, "submit"),
    "collect": (RoundCoordinator, "collect"),
    "aggregate": (rounds, "measure"),
    "checkpoint": (checkpoint, "put"),
    "metrics": (execute, "append_json_line"),
    "summary": (execute, "summarise"),
    "end": (RoundCoordinator, "end"),
    "finish": (RoundCoordinator, "finish"),
}


def main() -> None:
    """Run the `edgefd` command. Its first argument is the crash point, "" for none."""
    if crash_point := sys.argv.pop(1):
        step, when, number = crash_point.rsplit(" ", 2)
        _kill_at(*STEPS[step], when, int(number))
    cli.main()


def _kill_at(owner: Any, name: str, when: str, number: int) -> None:
    """Replace a function by one that kills this process before or after its call of that number."""
    original, calls = getattr(owner, name), count(1)

    def reach(point: str) -> None:
        if point == when and next(calls) == number:
            os.kill(os.getpid(), signal.SIGKILL)

    def replacement(*args: Any, **kwargs: Any) -> Any:
        reach("before")
        result = original(*args, **kwargs)
        reach("after")
        return result

    setattr(owner, name, replacement)
