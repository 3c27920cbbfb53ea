"""Commands that simulate a federation, or inspect its config and data without a run."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from edgefd.cli.common import ConfigFile, Out, Overrides, console
from edgefd.config.load import load_config
from edgefd.core.errors import UserError
from edgefd.core.host import cores

if TYPE_CHECKING:
    from edgefd.simulation.sweep import Cell


class Engine(StrEnum):
    """Where the clients of a simulation run."""

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
    from edgefd.simulation.progress import results_table
    from edgefd.simulation.run import simulate_config

    run = simulate_config(loaded, out, engine.value, console=console)
    console.print(results_table([run.summary, *(baseline.summary for baseline in run.baselines.values())]))
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
) -> None:
    """Run a grid of methods, data sets, splits and seeds. Repeat the command to resume a stopped sweep.

    Example: edgefd sweep simulations/sweeps/mini.yaml 'seed=[0]' --out runs/mini
    """
    from edgefd.report.compare import compare, load_runs
    from edgefd.simulation.progress import comparison_tables
    from edgefd.simulation.sweep import load_sweep, run_sweep

    cells = load_sweep(file, overrides or [])
    n_finished = 0

    def log_outcome(cell: Cell, outcome: str) -> None:
        nonlocal n_finished
        n_finished += 1
        print(f"{n_finished}/{len(cells)} {cell.name}: {outcome}", flush=True)

    folders = run_sweep(cells, out, jobs or cores(), log_outcome)
    console.print(*comparison_tables(compare(load_runs(folders))))


def check(config: ConfigFile, overrides: Overrides = None) -> None:
    """Validate a config and its data and print the config with every default. Nothing is written.

    Example: edgefd check simulations/quickstart.yaml train.rounds=5
    """
    import yaml

    from edgefd.runs.prepare import prepare

    loaded = load_config(config, overrides or [])
    prepared = prepare(loaded)
    print(yaml.safe_dump(loaded.to_dict(), sort_keys=False), end="")
    d, f = prepared.dataset, prepared.federation
    print(f"# {d.name} from {d.source}: {len(d.x_train)} + {len(d.x_test)} samples, sha256 {d.sha256}")
    print(f"# {len(f.clients)} clients, {len(f.proxy)} proxy samples, {f.raw_samples_disclosed} raw samples disclosed")


def partition(
    config: ConfigFile,
    overrides: Overrides = None,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="DIR", help="a new folder to write each client's data to")
    ] = None,
) -> None:
    """Print how many samples of each class each client holds. With --out, write client-000.npz and so on for devices.

    Example: edgefd partition simulations/quickstart.yaml partition.name=dirichlet partition.alpha=0.1
    """
    from edgefd.runs.prepare import prepare
    from edgefd.simulation.client_files import export_client_data

    prepared = prepare(load_config(config, overrides or []))
    federation = prepared.federation
    classes = [str(c) for c in range(federation.n_classes)]
    table = Table("client", *classes, "train", "held", "shared", title=prepared.dataset.name)
    for data in federation.clients:
        counts = [str(n) if n else "·" for n in federation.table[data.client]]
        table.add_row(str(data.client), *counts, str(len(data.x)), str(len(data.x_heldout)), str(len(data.contributed)))
    paths = export_client_data(prepared, out) if out is not None else []
    console.print(table)
    if paths:
        console.print(f"{len(paths)} files: {paths[0]} ... {paths[-1].name}")


def features(config: ConfigFile, overrides: Overrides = None) -> None:
    """Compute the features of data.extractor now and cache them, so that every run on these data reuses them.

    Example: edgefd features simulations/quickstart.yaml data.name=cifar10 data.extractor=efficientnet_lite2
    """
    loaded = load_config(config, overrides or [])
    if loaded.data.extractor is None:
        raise UserError("this config has no data.extractor: set it to efficientnet_lite2 or the path of an .onnx file")
    from edgefd.data.datasets import cache_folder
    from edgefd.runs.load_data import load_data

    d = load_data(loaded)
    console.print(f"{d.name}: {len(d.x_train)} + {len(d.x_test)} samples of {d.x_train.shape[1]} features")
    console.print(f"cached in {cache_folder('features')}", soft_wrap=True)
