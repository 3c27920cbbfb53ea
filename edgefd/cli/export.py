"""The command that exports a bundle for devices."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edgefd.cli.common import Overrides, console, require_simulation
from edgefd.config.load import load_config
from edgefd.core.errors import require


def export(
    config: Annotated[Path, typer.Argument(metavar="CONFIG|RUN", help="a YAML file, or a run folder")],
    out: Annotated[Path, typer.Option("--out", metavar="BUNDLE", help="the bundle folder, which must not exist")],
    overrides: Overrides = None,
    model: Annotated[
        str | None, typer.Option("--model", metavar="NAME", help="the model to export (default: the config's first)")
    ] = None,
    proxy_labels: Annotated[
        Path | None,
        typer.Option(
            "--proxy-labels", metavar="FILE", help="also write the labels of the proxy samples to this npz, for `serve`"
        ),
    ] = None,
) -> None:
    """Write the bundle that a device needs to train without torch: graphs, first parameters, proxy set, manifest.

    Example: edgefd export simulations/quickstart.yaml --model cnn_edge --out bundles/watch
    """
    require_simulation()
    require("export", "onnx", "onnxruntime")
    from edgefd.runs.export_bundle import export_config
    from edgefd.wire.bundle_reader import read_bundle

    path = config / "config.yaml" if config.is_dir() else config
    manifest = export_config(load_config(path, overrides or []), model, out, proxy_labels)
    size = sum(record.bytes for record in manifest.files.values())
    console.print(f"{out}: {manifest.model}, {manifest.optimizer}, batches of {manifest.batch}, {size:,} bytes")
    step, of_torch = (manifest.errors[name] for name in ("step", "torch"))
    console.print(f"max. deviation of one training step from float64: {step:.1e} (torch in float32: {of_torch:.1e})")
    parsed = read_bundle(out).parsed
    if parsed.unknown:
        files = ", ".join(parsed.unknown)
        console.print(f"no named model has these graphs: {files}", soft_wrap=True)
        console.print(f"devices need --trust-graph {parsed.digest}", soft_wrap=True)
