"""A coordinator's checkpoint: the run's id, the metrics of the completed rounds, and the last teacher.

The checkpoint is one file, checkpoint.bin in the run folder, where no device can write. It names no path: a coordinator
that resumes writes only where its own command line says. It is written after every round, before anything of the next
round is sent, so that everything that devices have seen follows from it. The file holds a magic number, the sha256 of
the rest, a line of JSON (with the arrays that a method keeps at the server) and the bytes of the teacher. Where the
selection of rows depends on the server's labels of all rows, their bytes follow.
"""

from __future__ import annotations

import hashlib
import json
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from edgefd.config.schema import Config
from edgefd.core import files
from edgefd.core.errors import RunError, UserError
from edgefd.core.files import get, os_errors, put
from edgefd.core.json_files import parse_json
from edgefd.federation.progress import Progress
from edgefd.runs.round_metrics import RoundMetrics
from edgefd.selection import SelectionState
from edgefd.wire import messages as wire
from edgefd.wire.expected import Expected

CHECKPOINT, LOCK = "checkpoint.bin", ".lock"
_MAGIC = b"EDGEFD-COORDINATOR\x01"
_MAX_BYTES = 2**30
_CODEC = "float32"  # of teacher and labels, so that a resumed run continues with the same bits


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """State of a coordinator between two rounds."""

    run: str
    """id of the run, which the devices' states hold too"""
    config: str
    """digest of the config"""
    metrics: tuple[RoundMetrics, ...] = ()
    """metrics of the completed rounds, from round 0 on"""
    progress: Progress = field(default_factory=Progress)
    """state of the rounds after the last completed one"""

    @property
    def next_round(self) -> int:
        """Number of the first round that is not completed."""
        return self.progress.next_round


def config_digest(config: Config) -> str:
    """Return a digest of all settings that change a run. The number of worker processes changes nothing."""
    settings = config.to_dict()
    del settings["run"]["workers"]
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()


def save_checkpoint(folder: Path, saved: Checkpoint) -> None:
    """Write the checkpoint in the run folder; it is on the disk when the function returns.

    Raises:
        RunError: if it cannot be written (a full disk); the previous checkpoint stays intact.
    """
    progress = saved.progress
    teacher = b"" if progress.teacher is None else wire.encode(progress.teacher, _CODEC)
    metrics = [vars(each) for each in saved.metrics]
    head: dict[str, Any] = {"run": saved.run, "config": saved.config, "metrics": metrics}
    known = b""
    if progress.selection_state is not None:
        known = wire.encode(progress.selection_state.known, _CODEC)
        head |= {"teacher_bytes": len(teacher), "lag": progress.selection_state.lag.tolist()}
    if progress.method_state:
        head["method_state"] = {name: values.tolist() for name, values in progress.method_state.items()}
    body = json.dumps(head).encode() + b"\n" + teacher + known
    with os_errors(f"write the checkpoint in {folder}", RunError):
        put(folder / CHECKPOINT, _MAGIC + hashlib.sha256(body).digest() + body)


def load_checkpoint(folder: Path, teacher: Expected) -> Checkpoint | None:
    """Return the checkpoint in a run folder; None if there is none.

    Args:
        folder: the run folder.
        teacher: what the clients of the run expect of a teacher.

    Raises:
        UserError: if the file is damaged or is not a checkpoint of such a run.
    """
    path = folder / CHECKPOINT
    try:
        blob = get(path, _MAX_BYTES)
        return None if blob is None else _decode(blob, replace(teacher, codec=_CODEC))
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} is not a coordinator's checkpoint: {error}") from error


def exclusive_lock(folder: Path) -> AbstractContextManager[None]:
    """Keep other coordinators out of the folder while the context lasts. The lock ends with the process.

    Raises:
        InUse: if another coordinator uses the folder.
        UserError: if the folder cannot be written.
    """
    return files.exclusive_lock(folder / LOCK, f"another server is at work in {folder}", f"cannot write {folder}")


def _decode(blob: bytes, expected: Expected) -> Checkpoint:
    start = len(_MAGIC) + 32
    if blob[: len(_MAGIC)] != _MAGIC:
        raise ValueError("its first bytes are not those of a checkpoint")
    body = blob[start:]
    if hashlib.sha256(body).digest() != blob[len(_MAGIC) : start]:
        raise ValueError("its checksum is wrong")
    head, _, rest = body.partition(b"\n")
    fields = parse_json(head)
    teacher, selection_state = rest, None
    if "lag" in fields:
        teacher, known = rest[: fields["teacher_bytes"]], rest[fields["teacher_bytes"] :]
        lag = np.array(fields["lag"], np.float32)
        if lag.shape != (expected.widths[0],) or not np.isfinite(lag).all():
            raise ValueError("lag must hold one finite number for each class")
        selection_state = SelectionState(wire.decode(known, expected), lag)
    method_state = {str(name): np.array(values) for name, values in fields.get("method_state", {}).items()}
    last = wire.decode(teacher, expected) if teacher else None
    return Checkpoint(
        str(fields["run"]),
        str(fields["config"]),
        tuple(RoundMetrics(**metrics) for metrics in fields["metrics"]),
        Progress(len(fields["metrics"]), last, selection_state, method_state),
    )
