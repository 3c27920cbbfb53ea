"""A server that kills itself before or after a named step of a round: `main` reads "STEP BEFORE-OR-AFTER NUMBER".

Each step is a call that the server makes once or more in a round, so each phase is hit on any machine. "before 6" is
before the sixth call, "after 6" after the sixth that was not refused: a report handed in before the round is open is.
"""

import os
import signal
import sys
from itertools import count
from typing import Any

from edgefd_server.coordinator import checkpoint, resume
from edgefd_server.coordinator.round_coordinator import RoundCoordinator
from edgefd_server.grpc_link.device_service import DeviceLink
from edgefd_server.grpc_link.sessions import DeviceSessions
from edgefd_server.serve import coordinator, grpc

from edgefd.cli import main as cli
from edgefd.runs import execute

STEPS: dict[str, tuple[Any, str]] = {
    "begin": (grpc, "create_checkpoint"),
    "listen": (coordinator, "open_link"),
    "join": (DeviceSessions, "join"),
    "open": (RoundCoordinator, "open"),
    "hand out": (DeviceLink, "_wake"),
    "report": (RoundCoordinator, "submit"),
    "collect": (RoundCoordinator, "collect"),
    "aggregate": (resume, "measure"),
    "checkpoint": (checkpoint, "put"),
    "metrics": (execute, "append_json_line"),
    "summary": (execute, "summarise"),
    "end": (RoundCoordinator, "end"),
    "finish": (RoundCoordinator, "finish"),
}


def main() -> None:
    """The `edgefd` command; its first argument says where it ends, "" nowhere."""
    if where := sys.argv.pop(1):
        step, when, number = where.rsplit(" ", 2)
        _die(*STEPS[step], when, int(number))
    cli.main()


def _die(owner: Any, name: str, when: str, number: int) -> None:
    act, times = getattr(owner, name), count(1)

    def reached(here: str) -> None:
        if here == when and next(times) == number:
            os.kill(os.getpid(), signal.SIGKILL)

    def counted(*arguments: Any, **named: Any) -> Any:
        reached("before")
        found = act(*arguments, **named)
        reached("after")
        return found

    setattr(owner, name, counted)
