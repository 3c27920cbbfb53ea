"""Flower ServerApp that coordinates a whole run. Its clients are the nodes of Flower's Grid.

The run config of `flwr run` has two keys: `config`, the path of a YAML file, and `out`, the run folder, which must not
exist (empty: runs/<id>). `edgefd serve flower` sets only the key `job`: see `edgefd_server.flower.job`.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from edgefd.config.load import load_config, with_paths
from edgefd.config.schema import Config
from edgefd.core.paths import user_path
from edgefd.core.yaml_files import dump_yaml
from edgefd.federation.clients import Federation
from edgefd.federation.terms import FederationInfo
from edgefd.rounds.participation import check_supported_over_flower
from edgefd.runs.callbacks import load_callbacks
from edgefd.runs.evaluate import evaluation_ranges
from edgefd.runs.execute import execute_run, simulate_rounds
from edgefd.runs.folder import run_folder
from edgefd.runs.prepare import prepare
from edgefd.runs.record import check_unrecorded
from edgefd.runs.round_metrics import RoundMetrics
from edgefd.runs.terms import terms_of
from edgefd_server.coordinator.round_coordinator import RoundCoordinator
from edgefd_server.flower.grid_driver import GridDriver, run_driver
from edgefd_server.monitoring.event_log import LOG, json_log, tee_log

app = ServerApp()

TIMEOUT = 600.0
"""longest duration of a round in seconds"""


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Coordinate the run that the run config describes, with the Grid's nodes as clients."""
    settings = context.run_config
    if settings["job"]:
        from edgefd_server.flower.job import run_job

        run_job(grid, Path(str(settings["job"])))
        return
    prepared = prepare(load_config(user_path(str(settings["config"]))))
    out = user_path(str(settings["out"])) if settings["out"] else None
    with (
        run_folder(prepared.config, out) as folder,
        over_grid(grid, prepared.config, prepared.federation, folder / LOG) as coordinator,
    ):
        execute_run(
            prepared.config,
            prepared.facts,
            folder,
            _print_rounds,
            lambda: simulate_rounds(coordinator, prepared.config, prepared.federation),
            callbacks=load_callbacks(prepared.config),
        )


@contextmanager
def over_grid(grid: Grid, config: Config, federation: Federation, log: Path | None) -> Iterator[RoundCoordinator]:
    """Open a coordinator whose clients are the nodes of a Grid. The nodes may be simulated.

    Args:
        grid: Grid of a Flower process.
        config: configuration of the run; every message holds it, because a simulated node may be a new process.
        federation: federation that the configuration describes.
        log: file to which events are appended; None = no file.

    Raises:
        UserError: if the configuration uses `coordinator.dropout` or `coordinator.lateness`, which only the local
            engine simulates, or `run.record_knowledge`.
    """
    check_supported_over_flower(config.coordinator)
    check_unrecorded(config, "over Flower")
    text = dump_yaml(with_paths(config, os.path.abspath).to_dict())  # nodes run in other folders
    info = FederationInfo(secrets.token_hex(6), len(federation.clients), terms_of(config, federation))

    measured = evaluation_ranges(federation.n_classes, len(federation.x_test))
    with ExitStack() as stack:
        write = tee_log() if log is None else stack.enter_context(json_log(log))
        coordinator = RoundCoordinator(info, TIMEOUT, write, config.coordinator, measured=measured)
        stack.enter_context(run_driver(GridDriver(coordinator, grid, config=text), poll=0.02))
        yield coordinator


def _print_rounds(rounds: Iterator[RoundMetrics]) -> Iterator[RoundMetrics]:
    for m in rounds:
        simulated = m.accuracy_mean  # on the test set; only a simulation has it
        accuracy = f"held-out accuracy {m.heldout_accuracy_mean}" if simulated is None else f"accuracy {simulated}"
        print(f"round {m.round}: {accuracy}, {m.seconds:.2f} s", flush=True)
        yield m
