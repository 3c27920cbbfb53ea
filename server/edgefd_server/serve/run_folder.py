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
    """Create and return the run folder of a new run.

    Args:
        config: of the run.
        out: the folder; None = a new one in runs.
        resume: whether the folder may exist if it holds nothing but hidden files.

    Raises:
        UserError: if the folder holds another run.
    """
    if out is not None and not resume and (out / CHECKPOINT).exists():
        raise UserError(f"{out} already holds a run: choose another folder, remove it, or continue it with --resume")
    return run_folder(config, out, or_empty=resume)


@contextmanager
def remove_if_refused(folder: Path, resuming: bool) -> Iterator[None]:
    """Remove the run folder of a new run that cannot open its ports, such as that of the status page."""
    try:
        yield
    except UserError:
        if not (resuming or (folder / "config.yaml").exists()):
            for name in (CHECKPOINT, LOCK):
                (folder / name).unlink()
            folder.rmdir()
        raise
