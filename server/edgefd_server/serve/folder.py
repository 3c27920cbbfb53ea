"""Serve a whole run through an exchange folder. The process may be killed at any moment and resumed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from edgefd.config.schema import Config
from edgefd.core.errors import UserError
from edgefd.federation.terms import FederationInfo
from edgefd.runs.folder import run_folder
from edgefd.runs.prepare import PreparedRun, prepare, terms_of
from edgefd_server.coordinator.checkpoint import Checkpoint, exclusive_lock, load_checkpoint
from edgefd_server.coordinator.resume import (
    check_deployable,
    completed_rounds,
    coordinate,
    create_checkpoint,
    load_for_resume,
    print_rounds,
)
from edgefd_server.folder_link.transport import check_new, open_folder
from edgefd_server.monitoring.fleet import FolderFleet
from edgefd_server.monitoring.status import StatusBoard, about
from edgefd_server.monitoring.status_server import status_server


def serve(
    config: Config,
    exchange: Path,
    timeout: float,
    out: Path | None,
    resume: bool = False,
    status: str | None = None,
) -> tuple[Path, dict[str, Any]]:
    """Coordinate the config's clients through an exchange folder, and return the run folder and the summary.

    Args:
        config: of the run.
        exchange: the folder that the devices see.
        timeout: seconds that a round may take.
        out: the run folder; None = a new one in runs.
        resume: continue from the checkpoint in `exchange`; if there is none, begin a new run.
        status: [HOST:]PORT of the status page; None = no page.

    Raises:
        UserError: if devices cannot run the config, or the exchange folder belongs to another run.
        RunError: if a round does not get its reports in `timeout` seconds. The devices receive the reason.
    """
    check_deployable(config)
    prepared = prepare(config)
    resuming = resume and load_checkpoint(exchange) is not None
    if not resuming:
        check_new(exchange)
    board = StatusBoard(about(prepared), FolderFleet(config, len(prepared.federation.clients), exchange).snapshot)
    with status_server(board, status):
        if not resuming:  # after the status page is open: a refused run leaves no folder
            out = run_folder(config, out, or_empty=resume)
        with exclusive_lock(exchange):
            if resuming or out is None:
                saved = load_for_resume(config, exchange)
                _check_out(exchange, saved, out)
            else:
                check_new(exchange)
                saved = create_checkpoint(config, exchange, out)
            return Path(saved.out), _serve(prepared, exchange, timeout, saved, board)


def _check_out(exchange: Path, saved: Checkpoint, out: Path | None) -> None:
    if out is not None and out.resolve() != Path(saved.out):
        raise UserError(f"the run in {exchange} has the run folder {saved.out}: remove --out")


def _serve(
    prepared: PreparedRun, exchange: Path, timeout: float, saved: Checkpoint, board: StatusBoard
) -> dict[str, Any]:
    config, federation = prepared.config, prepared.federation
    info = FederationInfo(saved.run, len(federation.clients), terms_of(config, federation))
    transport = open_folder(exchange, info, timeout, config.coordinator)
    where = f", from round {saved.next_round}" if saved.metrics else ""
    print(f"waiting for {info.n_clients} clients in {exchange}{where}", flush=True)
    out = Path(saved.out)
    board.begin(out.name, completed_rounds(saved))
    return coordinate(prepared, transport, exchange, out, saved, board.watching(print_rounds))
