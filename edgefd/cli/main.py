"""The `edgefd` command."""

from __future__ import annotations

import math
import signal
import sys
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

from edgefd.cli.certs import app as certs_command
from edgefd.config.load import load_config
from edgefd.config.schema import Run
from edgefd.core.errors import RunError, Stopped, UserError, require
from edgefd.methods import get_method, method_names

if TYPE_CHECKING:
    from edgefd.simulation.sweep import Cell


class Form(StrEnum):
    """How `compare` prints."""

    text = "text"
    csv = "csv"
    markdown = "markdown"
    wide = "wide"
    """Markdown too: a column for each scenario"""


app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, help=__doc__)
app.add_typer(certs_command, name="certs")
console = Console()
errors = Console(stderr=True, soft_wrap=True)

ConfigFile = Annotated[Path, typer.Argument(metavar="CONFIG", help="a YAML file, such as simulations/quickstart.yaml")]
Overrides = Annotated[list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="such as method.quantile=0.9")]
Out = Annotated[Path | None, typer.Option("--out", metavar="DIR", help="the run folder (default: runs/<id>)")]


class Engine(StrEnum):
    """Where the clients of a simulation run."""

    local = "local"
    ray = "ray"


EngineOption = Annotated[
    Engine,
    typer.Option("--engine", help="local: this machine's cores; ray: Flower on Ray, here or at RAY_ADDRESS"),
]


@app.command()
def simulate(
    config: ConfigFile, overrides: Overrides = None, out: Out = None, engine: EngineOption = Engine.local
) -> None:
    """Run a federation on this machine or on a Ray cluster.

    Example: edgefd simulate simulations/quickstart.yaml seed=1 --out runs/first
    """
    from edgefd.simulation.progress import simulate_all

    simulate_all(load_config(config, overrides or []), out, console, engine.value)


@app.command()
def sweep(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="a sweep file: base: and grid:")],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(metavar="[KEY=VALUE]...", help="of the grid, such as 'seed=[0, 1]', or of base"),
    ] = None,
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="where its runs go")] = Path("runs/sweep"),
    jobs: Annotated[int | None, typer.Option("--jobs", min=1, help="runs at a time (default: one a core)")] = None,
) -> None:
    """Run a grid of methods, data sets, splits and seeds; the same command goes on where it was stopped.

    Example: edgefd sweep simulations/sweeps/mini.yaml 'seed=[0]' --out runs/mini
    """
    from edgefd.report.compare import compare as grouped
    from edgefd.report.compare import load_runs
    from edgefd.simulation.progress import comparison_tables
    from edgefd.simulation.sweep import load_sweep, run_sweep

    cells = load_sweep(file, overrides or [])
    done = 0

    def say(cell: Cell, outcome: str) -> None:
        nonlocal done
        done += 1
        print(f"{done}/{len(cells)} {cell.name}: {outcome}", flush=True)

    folders = run_sweep(cells, out, jobs or Run().n_workers, say)
    console.print(*comparison_tables(grouped(load_runs(folders))))


@app.command()
def compare(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="run folders, or folders of them")],
    form: Annotated[Form, typer.Option("--format", help="how to print")] = Form.text,
    over: Annotated[str, typer.Option(help="the setting to average over, such as data.test_people")] = "seed",
) -> None:
    """Set runs side by side: mean, standard deviation and 95 % interval over seeds, or over another setting.

    Example: edgefd compare runs/mini --format markdown
    """
    from edgefd.report.compare import compare as grouped
    from edgefd.report.compare import load_runs, to_csv, to_markdown
    from edgefd.report.paper_table import to_wide
    from edgefd.simulation.progress import comparison_tables

    found = load_runs(runs)
    if form is Form.text:
        console.print(*comparison_tables(grouped(found, over)))
    elif form is Form.wide:
        print(to_wide(found, over), end="")
    else:
        print((to_csv if form is Form.csv else to_markdown)(grouped(found, over)), end="")


@app.command()
def report(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="run folders, or folders of them")],
    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="FILE", help="default: report.html, in RUN if there is one, else here"),
    ] = None,
) -> None:
    """Write one self-contained HTML page about runs: accuracy, claims, calibration, bytes, by round and by client.

    Example: edgefd report runs/first --out report.html
    """
    from edgefd.report.command import write_report

    console.print(f"report: {write_report(runs, out)}", highlight=False, markup=False, soft_wrap=True)


