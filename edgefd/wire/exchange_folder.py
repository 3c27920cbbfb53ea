"""The layout of an exchange folder, through which coordinator and devices talk without a network.

    federation.json               run, number of clients, terms
    rounds/0003/teacher.bin       edgefd.v1.Knowledge: the last round's teacher (none in round 0)
    rounds/0003/asked.json        the clients that are asked, where that is not everybody
    rounds/0003/plan.bin          edgefd.v1.RoundPlan; written after those: where it is, the round is open
    rounds/0003/reports/2.bin     edgefd.v1.Report of client 2
    rounds/0003/reports/2.refused why the coordinator does not take that report
    rounds/0003/counted.json      the clients whose reports were in time; where it is, the round is closed
    checkpoint.bin                the coordinator's own: where the run is (edgefd_server.coordinator.checkpoint)
    done                          the run is over: "complete", or why it stopped

Every file appears by a rename, whole or not at all. None is changed afterwards but the checkpoint, and counted.json if
the coordinator dies before its checkpoint and closes the round again.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path

from edgefd.core.errors import RunError
from edgefd.federation.terms import FederationInfo, parse_terms

FEDERATION, PLAN, TEACHER, DONE = "federation.json", "plan.bin", "teacher.bin", "done"
ASKED, COUNTED = "asked.json", "counted.json"
COMPLETE = "complete"
MAX_TEXT = 2**20


def encode_info(info: FederationInfo) -> bytes:
    """As JSON."""
    return (json.dumps(asdict(info), indent=2) + "\n").encode()


def decode_info(blob: bytes) -> FederationInfo:
    """From JSON.

    Raises:
        RunError: if it is something else.
    """
    try:
        fields = json.loads(blob)
        return FederationInfo(str(fields["run"]), int(fields["n_clients"]), parse_terms(fields["terms"]))
    except (ValueError, KeyError, TypeError) as error:
        raise RunError(f"{FEDERATION} is not a federation's: {type(error).__name__}: {error}") from error


def encode_clients(clients: Iterable[int]) -> bytes:
    """Of asked.json and counted.json: a list of numbers."""
    return (json.dumps(sorted(clients)) + "\n").encode()


def decode_clients(blob: bytes) -> tuple[int, ...]:
    """From JSON.

    Raises:
        ValueError: if it is something else.
    """
    found = json.loads(blob)
    if not isinstance(found, list) or not all(type(c) is int and c >= 0 for c in found):
        raise ValueError("not a list of clients")
    return tuple(found)


def round_folder(folder: Path, round: int) -> Path:
    """Of one round."""
    return folder / "rounds" / f"{round:04d}"


def report_file(folder: Path, round: int, client: int) -> Path:
    """Where a client's report goes."""
    return round_folder(folder, round) / "reports" / f"{client}.bin"
