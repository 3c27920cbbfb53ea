"""A whole run over the device link, into a run folder; it can be killed at any moment and go on.

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
from edgefd_server.serve.coordinator import serve_desk
from edgefd_server.serve.options import ServeOptions
from edgefd_server.serve.run_folder import new_folder


def serve_link(
    config: Config, serving: ServeOptions, out: Path | None, resume: bool = False
) -> tuple[Path, dict[str, Any]]:
    """Coordinate the config's clients, who call: the run folder and its summary.

    With `resume`, go on where the checkpoint in the run folder `out` is; without a checkpoint, begin.

    Raises:
        UserError: if devices cannot run the config, the bundles are not its own, or it cannot listen there.
        RunError: if a round does not get its reports in time. The devices are told.
    """
    check_deployable(config)
    if resume and out is None:
        raise UserError("--resume over --listen needs --out: the run folder to go on in")
    prepared = prepare(config, trains=False)
    check_bundles(config, serving.bundles, terms_of(config, prepared.federation))
    resuming = resume and out is not None and load_checkpoint(out) is not None
    folder = out if resuming and out is not None else new_folder(config, out, resume)
    with exclusive_lock(folder):
        saved = load_for_resume(config, folder) if resuming else create_checkpoint(config, folder, folder)
        return folder, serve_desk(prepared, serving, folder, saved, resuming)
