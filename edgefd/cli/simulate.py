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
from edgefd.runs.folder import CONFIG

if TYPE_CHECKING:
    from edgefd.simulation.run_cells import Cell


class Engine(StrEnum):
    """Place where the clients of a simulation run."""

    local = "local"
    ray = "ray"


def simulate(
    config: Annotated[
        Path | None,
        typer.Argument(metavar="[CONFIG]", help="a YAML file, such as simulations/quickstart.yaml; not with --resume"),
    ] = None,
    overrides: Overrides = None,
    out: Out = None,
    resume: Annotated[
        Path | None,
        typer.Option("--resume", metavar="RUN", help="continue a run that was killed or stopped, to the same bits"),
    ] = None,
    engine: Annotated[
        Engine,
        typer.Option("--engine", help="local: the cores of this machine; ray: Flower on Ray, here or at RAY_ADDRESS"),
    ] = Engine.local,
) -> None:
    """Simulate a federation on this machine or on a Ray cluster.

    With --resume, CONFIG may be left out; if it is given and the run has not begun, the run begins in RUN.

    Example: edgefd simulate simulations/quickstart.yaml seed=1 --out runs/first
    """
    if resume is not None and out is not None:
        raise UserError("--resume names the run folder: remove --out")
    source, changes = _source(config, overrides or [], resume)
    loaded = load_config(source, changes)  # first: a bad config is refused before torch is imported
    require_simulation()
    from edgefd.simulation.progress import results_table
    from edgefd.simulation.run import simulate_config

    run = simulate_config(loaded, resume or out, engine.value, console=console, resume=resume is not None)
    summaries = [run.summary, *(baseline.summary for baseline in run.baselines.values())]
    console.print(results_table(summaries))
    for summary in summaries:
        if summary["training_warning"]:
            console.print(f"warning: {summary['method']}: {summary['training_warning']}", soft_wrap=True)
    console.print(f"run folder: {run.folder}")


def _source(config: Path | None, overrides: list[str], resume: Path | None) -> tuple[Path, list[str]]:
    """Return the config file and the overrides; with --resume, the config of the run is used if none is given.

    The first argument is then an override if it has the form key=value.
    """
    if resume is None:
        if config is None:
            raise UserError("give a CONFIG, such as simulations/quickstart.yaml, or --resume RUN")
        return config, overrides
    if config is not None and ("=" not in str(config) or config.exists()):
        return config, overrides
    if not (resume / CONFIG).exists():
        raise UserError(f"{resume} holds no run that has begun (no {CONFIG}): start it with `edgefd simulate CONFIG`")
    return resume / CONFIG, overrides if config is None else [str(config), *overrides]


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

    The same command in other terminals, or on other machines over a shared folder, takes a part of the runs.

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
