"""The beginning of every served run: its checks, its run folder, the lock, and a checkpoint that is new or resumed."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from edgefd.config.schema import Config
from edgefd.core.errors import InUse, UserError
from edgefd.core.files import SHARED, make_folder, os_errors, removed_on_error
from edgefd.rounds.participation import remembers
from edgefd.runs.checkpoint import (
    CHECKPOINT,
    LOCK,
    Checkpoint,
    check_memory,
    check_same_settings,
    exclusive_lock,
    load_checkpoint,
    save_checkpoint,
    settings_text,
)
from edgefd.runs.folder import run_folder
from edgefd.wire.exchange_folder import DONE, FEDERATION
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
    """continue from the checkpoint in `out`, if there is one"""


@dataclass(frozen=True, eq=False)
class OpenRun:
    """A run that is ready to be coordinated; its run folder is locked by the caller."""

    served: ServedRun
    folder: Path
    """the run folder, which holds the checkpoint"""
    saved: Checkpoint
    resuming: bool
    """whether clients may have received messages of the run before"""


@contextmanager
def open_run(request: RunRequest, exchange: Path | None = None) -> Iterator[OpenRun]:
    """Open a run, new or resumed, and keep other coordinators out of it while the context lasts.

    An error before the first round of a new run begins, raised here or within the context, leaves nothing behind.

    Args:
        request: the run.
        exchange: the exchange folder; None = the run has none.

    Raises:
        UserError: if devices cannot run the config, the bundles do not belong to it, the folder belongs to another run
            or config, or another coordinator uses it.
    """
    served = read_served_run(request.config, request.bundles, request.proxy_labels)
    if remembers(served.config.coordinator, served.config.method):
        check_memory(served.n_clients, served.expected_teacher)
    if request.resume and request.out is None:
        raise UserError("--resume needs --out: give the folder of the run to resume")
    with ExitStack() as stack:
        if request.resume and request.out is not None and os.path.lexists(request.out / CHECKPOINT):
            stack.enter_context(_locked(request.out, exchange))
            yield OpenRun(served, request.out, load_for_resume(served, request.out), True)
        else:
            check_unused(request, exchange)
            folder = stack.enter_context(_new_folders(request, exchange))
            yield OpenRun(served, folder, create_checkpoint(request.config, folder), False)


@contextmanager
def _new_folders(request: RunRequest, exchange: Path | None) -> Iterator[Path]:
    """Create and lock the run folder and the exchange folder, and yield the former.

    An error before the first round begins removes what was created, but nothing that another coordinator uses.
    """
    taken = False
    with ExitStack() as stack:
        parts = (CHECKPOINT, LOCK, "link.jsonl", "flower")
        folder = stack.enter_context(
            run_folder(request.config, request.out, request.resume, parts, lambda folder: taken or has_begun(folder))
        )
        if exchange is not None:
            files = (exchange / name for name in (LOCK, FEDERATION, DONE, "rounds"))
            stack.enter_context(removed_on_error(exchange, *files, unless=lambda: taken or has_begun(folder)))
        try:
            stack.enter_context(_locked(folder, exchange))
            check_unused(request, exchange)  # again, because another coordinator may have used it before the lock
        except InUse:
            taken = True
            raise
        yield folder


@contextmanager
def _locked(folder: Path, exchange: Path | None) -> Iterator[None]:
    """Lock the run folder and the exchange folder. The latter is created for all users, as far as the umask allows."""
    with ExitStack() as stack:
        stack.enter_context(exclusive_lock(folder))
        if exchange is not None:
            with os_errors(f"write {exchange}"):
                make_folder(exchange, SHARED)
            stack.enter_context(exclusive_lock(exchange))
        yield


def has_begun(folder: Path) -> bool:
    """Return whether the first round of a run has begun, so that clients may have received messages of it."""
    return (folder / "partition.json").exists()  # the last file that is written before the first round


def create_checkpoint(config: Config, folder: Path) -> Checkpoint:
    """Write the first checkpoint of a run in its folder, before anything is sent to clients."""
    saved = Checkpoint(secrets.token_hex(6), settings_text(config.to_dict()))
    save_checkpoint(folder, saved)
    return saved


def load_for_resume(served: ServedRun, folder: Path) -> Checkpoint:
    """Return the checkpoint in a run folder, of a run with the config of `served` but for the rules of participation.

    Raises:
        UserError: if there is none, or it is of another config.
    """
    saved = load_checkpoint(
        folder,
        served.expected_teacher,
        lambda _, settings: check_same_settings(settings, served.config, folder),
    )
    if saved is None:
        raise UserError(f"the checkpoint in {folder} was removed")
    return replace(saved, config=settings_text(served.config.to_dict()))


def check_unused(request: RunRequest, exchange: Path | None) -> None:
    """Check that the folders of a new run hold no other run.

    Raises:
        InUse: if they do.
    """
    if exchange is not None and any(os.path.lexists(exchange / name) for name in (FEDERATION, "rounds")):
        raise InUse(
            f"{exchange} already holds an exchange: choose another folder, remove it, or continue it with --resume and "
            "the --out of its run"
        )
    if request.out is not None and (request.out / CHECKPOINT).exists():
        raise InUse(
            f"{request.out} already holds a run: choose another folder, remove it, or continue it with --resume"
        )
