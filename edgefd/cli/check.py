"""Commands that inspect the config and the data of a federation without a run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from edgefd.cli.common import ConfigFile, Overrides, console, require_simulation
from edgefd.config.load import load_config
from edgefd.core.yaml_files import dump_yaml


def check(
    config: ConfigFile,
    overrides: Overrides = None,
    explain: Annotated[
        bool, typer.Option("--explain", help="print each key with its value and its meaning instead; load no data")
    ] = False,
) -> None:
    """Validate a config and its data; print the config with every default, and describe the data. Write nothing.

    Example: edgefd check simulations/quickstart.yaml train.rounds=5
    """
    loaded = load_config(config, overrides or [])
    if explain:
        from edgefd.config.explain import explain as explained

        print("\n".join(explained(loaded)))
        return
    require_simulation()
    from edgefd.runs.callbacks import load_callbacks
    from edgefd.runs.describe_data import describe_data
    from edgefd.runs.prepare import prepare

    load_callbacks(loaded)
    prepared = prepare(loaded)
    print(dump_yaml(loaded.to_dict()), end="")
    print("\n".join(f"# {line}" for line in describe_data(prepared)))


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
    require_simulation()
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
