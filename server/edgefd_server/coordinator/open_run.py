"""The beginning of every served run: its checks, its run folder, the lock, and a checkpoint that is new or resumed."""

from __future__ import annotations

import secrets
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from edgefd.config.schema import Config
from edgefd.core.errors import UserError
from edgefd.runs.folder import run_folder
from edgefd.wire.exchange_folder import FEDERATION
from edgefd_server.coordinator.checkpoint import (
    CHECKPOINT,
    LOCK,
    Checkpoint,
    config_digest,
    exclusive_lock,
    load_checkpoint,
    save_checkpoint,
)
from edgefd_server.coordinator.served_run import ServedRun, read_served_run


@dataclass(frozen=True)
class RunRequest:
    """A run to serve."""

    config: Config
    bundles: Sequence[Path]
    """one folder for each of the config's models, in order"""
    proxy_labels: Path | None = None
    """npz file with the labels `y` of the proxy samples; None = no labels"""
    out: Path | None = None
    """the run folder; None = a new one in runs"""
    resume: bool = False
    """continue from the checkpoint, if there is one"""


@dataclass(frozen=True, eq=False)
class OpenRun:
    """A run that is ready to be coordinated; its checkpoint is locked by the caller."""

    served: ServedRun
    folder: Path
    """the run folder"""
    home: Path
    """folder of the checkpoint"""
    saved: Checkpoint
    resuming: bool
    """whether clients may have received messages of the run before"""


@contextmanager
def open_run(request: RunRequest, exchange: Path | None = None) -> Iterator[OpenRun]:
    """Open a run, new or resumed, and keep other coordinators out of it while the context lasts.

    A `UserError` before the first round of a new run, raised here or within the context, leaves nothing behind.

    Args:
        request: the run.
        exchange: the exchange folder, which then holds the checkpoint; None = the run folder holds it.

    Raises:
        UserError: if devices cannot run the config, the bundles do not belong to it, the folder belongs to another run
            or config, or another coordinator uses it.
    """
    served = read_served_run(request.config, request.bundles, request.proxy_labels)
    place = request.out if exchange is None else exchange
    if request.resume and place is None:
        raise UserError("--resume needs --out: give the folder of the run to resume")
    resuming = request.resume and place is not None and load_checkpoint(place, served.expected_teacher) is not None
    with ExitStack() as stack:
        if resuming and place is not None:
            stack.enter_context(exclusive_lock(place))
            saved = load_for_resume(served, place)
            if request.out is not None and request.out.resolve() != Path(saved.out):
                raise UserError(f"the run in {place} has the run folder {saved.out}: remove --out")
            yield OpenRun(served, Path(saved.out), place, saved, True)
        else:
            check_unused(request, exchange)
            folder = run_folder(request.config, request.out, or_empty=request.resume)
            home = folder if exchange is None else exchange
            removed = _undone_if_refused(folder, partial(shutil.rmtree, folder))
            if exchange is not None:
                stack.enter_context(removed)
            cleared = _undone_if_refused(folder, partial(_clear, home, home.exists()))
            stack.enter_context(exclusive_lock(home))
            check_unused(request, exchange)  # again, because another coordinator may have used it before the lock:
            stack.enter_context(removed if exchange is None else cleared)  # then nothing in it may be removed
            yield OpenRun(served, folder, home, create_checkpoint(request.config, home, folder), False)


def create_checkpoint(config: Config, home: Path, out: Path) -> Checkpoint:
    """Write the first checkpoint of a run with run folder `out` in `home`, before anything is sent to clients."""
    saved = Checkpoint(secrets.token_hex(6), config_digest(config), str(out.resolve()))
    save_checkpoint(home, saved)
    return saved


def load_for_resume(served: ServedRun, home: Path) -> Checkpoint:
    """Return the checkpoint in `home`, of a run with the config of `served`.

    Raises:
        UserError: if there is none, or it is of another config.
    """
    saved = load_checkpoint(home, served.expected_teacher)
    if saved is None:
        raise UserError(f"the checkpoint in {home} was removed")
    if saved.config != config_digest(served.config):
        raise UserError(f"the run in {home} is of another config: resume it with {saved.out}/config.yaml")
    return saved


def check_unused(request: RunRequest, exchange: Path | None) -> None:
    """Check that the folder of a new run holds no other run.

    Raises:
        UserError: if it does.
    """
    if exchange is not None and any((exchange / name).exists() for name in (FEDERATION, "rounds", CHECKPOINT)):
        raise UserError(
            f"{exchange} already holds an exchange: choose another folder, remove it, or continue it with --resume"
        )
    if request.out is not None and (request.out / CHECKPOINT).exists():
        raise UserError(
            f"{request.out} already holds a run: choose another folder, remove it, or continue it with --resume"
        )


@contextmanager
def _undone_if_refused(folder: Path, undo: Callable[[], None]) -> Iterator[None]:
    """Undo what this coordinator has written if a `UserError` comes before the run has begun to write its folder."""
    try:
        yield
    except UserError:
        if not (folder / "config.yaml").exists():
            undo()
        raise


def _clear(home: Path, existed: bool) -> None:
    for name in (CHECKPOINT, LOCK, FEDERATION):
        (home / name).unlink(missing_ok=True)
    if not existed:
        home.rmdir()
