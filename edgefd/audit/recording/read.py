"""A recorded run, read back: what each party saw (`edgefd.runs.record`), and the federation that it was."""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np

from edgefd.config.load import load_config
from edgefd.config.schema import Config
from edgefd.core.errors import UserError
from edgefd.core.knowledge import Knowledge
from edgefd.data.datasets import Dataset
from edgefd.federation.clients import Federation
from edgefd.federation.method import MessageKind
from edgefd.federation.report import Report
from edgefd.runs.prepare import prepare
from edgefd.runs.record import CLAIMS, COORDINATOR, FINAL, KNOWLEDGE, model_file
from edgefd.runs.summary import members_of
from edgefd.wire import messages as wire
from edgefd.wire.exchange_folder import TEACHER, report_file, round_folder

Found = TypeVar("Found")

_HOW = "run edgefd simulate CONFIG run.record_knowledge=true --out RUN"


@dataclass(frozen=True, eq=False)
class Recording:
    """A run that recorded its knowledge."""

    folder: Path
    config: Config
    dataset: Dataset
    federation: Federation
    digest: str
    """of config, partition and summary: which run it is"""
    deployed: bool = False
    """recorded by a coordinator: messages alone. What `federation` holds of clients is then what the config would deal,
    and not known to be what devices have: only the proxy set, with its contributors, and the test set count"""

    @property
    def rounds(self) -> range:
        """Rounds that were answered."""
        return range(self.config.train.rounds)

    @property
    def recorded(self) -> list[int]:
        """Rounds of which the models are kept."""
        names = [p.name for p in (self.folder / KNOWLEDGE / "models").iterdir() if p.name != FINAL]
        return sorted(int(name) for name in names)


def open_recording(folder: Path) -> Recording:
    """The recording of a run folder.

    Raises:
        UserError: if it is no run folder, the run was not recorded or did not end, its data have changed, or what it
            calls members and non-members overlap; or its method's messages are none that an audit can read.
    """
    if not (folder / "config.yaml").is_file():
        raise UserError(f"{folder} is not the folder of a run: it has no config.yaml")
    config = load_config(folder / "config.yaml")
    deployed = (folder / KNOWLEDGE / COORDINATOR).is_file()
    if not config.run.record_knowledge or not (deployed or (folder / KNOWLEDGE / CLAIMS).is_file()):
        raise UserError(f"{folder} has no recorded knowledge: {_HOW}")
    if not _ended(folder, deployed):
        raise UserError(f"{folder} is a run that did not end: {_HOW}, or edgefd server --resume")
    _check_method(config)
    texts = [(folder / name).read_bytes() for name in ("config.yaml", "partition.json", "summary.json")]
    prepared = prepare(config)
    _check_data(folder, json.loads(texts[2]), prepared.dataset)
    if not deployed:
        _check_members(folder, json.loads(texts[1]), prepared.federation)
    digest = hashlib.sha256(b"\0".join(texts)).hexdigest()
    return Recording(folder, config, prepared.dataset, prepared.federation, digest, deployed)


def _ended(folder: Path, deployed: bool) -> bool:
    """Whether its last round is there: of a simulation, the final models too."""
    if not (folder / "summary.json").is_file():
        return False
    if not deployed:
        return (folder / KNOWLEDGE / "models" / FINAL).is_dir()
    return bool(json.loads((folder / "summary.json").read_bytes()).get("complete"))


def _check_method(config: Config) -> None:
    method = config.method
    if method.message is not MessageKind.PROXY_LABELS or method.upload is not None or method.server_update is not None:
        raise UserError(
            f"the audit reads soft labels of proxy samples, aggregated row by row; method {method.name} exchanges "
            "other messages or makes another teacher: it cannot be audited yet"
        )


def _check_data(folder: Path, summary: dict[str, object], dataset: Dataset) -> None:
    if summary.get("data_sha256") != dataset.sha256:
        raise UserError(f"{folder} was run on other data than {dataset.source} now holds: its members are not known")


def _check_members(folder: Path, partition: dict[str, list[dict[str, list[int]]]], federation: Federation) -> None:
    """Whether partition.json lists members and non-members that are distinct, and those that the config gives."""
    for said, data in zip(partition["clients"], federation.clients, strict=True):
        both = set(said.get("train_rows", ())) & set(said.get("heldout_rows", ()))
        if both:
            raise UserError(
                f"{folder}/partition.json: sample {min(both)} is both a member and a non-member of client {data.client}"
            )
        if any(said.get(name) != rows for name, rows in members_of(data).items()):
            raise UserError(f"{folder}/partition.json: members of client {data.client} are not those of config.yaml")


def run_command(recording: Recording) -> str:
    """The command that made the run."""
    path = recording.folder / "env.json"
    try:
        return str(json.loads(path.read_bytes())["command"])
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"{path} is corrupt or missing ({type(error).__name__}): {_HOW} again") from error


def reports(recording: Recording, round: int) -> list[Report]:
    """What the clients sent in a round, as decoded from the bytes that travelled; silent clients are absent."""
    out = []
    for client in range(len(recording.federation.clients)):
        path = report_file(recording.folder / KNOWLEDGE, round, client)
        if path.is_file():
            out.append(_decoded(path, wire.decode_report))
    return out


def teacher_after(recording: Recording, round: int) -> Knowledge:
    """The teacher that the reports of a round gave, as every client was sent it."""
    return _decoded(round_folder(recording.folder / KNOWLEDGE, round + 1) / TEACHER, wire.decode)


def parameters(recording: Recording, name: str, client: int) -> dict[str, np.ndarray]:
    """A client's model: of "final", or of a round in four digits."""
    path = model_file(recording.folder / KNOWLEDGE, name, client)
    return _decoded(path, _unpacked)


def _unpacked(blob: bytes) -> dict[str, np.ndarray]:
    with np.load(io.BytesIO(blob), allow_pickle=False) as z:
        return {k: z[k] for k in z.files}


def _decoded(path: Path, decode: Callable[[bytes], Found]) -> Found:
    try:
        return decode(path.read_bytes())
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"{path} is corrupt or missing ({reason}): {_HOW} again") from error