@app.command()
def check(config: ConfigFile, overrides: Overrides = None) -> None:
    """Validate a config and its data, print it with every default, change nothing.

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


@app.command()
def partition(
    config: ConfigFile,
    overrides: Overrides = None,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="DIR", help="also write each client's data there")
    ] = None,
) -> None:
    """Print how many samples of each class each client holds; with --out, write client-000.npz and so on for devices.

    Example: edgefd partition simulations/quickstart.yaml partition.name=dirichlet partition.alpha=0.1
    """
    from edgefd.runs.prepare import prepare
    from edgefd.simulation.client_files import deal

    prepared = prepare(load_config(config, overrides or []))
    federation = prepared.federation
    classes = [str(c) for c in range(federation.n_classes)]
    table = Table("client", *classes, "train", "held", "shared", title=prepared.dataset.name)
    for data in federation.clients:
        counts = [str(n) if n else "·" for n in federation.table[data.client]]
        table.add_row(str(data.client), *counts, str(len(data.x)), str(len(data.x_heldout)), str(len(data.contributed)))
    paths = deal(prepared, out) if out is not None else []
    console.print(table)
    if paths:
        console.print(f"{len(paths)} files: {paths[0]} ... {paths[-1].name}")


@app.command()
def server(
    config: ConfigFile,
    overrides: Overrides = None,
    exchange: Annotated[
        Path | None, typer.Option("--exchange", metavar="DIR", help="a new folder that the devices see")
    ] = None,
    listen: Annotated[
        str | None, typer.Option("--listen", metavar="HOST:PORT", help="instead: serve devices by gRPC (port 0: any)")
    ] = None,
    flower: Annotated[
        str | None, typer.Option("--flower", metavar="HOST:PORT", help="serve Flower SuperNodes, also beside --listen")
    ] = None,
    certs: Annotated[Path | None, typer.Option("--certs", metavar="DIR", help="what `edgefd certs init` made")] = None,
    insecure: Annotated[
        bool, typer.Option("--insecure", help="with --listen or --flower: plaintext, also beyond this machine")
    ] = False,
    bundle: Annotated[
        list[Path] | None, typer.Option("--bundle", metavar="DIR", help="what devices fetch; one for each model")
    ] = None,
    metrics: Annotated[
        int | None, typer.Option("--metrics", metavar="PORT", help="Prometheus metrics on 127.0.0.1")
    ] = None,
    status: Annotated[
        str | None, typer.Option("--status", metavar="[HOST:]PORT", help="a page that shows the run (port 0: any)")
    ] = None,
    timeout: Annotated[float, typer.Option("--timeout", metavar="S", help="seconds that a round may take")] = 600,
    out: Out = None,
    resume: Annotated[bool, typer.Option("--resume", help="go on with the run in --exchange or --out, if any")] = False,
) -> None:
    """Coordinate a federation of devices: `edgefd-client run` by gRPC or through a folder, Flower SuperNodes.

    Example: edgefd server simulations/quickstart.yaml --listen 0.0.0.0:50051 --certs certs --bundle bundle
    """
    if not timeout > 0:
        raise UserError("--timeout must be above 0")
    if (exchange is None) == (listen is None and flower is None):
        raise UserError("give --listen HOST:PORT, --flower HOST:PORT or both, or --exchange DIR")
    loaded = load_config(config, overrides or [])
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # a stopped service tells its devices, as Ctrl-C does
    if flower is not None:
        require("flower", "flwr", "grpc", "grpc_health", "cryptography", "prometheus_client")
        from edgefd_server.flower.serve import serve_flower
        from edgefd_server.flower.superlink import SuperLinkAddress
        from edgefd_server.grpc_link.device_service import ListenAddress
        from edgefd_server.serve.options import ServeOptions

        if bundle and listen is None:
            raise UserError("--bundle goes with --listen: SuperNodes have their own, see docs/guides/flower.md")
        devices = None if listen is None else ListenAddress(listen, certs, insecure)
        serving = ServeOptions(devices, bundle or [], metrics, timeout, status, certs)
        folder, summary = serve_flower(loaded, SuperLinkAddress(flower, certs, insecure), serving, out, resume)
    elif listen is not None:
        require("server", "grpc", "grpc_health", "cryptography", "prometheus_client")
        from edgefd_server.grpc_link.device_service import ListenAddress
        from edgefd_server.serve.grpc import serve_link
        from edgefd_server.serve.options import ServeOptions

        serving = ServeOptions(ListenAddress(listen, certs, insecure), bundle or [], metrics, timeout, status, certs)
        folder, summary = serve_link(loaded, serving, out, resume)
    else:
        from edgefd_server.serve.folder import serve

        assert exchange is not None
        if certs is not None or insecure or bundle or metrics is not None:
            raise UserError("--certs, --insecure, --bundle and --metrics go with --listen or --flower")
        folder, summary = serve(loaded, exchange, timeout, out, resume, status)
    if (heldout := summary["heldout_accuracy_mean"]) is not None:
        console.print(f"final accuracy, mean over the clients' own held-out data: {heldout:.3f}", highlight=False)
    console.print(f"run folder: {folder}")


@app.command()
def collect(
    config: ConfigFile,
    listen: Annotated[str, typer.Option("--listen", metavar="HOST:PORT", help="where devices call (port 0: any)")],
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="what has come; its proxy.npz at the end")],
    overrides: Overrides = None,
    certs: Annotated[Path | None, typer.Option("--certs", metavar="DIR", help="what `edgefd certs init` made")] = None,
    insecure: Annotated[bool, typer.Option("--insecure", help="plaintext, also beyond this machine")] = False,
    deadline: Annotated[
        float | None, typer.Option("--deadline", metavar="S", help="wait so many seconds for all (default: for ever)")
    ] = None,
    least: Annotated[
        int | None, typer.Option("--least", metavar="N", help="clients that are enough by then (default: all)")
    ] = None,
    most: Annotated[int, typer.Option("--most", metavar="N", min=1, help="samples that a client may give")] = 10_000,
    metrics: Annotated[
        int | None, typer.Option("--metrics", metavar="PORT", help="Prometheus metrics on 127.0.0.1")
    ] = None,
) -> None:
    """Collect RAW private samples that devices contribute for the proxy set (`edgefd-client contribute`), before a run.

    Example: edgefd collect config.yaml --listen 0.0.0.0:50051 --certs certs --out collected
    """
    if (deadline is not None and not deadline > 0) or (least is not None and deadline is None):
        raise UserError("--deadline must be above 0, and --least goes with it")
    require("server", "grpc", "grpc_health", "cryptography", "prometheus_client")
    from edgefd_server.grpc_link.server import ListenAddress
    from edgefd_server.proxy_collection.serve import Collecting
    from edgefd_server.proxy_collection.serve import collect as collected

    signal.signal(signal.SIGTERM, signal.default_int_handler)
    loaded = load_config(config, overrides or [])
    how = Collecting(ListenAddress(listen, certs, insecure), most, deadline or math.inf, least, metrics)
    found = collected(loaded, how, out)
    line = f"{found.samples} raw private samples of {found.clients} clients are in {found.path}"
    console.print(f"{line}: every client of a federation that uses it sees them", highlight=False, soft_wrap=True)
    console.print(f"next: edgefd export CONFIG proxy.source=contributed proxy.path={found.path}", soft_wrap=True)


@app.command()
def export(
    config: Annotated[Path, typer.Argument(metavar="CONFIG|RUN", help="a YAML file, or the folder of a run")],
    out: Annotated[Path, typer.Option("--out", metavar="BUNDLE", help="the bundle folder, which must not exist")],
    overrides: Overrides = None,
    model: Annotated[str | None, typer.Option("--model", metavar="NAME", help="default: the config's first")] = None,
) -> None:
    """Write what a device needs to train without torch: graphs, first parameters, proxy set, manifest.

    Example: edgefd export simulations/quickstart.yaml --model cnn_edge --out bundles/watch
    """
    require("export", "torch", "onnx", "onnxruntime")
    from edgefd.runs.export_bundle import export_config

    path = config / "config.yaml" if config.is_dir() else config
    manifest = export_config(load_config(path, overrides or []), model, out)
    size = sum(record.bytes for record in manifest.files.values())
    console.print(f"{out}: {manifest.model}, {manifest.optimizer}, batches of {manifest.batch}, {size:,} bytes")
    console.print(f"one step differs from torch by {manifest.errors['step']:.1e}")


@app.command()
def features(config: ConfigFile, overrides: Overrides = None) -> None:
    """Compute the features of a config's data.extractor now, so that every run on these data finds them in the cache.

    Example: edgefd features simulations/quickstart.yaml data.name=cifar10 data.extractor=efficientnet_lite2
    """
    loaded = load_config(config, overrides or [])
    if loaded.data.extractor is None:
        raise UserError("this config has no data.extractor: set it to efficientnet_lite2 or the path of an .onnx")
    from edgefd.data.datasets import cache_folder
    from edgefd.runs.load_data import load_data

    d = load_data(loaded)
    console.print(f"{d.name}: {len(d.x_train)} + {len(d.x_test)} samples of {d.x_train.shape[1]} features")
    console.print(f"kept in {cache_folder('features')}", soft_wrap=True)


@app.command()
def audit(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="the folder of a run with run.record_knowledge=true")],
    level: Annotated[
        int, typer.Option("--level", min=0, max=2, help="0: seconds; 1: attacks on models; 2: shadow federations too")
    ] = 1,
    attack: Annotated[list[str] | None, typer.Option("--attack", metavar="NAME", help="default: all")] = None,
    adversary: Annotated[
        list[str] | None, typer.Option("--adversary", help="server, client, holder, eavesdropper (default: all)")
    ] = None,
    fail_if: Annotated[
        list[str] | None, typer.Option("--fail-if", metavar="LIMIT", help="exit with 1 if so: 'tpr@1%>0.05'")
    ] = None,
    shadows: Annotated[
        int | None, typer.Option("--shadows", metavar="N", help="level 2: how many shadow federations (default: 16)")
    ] = None,
) -> None:
    """Measure what a recorded run disclosed, to whom, with intervals and controls; writes RUN/audit.

    Example: edgefd audit runs/first --fail-if 'presence_auc>0.9'
    """
    from edgefd.audit.report.limits import parse_limit
    from edgefd.audit.report.terminal import progress, summary
    from edgefd.audit.request import parse_request
    from edgefd.audit.run_audit import audit as audited
    from edgefd.audit.write import verdict_error

    limits = [parse_limit(text) for text in fail_if or []]
    wanted = parse_request(level, attack or [], adversary or [], limits, shadows)
    with progress(console) as show:
        result = audited(run, wanted, show)
    for line in summary(result):
        console.print(line)
    console.print(f"{run / 'audit' / 'audit.html'}", highlight=False)
    if error := verdict_error(result):
        raise RunError(error)


@app.command()
def inspect(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="a report, teacher or plan (.bin), or an npz")],
) -> None:
    """Say exactly what is in a message.

    Example: edgefd inspect runs/first/knowledge/rounds/0003/reports/2.bin
    """
    from edgefd.wire.describe import describe

    for line in describe(file):
        print(line)


@app.command()
def methods() -> None:
    """List the methods and their settings.

    Example: edgefd methods
    """
    from dataclasses import fields

    table = Table("method", "what it does", "settings", "proxy labels")
    for name in method_names():
        method = get_method(name)
        settings = ", ".join(f"{f.name}={f.default}" for f in fields(method.config))
        table.add_row(name, method.summary, settings, "yes" if method.proxy_labels else "no")
    console.print(table)


@app.command()
def datasets(
    download: Annotated[str | None, typer.Option("--download", metavar="NAME", help="fetch the original files")] = None,
) -> None:
    """List the data sets and whether they are at hand, or download one.

    Example: edgefd datasets --download mnist
    """
    from edgefd.data.datasets import DATASETS, find_dataset, how_to_get
    from edgefd.data.download import fetch_dataset

    if download is not None:
        console.print(f"{download}: downloaded to {fetch_dataset(download)}")
        return
    table = Table("name", "what it is", "where it is")
    for name, what in DATASETS.items():
        table.add_row(name, what, find_dataset(name) or f"not here: {how_to_get(name)}")
    console.print(table)


def main() -> None:
    """Entry point: one line on stderr; exit code 2 for bad input, 1 for a run that cannot go on, 130 for Ctrl-C."""
    try:
        app()
    except UserError as error:
        errors.print(f"error: {error}", style="red", markup=False, highlight=False)
        sys.exit(2)
    except RunError as error:
        errors.print(f"error: {error}", style="red", markup=False, highlight=False)
        sys.exit(1)
    except (Stopped, KeyboardInterrupt) as stop:
        errors.print(f"stopped; {stop}" if str(stop) else "stopped", markup=False, highlight=False)
        sys.exit(130)
