"""What a coordinator must not lose: which run it is, the metrics of the rounds that are done, the last teacher.

One file, checkpoint.bin, in the exchange folder, or in the run folder of a run over the device link. It is written
after every round and before anything of the next one goes out: so whatever devices have seen follows from it. File:
magic, sha256 of the rest, a line of JSON, the bytes of the teacher and of what the server knows of all rows, where the
choice of rows depends on that.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edgefd.config.schema import Config
from edgefd.core.errors import RunError, UserError
from edgefd.core.files import get, put
from edgefd.core.knowledge import Knowledge
from edgefd.selection.query import SelectionState
from edgefd.wire import messages as wire

CHECKPOINT, LOCK = "checkpoint.bin", ".lock"
_MAGIC = b"EDGEFD-COORDINATOR\x01"
_LARGEST = 2**30


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """A coordinator between two rounds."""

    run: str
    """the run's id, which devices' states bear too"""
    config: str
    """digest of the config"""
    out: str
    """the run folder"""
    metrics: tuple[dict[str, Any], ...] = ()
    """of the rounds that are done, from 0 on"""
    teacher: Knowledge | None = None
    selection_state: SelectionState | None = None
    """what the choice of rows depends on, where it does"""

    @property
    def next_round(self) -> int:
        """The round that is to be done, or was being done."""
        return len(self.metrics)


def config_digest(config: Config) -> str:
    """Of all that changes a run; how many processes work on it does not."""
    settings = config.to_dict()
    del settings["run"]["workers"]
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()


def save_checkpoint(home: Path, saved: Checkpoint) -> None:
    """On disk when this returns.

    Raises:
        RunError: if it cannot be written (a full disk); the one before is intact.
    """
    teacher = b"" if saved.teacher is None else wire.encode(saved.teacher, "float32")
    head: dict[str, Any] = {"run": saved.run, "config": saved.config, "out": saved.out, "metrics": saved.metrics}
    known = b""
    if saved.selection_state is not None:
        known = wire.encode(saved.selection_state.known, "float32")
        head |= {"teacher_bytes": len(teacher), "lag": saved.selection_state.lag.tolist()}
    body = json.dumps(head).encode() + b"\n" + teacher + known
    try:
        put(home / CHECKPOINT, _MAGIC + hashlib.sha256(body).digest() + body)
    except OSError as error:
        raise RunError(f"cannot write the checkpoint in {home}: {error.strerror}") from error


def load_checkpoint(home: Path) -> Checkpoint | None:
    """The checkpoint of a run; None if there is none.

    Raises:
        UserError: if it is damaged or something else.
    """
    path = home / CHECKPOINT
    try:
        blob = get(path, _LARGEST)
        return None if blob is None else _decoded(blob)
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} is not a coordinator's checkpoint: {error}") from error


@contextmanager
def exclusive_lock(home: Path) -> Iterator[None]:
    """Keep any other coordinator from the folder; a process that is killed lets go.

    Raises:
        UserError: if one is at work there, or the folder cannot be written.
    """
    try:
        home.mkdir(parents=True, exist_ok=True)
        handle = os.open(home / LOCK, os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as error:
        raise UserError(f"cannot write {home}: {error.strerror}") from error
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(f"another server is at work in {home}") from None
        yield
    finally:
        os.close(handle)


def _decoded(blob: bytes) -> Checkpoint:
    start = len(_MAGIC) + 32
    if blob[: len(_MAGIC)] != _MAGIC:
        raise ValueError("it begins with something else")
    body = blob[start:]
    if hashlib.sha256(body).digest() != blob[len(_MAGIC) : start]:
        raise ValueError("its checksum is wrong")
    head, _, rest = body.partition(b"\n")
    fields = json.loads(head)
    teacher, selection_state = rest, None
    if "lag" in fields:
        teacher, known = rest[: fields["teacher_bytes"]], rest[fields["teacher_bytes"] :]
        selection_state = SelectionState(wire.decode(known), np.array(fields["lag"], np.float32))
    return Checkpoint(
        str(fields["run"]),
        str(fields["config"]),
        str(fields["out"]),
        tuple(fields["metrics"]),
        wire.decode(teacher) if teacher else None,
        selection_state,
    )
