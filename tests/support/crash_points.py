"""A server that kills itself before or after a named step of a round: `main` reads "STEP BEFORE-OR-AFTER NUMBER".

Each step is a call that the server makes once or more in a round, so each phase is hit on any machine. "before 6" is
before the sixth call, "after 6" after the sixth that was not refused: a report handed in before the round is open is.
"""

import os
import signal
import sys
from itertools import count
from typing import Any

from edgefd_server.coordinator import checkpoint
from edgefd_server.coordinator import resume as resumable
from edgefd_server.coordinator import round_coordinator as desk
from edgefd_server.grpc_link import device_service as device_link
from edgefd_server.grpc_link import sessions as reception
from edgefd_server.serve import grpc as link_run

from edgefd.cli import main as cli
from edgefd.runs import execute as run

STEPS: dict[str, tuple[Any, str]] = {
    "begin": (link_run, "begun"),
    "listen": (link_run, "open_link"),
    "join": (reception.Reception, "join"),
    "open": (desk.Desk, "open"),
    "hand out": (device_link.DeviceLink, "_wake"),
    "report": (desk.Desk, "submit"),
    "collect": (desk.Desk, "collect"),
    "aggregate": (resumable, "measure"),
    "checkpoint": (checkpoint, "put"),
    "metrics": (run, "append_json_line"),
    "summary": (run, "summarise"),
    "end": (desk.Desk, "end"),
    "finish": (desk.Desk, "finish"),
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

    def watched(*arguments: Any, **named: Any) -> Any:
        reached("before")
        found = act(*arguments, **named)
        reached("after")
        return found

    setattr(owner, name, watched)
