"""Checkpoint of a run: its id, its settings, the metrics of the completed rounds, the last teacher and the memory.

The checkpoint is one file, checkpoint.bin in the run folder, where no device can write. It names no path: a coordinator
that resumes writes only where its own command line says. A coordinator writes it after every round, before anything of
the next round is sent, so that everything that devices have seen follows from it. A simulation writes it too, after the
states of its clients (`edgefd.simulation.checkpoint`).

The file holds a magic number, the version of the format, the sha256 of the rest, a line of JSON (with the sizes of the
parts that follow), and these parts: the teacher; the server's labels of all rows, where the selection of rows depends
on them; an npz of the arrays that a method keeps at the server; an npz of the knowledge that the server has published
and received, if only changes are sent; and for each client that the server remembers, its knowledge and the rounds of
its rows.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from edgefd.config.schema import Config
from edgefd.core import files
from edgefd.core.arrays import Float32
from edgefd.core.errors import RunError, UserError
from edgefd.core.files import get, os_errors, put
from edgefd.core.json_files import parse_json
from edgefd.core.knowledge import Knowledge
from edgefd.core.npz import npz_arrays, npz_bytes, with_prefix
from edgefd.federation.changes import Exchanged, published_of
from edgefd.federation.memory import Remembered
from edgefd.federation.progress import BestRound, Progress
from edgefd.runs.round_metrics import RoundMetrics
from edgefd.selection import SelectionState
from edgefd.wire import messages as wire
from edgefd.wire.expected import Expected

_LOG = logging.getLogger(__name__)

CHECKPOINT, LOCK = "checkpoint.bin", ".lock"
_MAGIC = b"EDGEFD-COORDINATOR"
_VERSION = b"\x04"
_MAX_BYTES = 2**30
_CODEC = "float32"  # of all knowledge, so that a resumed run continues with the same bits
_ROUND = "<i4"
_CHANGES_NOTHING = (
    "workers",
    "checkpoint_every",
    "trackers",
    "callbacks",
)  # settings of the section run that a resumed run may change
_RULES = "coordinator."  # the section that it may change too: the rules of participation


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """State of a run between two rounds."""

    run: str
    """id of the run, which the devices' states hold too; of a simulation, the digest of its data"""
    config: str
    """settings of the config with which the run began or was resumed last, as JSON, see `settings_text`"""
    metrics: tuple[RoundMetrics, ...] = ()
    """metrics of the completed rounds, from round 0 on"""
    progress: Progress = field(default_factory=Progress)
    """state of the rounds after the last completed one"""

    @property
    def next_round(self) -> int:
        """Number of the first round that is not completed."""
        return self.progress.next_round


def settings_text(sections: Mapping[str, Any]) -> str:
    """Return all settings of a config (`Config.to_dict`) that change a run, as JSON."""
    run = {name: value for name, value in sections["run"].items() if name not in _CHANGES_NOTHING}
    return json.dumps({**sections, "run": run}, sort_keys=True)


def check_same_settings(saved: str, config: Config, folder: Path) -> None:
    """Check that a run is resumed with the settings that it began with; the rules of participation may be others.

    The rules decide only which clients take part in the rounds to come. A log line names each one that has changed.

    Args:
        saved: `settings_text` of the run when it began.
        config: with which it is resumed.
        folder: the run folder.

    Raises:
        UserError: if a setting differs; the message names the first one with both values.
    """
    given = settings_text(config.to_dict())
    if saved == given:
        return
    before, now = (dict(_flat(json.loads(text))) for text in (saved, given))
    texts = {
        key: f"{key} was {before.get(key, 'not set')!r}, and is {now.get(key, 'not set')!r}"
        for key in {**before, **now}
        if before.get(key) != now.get(key)
    }
    for key, text in texts.items():
        if not key.startswith(_RULES):
            raise UserError(f"the run in {folder} is of another config: {text}: set it back, or start a new run")
    for text in texts.values():
        _LOG.info("%s in the rounds to come", text)


