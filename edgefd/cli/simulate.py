"""Commands that simulate a federation, or compute its features without a run."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgefd.cli.common import ConfigFile, Out, Overrides, console, require_simulation
from edgefd.cli.report import Metrics, MetricsChoice, print_comparison
from edgefd.config.load import load_config
from edgefd.core.errors import UserError
from edgefd.core.host import cores

if TYPE_CHECKING:
    from edgefd.simulation.sweep import Cell


class Engine(StrEnum):
    """Place where the clients of a simulation run."""

    local = "local"
    ray = "ray"


def simulate(
    config: ConfigFile,
    overrides: Overrides = None,
    out: Out = None,
    engine: Annotated[
        Engine,
        typer.Option("--engine", help="local: the cores of this machine; ray: Flower on Ray, here or at RAY_ADDRESS"),
    ] = Engine.local,
) -> None:
    """Simulate a federation on this machine or on a Ray cluster.

    Example: edgefd simulate simulations/quickstart.yaml seed=1 --out runs/first
    """
    loaded = load_config(config, overrides or [])  # first: a bad config is refused before torch is imported
    require_simulation()
    from edgefd.simulation.progress import results_table
    from edgefd.simulation.run import simulate_config

    run = simulate_config(loaded, out, engine.value, console=console)
    summaries = [run.summary, *(baseline.summary for baseline in run.baselines.values())]
    console.print(results_table(summaries))
    for summary in summaries:
        if summary["training_warning"]:
            console.print(f"warning: {summary['method']}: {summary['training_warning']}", soft_wrap=True)
    console.print(f"run folder: {run.folder}")


def sweep(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="a sweep file with base: and grid:")],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(metavar="[KEY=VALUE]...", help="replace values of the grid, such as 'seed=[0, 1]', or of base"),
    ] = None,
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="the folder of all run folders")] = Path(
        "runs/sweep"
    ),
    jobs: Annotated[
        int | None, typer.Option("--jobs", min=1, help="runs at the same time (default: one for each core)")
    ] = None,
    metrics: MetricsChoice = Metrics.accuracy,
) -> None:
    """Run a grid of methods, data sets, splits and seeds. Repeat the command to resume a stopped sweep.

    Example: edgefd sweep simulations/sweeps/mini.yaml 'seed=[0]' --out runs/mini
    """
    require_simulation()
    from edgefd.report.compare import load_runs
    from edgefd.simulation.sweep import load_sweep, run_sweep

    cells = load_sweep(file, overrides or [])
    n_finished = 0

    def log_outcome(cell: Cell, outcome: str) -> None:
        nonlocal n_finished
        n_finished += 1
        print(f"{n_finished}/{len(cells)} {cell.name}: {outcome}", flush=True)

    folders = run_sweep(cells, out, jobs or cores(), log_outcome)
    print_comparison(load_runs(folders), metrics)


def features(config: ConfigFile, overrides: Overrides = None) -> None:
    """Compute the features of data.extractor now and cache them, so that every run on these data reuses them.

    Example: edgefd features simulations/quickstart.yaml data.name=cifar10 data.extractor=efficientnet_lite2
    """
    loaded = load_config(config, overrides or [])
    if loaded.data.extractor is None:
        raise UserError("this config has no data.extractor: set it to efficientnet_lite2 or the path of an .onnx file")
    require_simulation()
    from edgefd.data.cache import cache_folder
    from edgefd.runs.load_data import load_data

    d = load_data(loaded)
    console.print(f"{d.name}: {len(d.x_train)} + {len(d.x_test)} samples of {d.x_train.shape[1]} features")
    console.print(f"cached in {cache_folder('features')}", soft_wrap=True)
