"""The Flower ServerApp: a coordinator's whole run, its clients behind the Grid.

Run config, by hand: `config`, the path of a YAML file; `out`, the run folder, which must not exist (empty: runs/<id>).
`edgefd server --flower` gives `job` instead, and nothing else: see `edgefd_server.flower.job`.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import yaml
from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from edgefd.config.load import load_config
from edgefd.config.schema import Config
from edgefd.core.json_files import append_json_line
from edgefd.federation.clients import Federation
from edgefd.federation.terms import FederationInfo
from edgefd.rounds.participation import check_supported_over_flower
from edgefd.runs.execute import execute_run, simulate_rounds
from edgefd.runs.folder import run_folder
from edgefd.runs.prepare import prepare, terms_of
from edgefd.runs.record import check_unrecorded
from edgefd.runs.round_metrics import RoundMetrics
from edgefd_server.coordinator.round_coordinator import RoundCoordinator
from edgefd_server.flower.grid_driver import GridDriver, Nodes, run_driver

app = ServerApp()

TIMEOUT = 600.0
"""seconds that a round may take"""


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Run what the run config asks for, over the Grid's nodes."""
    settings = context.run_config
    if settings["job"]:
        from edgefd_server.flower.job import work

        work(grid, Path(str(settings["job"])))
        return
    prepared = prepare(load_config(Path(str(settings["config"]))))
    folder = run_folder(prepared.config, Path(str(settings["out"])) if settings["out"] else None)
    with over_grid(grid, prepared.config, prepared.federation, folder / "link.jsonl") as coordinator:
        execute_run(
            prepared, folder, _lines, lambda: simulate_rounds(coordinator, prepared.config, prepared.federation)
        )


@contextmanager
def over_grid(grid: Nodes, config: Config, federation: Federation, log: Path | None) -> Iterator[RoundCoordinator]:
    """A transport to the nodes of a Grid as the config's clients, simulated ones too.

    Args:
        grid: of a Flower process.
        config: of the run; it travels with every plan, as a simulated node may be a fresh process.
        federation: that the config describes.
        log: where to write what happens, if anywhere.

    Raises:
        UserError: for `coordinator.dropout`, which only the local engine plays; if it is to be recorded.
    """
    check_supported_over_flower(config.coordinator)
    check_unrecorded(config, "over Flower")
    text = yaml.safe_dump(config.to_dict(), sort_keys=False)
    info = FederationInfo(secrets.token_hex(6), len(federation.clients), terms_of(config, federation))

    def note(event: str, **fields: object) -> None:
        if log is not None:
            append_json_line(log, {"event": event, **fields})

    coordinator = RoundCoordinator(info, TIMEOUT, note, config.coordinator)
    with run_driver(GridDriver(coordinator, grid, config=text), poll=0.02):
        yield coordinator


def _lines(rounds: Iterator[RoundMetrics]) -> Iterator[RoundMetrics]:
    for m in rounds:
        here, there = m.accuracy_mean, m.heldout_accuracy_mean  # the first is a simulation's
        measured = f"held-out accuracy {there}" if here is None else f"accuracy {here}"
        print(f"round {m.round}: {measured}, {m.seconds:.2f} s", flush=True)
        yield m
