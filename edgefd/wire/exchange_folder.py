"""Layout of an exchange folder, through which a coordinator and devices exchange messages without a network.

    federation.json               run, number of clients, terms of the federation
    rounds/0003/teacher.bin       edgefd.v1.Knowledge: teacher of the last round (not present in round 0)
    rounds/0003/asked.json        the sampled clients, if not all clients were sampled
    rounds/0003/plan.bin          edgefd.v1.RoundPlan, written last: when it exists, the round is open
    rounds/0003/reports/2.bin     edgefd.v1.Report of client 2
    rounds/0003/reports/2.refused the reason why the coordinator refuses that report
    rounds/0003/counted.json      the clients whose reports were in time; when it exists, the round is closed
    done                          the run is over: "complete", or the reason why it stopped

Every file is written under another name and then renamed, so it is never seen incomplete. Afterwards no file changes,
except counted.json if the coordinator is killed before it writes its checkpoint and therefore closes the round again.

Everybody who exchanges messages can write in the folder. Therefore nobody follows a link in it, and nothing in it says
where anything is written; the coordinator's checkpoint lies in its run folder.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path

from edgefd.core.errors import RunError
from edgefd.core.json_files import parse_json
from edgefd.federation.terms import FederationInfo
from edgefd.wire.terms import received_terms

FEDERATION, PLAN, TEACHER, DONE = "federation.json", "plan.bin", "teacher.bin", "done"
ASKED, COUNTED = "asked.json", "counted.json"
COMPLETE = "complete"
MAX_TEXT = 2**20


def encode_info(info: FederationInfo) -> bytes:
    """Return federation.json as bytes."""
    return (json.dumps(asdict(info), indent=2) + "\n").encode()


def decode_info(blob: bytes) -> FederationInfo:
    """Return the content of federation.json.

    Raises:
        RunError: if the bytes are not a federation.json.
    """
    try:
        fields = parse_json(blob)
        return FederationInfo(str(fields["run"]), int(fields["n_clients"]), received_terms(fields["terms"]))
    except (ValueError, KeyError, TypeError, OverflowError) as error:
        raise RunError(f"{FEDERATION} does not describe a federation: {type(error).__name__}: {error}") from error


def encode_clients(clients: Iterable[int]) -> bytes:
    """Return asked.json or counted.json, a list of client numbers, as bytes."""
    return (json.dumps(sorted(clients)) + "\n").encode()


def decode_clients(blob: bytes) -> tuple[int, ...]:
    """Return the client numbers of asked.json or counted.json.

    Raises:
        ValueError: if the bytes are not a JSON list of client numbers.
    """
    clients = parse_json(blob)
    if not isinstance(clients, list) or not all(type(c) is int and c >= 0 for c in clients):
        raise ValueError("not a JSON list of client numbers")
    return tuple(clients)


def round_folder(folder: Path, round: int) -> Path:
    """Return the folder of one round."""
    return folder / "rounds" / f"{round:04d}"


def report_file(folder: Path, round: int, client: int) -> Path:
    """Return the path of a client's report."""
    return round_folder(folder, round) / "reports" / f"{client}.bin"
