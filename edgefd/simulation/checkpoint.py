"""Checkpoints of a simulation: the states of its clients, beside the checkpoint of its server.

    checkpoint.bin                    settings, metrics so far and state of the server (`edgefd.runs.checkpoint`)
    checkpoint/0007/client-003.npz    model and optimizer of client 3 after round 7, and the key of its noise
    checkpoint/0007/server.npz        model of the server, if it has one, and what clients have not sent yet: reports of
                                      round 7 that arrive late, or the tasks of the virtual clock; if only changes are
                                      sent, also what each client has published and holds

Each client's file is written by a worker. checkpoint.bin is written last, by an atomic rename, and names the round;
only then the files of the round before are removed. So a process that is killed at any moment leaves a whole
checkpoint. Acceptance weights are not saved, because the filter computes the same ones again.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from edgefd.config.schema import Config
from edgefd.core.errors import UserError
from edgefd.core.files import exclusive_lock, put, read, writing
from edgefd.core.knowledge import Knowledge
from edgefd.core.npz import npz_arrays, npz_bytes, with_prefix, without_prefix
from edgefd.core.yaml_files import read_yaml
from edgefd.federation.changes import published_of
from edgefd.federation.report import Report
from edgefd.learners.learner import Learner
from edgefd.rounds.loop import RoundResult
from edgefd.runs.checkpoint import (
    CHECKPOINT,
    LOCK,
    Checkpoint,
    check_same_settings,
    load_checkpoint,
    save_checkpoint,
    settings_text,
)
from edgefd.runs.execute import make_server
from edgefd.runs.folder import CONFIG, run_folder
from edgefd.runs.prepare import PreparedRun
from edgefd.runs.read import is_complete
from edgefd.runs.round_metrics import RoundMetrics
from edgefd.simulation.engine import InProcess, Resume, SimulationState, expected_teacher_of
from edgefd.simulation.virtual_clock import Task

FOLDER = "checkpoint"
_SHARE = 0.02  # of the time, for checkpoint_every=auto
_MAX_BYTES = 2**33  # of the state of one model
_LOCK_SECONDS = 10.0


@contextmanager
def open_folder(config: Config, out: Path | None, resume: bool) -> Iterator[Path]:
    """Yield the folder of a run: a new one, or that of a run that resumes.

    Args:
        config: of the run.
        out: the folder; None = a new one in runs.
        resume: continue the run in `out`, if it has begun.

    Raises:
        UserError: if a new run finds a folder that exists, or the run cannot be resumed with this config.
    """
    if not resume or out is None or not (out / CONFIG).exists():
        with run_folder(config, out, or_empty=resume) as folder:
            yield folder
        return
    if not (out / CHECKPOINT).exists():
        check_same_settings(settings_text(read_yaml(out / CONFIG)), config, out)
        if config.run.checkpoint_every == 0 and not is_complete(out):
            raise UserError(f"the run in {out} has no checkpoint, because run.checkpoint_every=0: start a new run")
    yield out


def locked(folder: Path) -> AbstractContextManager[None]:
    """Keep other processes out of a run folder while the context lasts.

    Workers of a process that was killed can hold the lock until they have finished the round of their client.

    Raises:
        InUse: if another process is at work in it.
    """
    in_use = f"another process is at work on the run in {folder}: wait until it ends, or stop it"
    return exclusive_lock(folder / LOCK, in_use, f"cannot write {folder}", _LOCK_SECONDS)


def checkpoint_of(prepared: PreparedRun, folder: Path) -> Checkpoint:
    """Return the checkpoint in a run folder, or the first one of a new run.

    Raises:
        UserError: if it is damaged, or of another config or other data.
    """
    config, federation = prepared.config, prepared.federation
    data = hashlib.sha256(f"{prepared.dataset.sha256} {federation.proxy.sha256}".encode()).hexdigest()

    def check(run: str, settings: str) -> None:
        check_same_settings(settings, config, folder)
        if run != data:
            raise UserError(f"the data of the run in {folder} have changed since it began: start a new run")

    saved = load_checkpoint(folder, expected_teacher_of(config, federation), check)
    settings = settings_text(config.to_dict())
    return Checkpoint(data, settings) if saved is None else replace(saved, config=settings)


def restore(transport: InProcess, server: Learner | None, folder: Path, round: int) -> None:
    """Load the states of clients and server after a round into a transport whose filters have run.

    Raises:
        UserError: if a file is missing or damaged.
    """
    place = _place(folder, round)
    transport.pool.map(load_client, range(len(transport.state.clients)), place)
    arrays = _read(place / "server.npz")
    if server is not None:
        server.load_state(without_prefix("learner", arrays))
    reports = [
        Report(client, of, Knowledge(**without_prefix(f"late/{i}", arrays)), metrics, size)
        for i, (client, of, metrics, size) in enumerate(json.loads(str(arrays["late"])))
    ]
    if transport.clock is None:
        transport.late[:] = reports
    else:
        of_client = {report.client: report for report in reports}
        tasks = json.loads(str(arrays["tasks"]))
        transport.clock.restore({client: Task(ends, of_client.get(client)) for client, ends in tasks})
    for client, held in json.loads(str(arrays["held"])).items():
        transport.held[int(client)] = bytes.fromhex(held)
    for client in json.loads(str(arrays["published"])):
        transport.published[client] = published_of(without_prefix(f"published/{client}", arrays))


def save_client(state: SimulationState, client: int, place: Path) -> None:
    """Write the state of a client."""
    arrays = with_prefix("learner", state.clients[client].learner.state())
    arrays |= {"next_round": state.next_rounds[client : client + 1], "noise_key": state.noise_keys[client]}
    _write(place / f"client-{client:03d}.npz", arrays)


def load_client(state: SimulationState, client: int, place: Path) -> None:
    """Load the state of a client that `save_client` wrote."""
    arrays = _read(place / f"client-{client:03d}.npz")
    state.clients[client].learner.load_state(without_prefix("learner", arrays))
    state.next_rounds[client] = arrays["next_round"][0]
    state.noise_keys[client] = arrays["noise_key"]


def resuming(transport: InProcess, saved: Checkpoint, folder: Path) -> Resume:
    """Return how a run continues after a checkpoint; after the first checkpoint of a new run, it begins."""
    config = transport.state.config
    server = make_server(config, transport.state.federation)

    def restore_saved() -> None:
        if saved.metrics:
            restore(transport, server.learner, folder, saved.next_round - 1)

    writer = CheckpointWriter(folder, transport, server.learner, config.run.checkpoint_every, saved)
    return Resume(server, saved.progress, restore_saved, writer)


@dataclass(eq=False)
class CheckpointWriter:
    """Writer of the checkpoints of a run, which is called after each round."""

    folder: Path
    """the run folder"""
    transport: InProcess
    server: Learner | None
    """model of the server; None if it has none"""
    every: int | str
    """`run.checkpoint_every`"""
    saved: Checkpoint
    """state after the last completed round, whether it is written or not"""
    _not_before: float = 0.0

    def __call__(self, result: RoundResult, metrics: RoundMetrics) -> None:
        """Write a checkpoint if it is time for one. That of the closing round has no states of clients.

        Raises:
            RunError: if a file cannot be written; the checkpoint before it stays intact.
        """
        start, round = time.perf_counter(), result.plan.round
        self.saved = replace(self.saved, metrics=(*self.saved.metrics, metrics), progress=result.progress)
        if self.every == 0 or not (result.plan.closing or self._due(round, start)):
            return
        with writing(self.folder / FOLDER):
            if not result.plan.closing:
                self._write_states(_place(self.folder, round))
            save_checkpoint(self.folder, self.saved)
            for place in (self.folder / FOLDER).glob("*"):
                if result.plan.closing or place != _place(self.folder, round):
                    shutil.rmtree(place)
            if result.plan.closing and (self.folder / FOLDER).exists():
                (self.folder / FOLDER).rmdir()
        end = time.perf_counter()
        self._not_before = end + (end - start) / _SHARE

    def _due(self, round: int, now: float) -> bool:
        return now >= self._not_before if self.every == "auto" else (round + 1) % int(self.every) == 0

    def _write_states(self, place: Path) -> None:
        self.transport.pool.map(save_client, range(len(self.transport.state.clients)), place)
        tasks = {} if self.transport.clock is None else self.transport.clock.tasks
        late = [*self.transport.late, *(task.report for task in tasks.values() if task.report is not None)]
        arrays = {} if self.server is None else with_prefix("learner", self.server.state())
        for i, report in enumerate(late):
            arrays |= with_prefix(f"late/{i}", vars(report.knowledge))
        for client, sent in self.transport.published.items():
            arrays |= with_prefix(f"published/{client}", sent.to_arrays())
        lists = {
            "late": [(r.client, r.round, r.metrics, r.knowledge_bytes) for r in late],
            "held": {client: held.hex() for client, held in self.transport.held.items()},
            "published": list(self.transport.published),
            "tasks": [(client, task.ends) for client, task in tasks.items()],
        }
        texts = {name: np.array(json.dumps(values)) for name, values in lists.items()}
        _write(place / "server.npz", arrays | texts)


def _place(folder: Path, round: int) -> Path:
    return folder / FOLDER / f"{round:04d}"


def _write(path: Path, arrays: dict[str, Any]) -> None:
    with writing(path):
        put(path, npz_bytes(arrays, compressed=False))


def _read(path: Path) -> dict[str, Any]:
    blob = read(path, _MAX_BYTES)
    try:
        return npz_arrays(blob, _MAX_BYTES)
    except ValueError as error:
        raise UserError(f"{path} is damaged: {error}") from error