def _flat(settings: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in settings.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


def save_checkpoint(folder: Path, saved: Checkpoint) -> None:
    """Write the checkpoint in the run folder; it is on the disk when the function returns.

    Raises:
        RunError: if it cannot be written (a full disk); the previous checkpoint stays intact.
    """
    progress, state = saved.progress, saved.progress.selection_state
    clients = sorted(progress.memory)
    known = None if state is None else state.known
    parts = [b"" if k is None else wire.encode(k, _CODEC) for k in (progress.teacher, known)]
    arrays = with_prefix("state", progress.method_state)
    parts += [
        npz_bytes(each, compressed=False) if each else b"" for each in (arrays, _exchanged_arrays(progress.exchanged))
    ]
    for remembered in (progress.memory[client] for client in clients):
        parts += [wire.encode(remembered.knowledge, _CODEC), remembered.rounds.astype(_ROUND).tobytes()]
    head = {
        "run": saved.run,
        "config": saved.config,
        "metrics": [vars(each) for each in saved.metrics],
        "lag": None if state is None else state.lag.tolist(),
        "clients": clients,
        "received": sorted(progress.exchanged.reports),
        "best": None if progress.best is None else vars(progress.best),
        "sizes": [len(part) for part in parts],
    }
    body = b"".join([json.dumps(head).encode(), b"\n", *parts])
    if len(body) > _MAX_BYTES - 2**10:
        raise RunError(f"the server's state needs {len(body) / 2**20:.0f} MiB, more than a checkpoint can hold")
    with os_errors(f"write the checkpoint in {folder}", RunError):
        put(folder / CHECKPOINT, _MAGIC + _VERSION + hashlib.sha256(body).digest() + body)


def load_checkpoint(
    folder: Path, teacher: Expected, check: Callable[[str, str], None] = lambda *_: None
) -> Checkpoint | None:
    """Return the checkpoint in a run folder; None if there is none.

    Args:
        folder: the run folder.
        teacher: what the clients of the run expect of a teacher.
        check: called with `run` and `config` of the checkpoint before the rest is decoded; raises a UserError if they
            are wrong.

    Raises:
        UserError: if the file is damaged or is not a checkpoint of such a run.
    """
    path = folder / CHECKPOINT
    try:
        blob = get(path, _MAX_BYTES)
        return None if blob is None else _decode(blob, replace(teacher, codec=_CODEC), check)
    except UserError:
        raise
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
        raise UserError(
            f"{path} is not a checkpoint of this run: {error}; start a new run if you have no copy"
        ) from error


def exclusive_lock(folder: Path) -> AbstractContextManager[None]:
    """Keep other coordinators out of the folder while the context lasts. The lock ends with the process.

    Raises:
        InUse: if another coordinator uses the folder.
        UserError: if the folder cannot be written.
    """
    return files.exclusive_lock(folder / LOCK, f"another server is at work in {folder}", f"cannot write {folder}")


def check_memory(n_clients: int, teacher: Expected) -> None:
    """Check that a checkpoint can hold the memory of a server.

    Args:
        n_clients: number of clients of the federation.
        teacher: the form of a teacher that clients expect; the server remembers rows of this form for each client.

    Raises:
        UserError: if the memory can become too large.
    """
    largest = n_clients * (replace(teacher, codec=_CODEC).largest + 4 * len(teacher.ids))
    if largest > _MAX_BYTES // 2:
        raise UserError(
            f"the server would remember up to {largest / 2**20:.0f} MiB of soft labels of {n_clients} clients, but a "
            f"checkpoint holds {_MAX_BYTES // 2**21} MiB of them: set coordinator.memory_discount=0, or use fewer "
            "proxy samples"
        )


def _decode(blob: bytes, expected: Expected, check: Callable[[str, str], None]) -> Checkpoint:
    version, start = len(_MAGIC), len(_MAGIC) + len(_VERSION)
    if blob[:version] != _MAGIC:
        raise ValueError("its first bytes are not those of a checkpoint")
    if blob[version:start] != _VERSION:
        raise ValueError("another version of edgefd wrote it: continue the run with that version, or start a new run")
    body = blob[start + 32 :]
    if hashlib.sha256(body).digest() != blob[start : start + 32]:
        raise ValueError("its checksum is wrong")
    head, _, rest = body.partition(b"\n")
    fields = parse_json(head)
    check(str(fields["run"]), str(fields["config"]))
    teacher, known, arrays, exchanged, *remembered = _parts(rest, fields["sizes"])
    metrics = tuple(RoundMetrics(**metrics) for metrics in fields["metrics"])
    next_round = len(metrics)
    progress = Progress(
        next_round,
        wire.decode(teacher, expected) if teacher else None,
        None if fields["lag"] is None else SelectionState(wire.decode(known, expected), _lag(fields["lag"], expected)),
        _memory(fields["clients"], remembered, expected, next_round),
        _method_state(arrays),
        None if fields["best"] is None else BestRound(**fields["best"]),
        bool(metrics) and metrics[-1].closing,
        _exchanged(exchanged, fields["received"], expected),
    )
    return Checkpoint(str(fields["run"]), str(fields["config"]), metrics, progress)


def _parts(rest: bytes, sizes: Sequence[int]) -> list[bytes]:
    ends = np.cumsum(sizes).tolist()
    if len(rest) != sum(sizes):
        raise ValueError("it has another size than its first line says")
    return [rest[end - size : end] for end, size in zip(ends, sizes, strict=True)]


def _lag(values: Sequence[float], expected: Expected) -> Float32:
    lag = np.array(values, np.float32)
    if lag.shape != (expected.widths[0],) or not np.isfinite(lag).all():
        raise ValueError("lag must hold one finite number for each class")
    return lag


def _method_state(blob: bytes) -> dict[str, np.ndarray]:
    stored = npz_arrays(blob, _MAX_BYTES) if blob else {}
    arrays = {name.removeprefix("state/"): values for name, values in stored.items()}
    for name, array in arrays.items():
        if array.dtype.kind not in "biuf":
            raise ValueError(f"{name} in the state of the method must hold numbers")
    return arrays


def _exchanged_arrays(exchanged: Exchanged) -> dict[str, np.ndarray]:
    arrays = {} if exchanged.teacher is None else with_prefix("teacher", exchanged.teacher.to_arrays())
    for client, knowledge in exchanged.reports.items():
        arrays |= with_prefix(str(client), vars(knowledge))
    return arrays


def _exchanged(blob: bytes, clients: Sequence[int], expected: Expected) -> Exchanged:
    parts: dict[str, dict[str, np.ndarray]] = {}
    for name, values in (npz_arrays(blob, _MAX_BYTES) if blob else {}).items():
        prefix, _, field = name.partition("/")
        parts.setdefault(prefix, {})[field] = values
    teacher = published_of(parts["teacher"]) if "teacher" in parts else None
    reports = {int(client): Knowledge(**parts[str(client)]) for client in clients}
    for knowledge in [*reports.values(), *([] if teacher is None else [teacher.knowledge])]:
        expected.check_shape(len(knowledge), knowledge.width)
        expected.check_ids(knowledge.ids)
    return Exchanged(teacher, reports)


def _memory(
    clients: Sequence[int], parts: Sequence[bytes], expected: Expected, next_round: int
) -> dict[int, Remembered]:
    memory: dict[int, Remembered] = {}
    for client, knowledge, rounds in zip(clients, parts[::2], parts[1::2], strict=True):
        remembered = Remembered(wire.decode(knowledge, expected), np.frombuffer(rounds, _ROUND).astype(np.int64))
        if len(remembered.rounds) != len(remembered.knowledge):
            raise ValueError(f"the memory of client {client} has not one round for each row")
        if not ((remembered.rounds >= 0) & (remembered.rounds < next_round)).all():
            raise ValueError(f"the memory of client {client} is of rounds that the run has not had")
        if int(client) < 0 or int(client) in memory:
            raise ValueError("clients must hold different numbers of at least 0")
        memory[int(client)] = remembered
    return memory
