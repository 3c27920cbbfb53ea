"""The run folder of a coordinator."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from edgefd.config.schema import Config
from edgefd.core.errors import UserError
from edgefd.runs.folder import run_folder
from edgefd_server.coordinator.checkpoint import CHECKPOINT, LOCK


def new_folder(config: Config, out: Path | None, resume: bool) -> Path:
    """Of a run that begins.

    Raises:
        UserError: if it is another run's.
    """
    if out is not None and not resume and (out / CHECKPOINT).exists():
        raise UserError(f"{out} holds a run already: choose another folder, remove it, or go on with --resume")
    return run_folder(config, out, or_empty=resume)


@contextmanager
def remove_if_refused(folder: Path, resuming: bool) -> Iterator[None]:
    """A new run that cannot listen, or show what it does, leaves no run folder."""
    try:
        yield
    except UserError:
        if not (resuming or (folder / "config.yaml").exists()):
            for name in (CHECKPOINT, LOCK):
                (folder / name).unlink()
            folder.rmdir()
        raise
