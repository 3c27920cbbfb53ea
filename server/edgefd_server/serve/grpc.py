"""Serve a whole run over the device link, into a run folder. The process may be killed at any moment and resumed.

This process holds no model and needs no torch.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from edgefd.config.schema import Config
from edgefd.core.errors import UserError
from edgefd.runs.prepare import prepare, terms_of
from edgefd_server.coordinator.checkpoint import exclusive_lock, load_checkpoint
from edgefd_server.coordinator.resume import check_deployable, create_checkpoint, load_for_resume
from edgefd_server.serve.bundles import check_bundles
from edgefd_server.serve.coordinator import serve_coordinator
from edgefd_server.serve.options import ServeOptions
from edgefd_server.serve.run_folder import new_folder


def serve_link(
    config: Config, options: ServeOptions, out: Path | None, resume: bool = False
) -> tuple[Path, dict[str, Any]]:
    """Coordinate the config's clients over the device link, and return the run folder and the summary.

    Args:
        config: of the run.
        options: for serving it.
        out: the run folder; None = a new one in runs.
        resume: continue from the checkpoint in `out`; if there is none, begin a new run.

    Raises:
        UserError: if devices cannot run the config, the bundles do not belong to it, or the port cannot be opened.
        RunError: if a round does not get its reports in time. The devices receive the reason.
    """
    check_deployable(config)
    if resume and out is None:
        raise UserError("--resume with --listen needs --out: give the folder of the run to resume")
    prepared = prepare(config, trains=False)
    check_bundles(config, options.bundles, terms_of(config, prepared.federation))
    resuming = resume and out is not None and load_checkpoint(out) is not None
    folder = out if resuming and out is not None else new_folder(config, out, resume)
    with exclusive_lock(folder):
        saved = load_for_resume(config, folder) if resuming else create_checkpoint(config, folder, folder)
        return folder, serve_coordinator(prepared, options, folder, saved, resuming)
