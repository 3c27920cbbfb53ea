"""The seal of a recording: the digests that the run wrote of every message, model and setting, checked before an audit.

It shows that the files are those that the run wrote: no file was exchanged, removed, added or edited. Whoever can write
all files of the folder can also write another seal; `seal` in audit.json is its digest, for comparison with a copy that
was kept elsewhere. That reports come from the recorded models is checked by `edgefd.auditing.attacks.replay`.
"""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

from edgefd.config.schema import Config
from edgefd.core.errors import UserError
from edgefd.core.files import read
from edgefd.core.json_files import parse_json
from edgefd.rounds.participation import min_required, sample_clients
from edgefd.runs.record import FINAL, KNOWLEDGE, SEALED_OF_RUN, SEALS, model_file, seal_file
from edgefd.wire.exchange_folder import TEACHER, report_file, round_folder

_MAX_SEAL, _MAX_SEALED = 2**28, 2**34  # bytes
_FILE = re.compile(r"(models|rounds)(/[0-9a-z]+){1,3}\.(bin|npz)|claims\.npz|coordinator\.json")
_AGAIN = "restore the folder, or run edgefd simulate CONFIG run.record_knowledge=true again"


def check_seal(folder: Path, rounds: int) -> str:
    """Check every file of a recording against its seal; return the digest of the seal.

    Args:
        folder: the run folder.
        rounds: number of rounds of the run, without the closing one.

    Raises:
        UserError: if a round has no seal, or a file is missing, was not written by the run, or is not what it wrote.
    """
    sealed: dict[str, str] = {}
    for round in range(rounds + 1):
        sealed |= _seal_of(seal_file(folder / KNOWLEDGE, round))
    for name, sha256 in sealed.items():
        path = folder / name if name in SEALED_OF_RUN else folder / KNOWLEDGE / name
        if not path.is_file():
            raise UserError(f"{path} is missing from the recording: {_AGAIN}")
        if hashlib.sha256(read(path, _MAX_SEALED)).hexdigest() != sha256:
            raise UserError(f"{path} is not what the run wrote (its sha256 is not the sealed one): {_AGAIN}")
    if missing := [name for name in SEALED_OF_RUN if name not in sealed]:
        raise UserError(f"the seal of {folder} does not cover {missing[0]}: {_AGAIN}")
    _check_no_others(folder / KNOWLEDGE, set(sealed))
    lines = "".join(f"{sealed[name]}  {name}\n" for name in sorted(sealed))
    return hashlib.sha256(lines.encode()).hexdigest()


def check_complete(folder: Path, config: Config, n_clients: int, deployed: bool) -> None:
    """Check that a recording holds all that a run of this config writes, whatever its seal says.

    These are a teacher after each round, the reports without which a round cannot end, and, for a simulation, the
    models of all clients in every recorded round.

    Raises:
        UserError: if something is missing.
    """
    knowledge, rounds = folder / KNOWLEDGE, config.train.rounds
    needed = [round_folder(knowledge, round + 1) / TEACHER for round in range(rounds)]
    for round in range(rounds):
        sampled = sample_clients(config.coordinator, config.seed, round, n_clients)
        needed_reports = [report_file(knowledge, round, client) for client in sampled]
        least = min_required(config.coordinator, len(sampled))
        if least == len(sampled):
            needed += needed_reports
        elif (n := len(list((round_folder(knowledge, round) / "reports").glob("*.bin")))) < least:
            raise UserError(
                f"{folder}: round {round} has {n} reports, and could not end with fewer than {least}: {_AGAIN}"
            )
    if not deployed:
        recorded = [round for round in range(rounds) if round % config.run.record_every == 0 or round == rounds - 1]
        names = [*(f"{round:04d}" for round in recorded), FINAL]
        needed += [model_file(knowledge, name, client) for name in names for client in range(n_clients)]
    for path in needed:
        if not path.is_file():
            raise UserError(f"{path} is missing from the recording: {_AGAIN}")


def _seal_of(path: Path) -> dict[str, str]:
    if not path.is_file():
        raise UserError(f"{path} is missing: this round was not recorded, or its recording is not complete: {_AGAIN}")
    try:
        seal = parse_json(read(path, _MAX_SEAL))
    except ValueError as error:
        raise UserError(f"{path} is corrupt ({error}): {_AGAIN}") from error
    valid = isinstance(seal, dict) and all(
        (name in SEALED_OF_RUN or _FILE.fullmatch(name)) and isinstance(value, str) for name, value in seal.items()
    )
    if not valid:
        raise UserError(f"{path} is no seal of a round: {_AGAIN}")
    return {str(name): str(value) for name, value in seal.items()}


def _check_no_others(knowledge: Path, sealed: set[str]) -> None:
    for path in sorted(knowledge.rglob("*")):
        name = path.relative_to(knowledge).as_posix()
        if path.is_file() and name not in sealed and not name.startswith(f"{SEALS}/"):
            raise UserError(f"{path} was not written by the run: remove it")
