"""The `edgefd-client` command."""

from __future__ import annotations

import argparse
import io
import sys
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from edgefd.core.errors import RunError, UserError, require
from edgefd.core.files import os_errors, put, removed_on_error
from edgefd.core.log import configure_logging
from edgefd.core.terminal import escape_unknown_characters
from edgefd.core.text import escaped, shown
from edgefd.data.features import extract
from edgefd.data.labels import labels_of
from edgefd.data.npz import read_npy
from edgefd.wire.bundle_reader import Bundle, read_bundle
from edgefd_client.doctor import machine, require_64_bit, selftest
from edgefd_client.inspect_bundle import MAX_FACT, describe_bundle
from edgefd_client.options import settings, with_user_paths
from edgefd_client.sources import model_input
from edgefd_client.state import load_state
from edgefd_client.trust import read_trusted_bundle

RUN: dict[str, tuple[type, str]] = {
    "bundle": (Path, "bundle of `edgefd export` (default with --server: downloaded into the state folder)"),
    "data": (Path, "private data: .npz with x and y, .csv, an SQLite file, or a folder of images by label"),
    "query": (str, "with an SQLite file: SELECT of samples and their `label` (NULL = none yet), the newest row last"),
    "keep": (int, "use the newest N samples only"),
    "keep-per-class": (int, "use at most N samples of each class, a random choice of all"),
    "max-age": (int, "with a folder of images: use those of the last N days only"),
    "growing": (bool, "samples arrive: read the data again before each round (default: before each run)"),
    "forever": (bool, "when a run is complete, wait for the next one and take part in it"),
    "state": (Path, "folder of the durable state; only for this device"),
    "exchange": (Path, "exchange folder of the coordinator"),
    "server": (str, "HOST:PORT of the coordinator, instead of --exchange"),
    "bundle-url": (str, "with --server: folder of a web server with the bundle's files; --server names their digests"),
    "cache": (Path, "with --server: folder of downloaded files, which devices can share (~/.cache/edgefd/bundles)"),
    "certs": (Path, "with --server: folder with ca.pem, device.pem and device.key, created by `edgefd certs device`"),
    "insecure": (bool, "with --server: allow a connection to another machine without TLS"),
    "trust-graph": (str, "digest of graphs that no named model has, from `edgefd-client inspect-bundle`"),
    "give-up": (int, "with --server: stop after N seconds without an answer (3600); the state is kept"),
    "client": (int, "number of this client in the federation: 0, 1, ... (with --certs, the certificate determines it)"),
}
METAVARS = {Path: "PATH", int: "N", str: "HOST:PORT"}
_print_line = partial(print, flush=True)
OPTIONAL = (
    *("bundle", "exchange", "server", "bundle-url", "cache"),
    *("certs", "insecure", "trust-graph", "give-up", "client"),
    *("query", "keep", "keep-per-class", "max-age", "growing", "forever"),
)


def infer(bundle: Bundle, state: Path | None, input_file: Path, out: Path | None) -> None:
    """Classify raw samples with the trained model, or with the first parameters of the bundle if no state is given."""
    from edgefd.learners.onnx_learner import OnnxLearner, Sessions

    x = read_npy(input_file)
    samples = model_input(x, bundle, str(input_file), extract)  # no cache: queries are not asked again
    learner = OnnxLearner(Sessions(bundle.graphs), bundle.init)
    if state is not None:
        saved = load_state(state, bundle.digest)
        if saved is None:
            raise UserError(
                f"{state} holds no complete state of this bundle: give the --state folder of `edgefd-client run`"
            )
        learner.load_state(saved.learner)
    logits = learner.predict_logits(samples)
    if out is not None:
        write_npy(out, logits)
    else:
        print("\n".join(shown(label) for label in labels_of(logits.argmax(1), bundle.manifest.label_names)))


def write_npy(path: Path, array: np.ndarray) -> None:
    """Write an array to an npy file for its owner only, completely or not at all."""
    if path.is_dir():  # a link to a folder would be replaced
        raise UserError(f"cannot write {path}: it is a folder; name a file")
    file = io.BytesIO()
    np.save(file, array, allow_pickle=False)
    with os_errors(f"write {path}"), removed_on_error(path):
        put(path, file.getvalue())


def doctor(bundle: Path | None, state: Path, trust: str | None, profile: Path | None) -> None:
    """Print facts about this machine. If a bundle is given, test one training step of it, and measure its profile."""
    if profile is not None and bundle is None:
        raise UserError("--profile measures the training steps of a bundle: give --bundle too")
    for name, value in machine(state).items():
        print(f"{name:10} {value}")
    if bundle is not None:
        trusted = read_trusted_bundle(bundle, trust)
        print(f"self-test  largest deviation after one training step: {selftest(trusted):.1e}")
        if profile is not None:
            from edgefd_client.measure import write_profile

            model, times = trusted.manifest.model, write_profile(trusted, profile)
            step, predict = times.step_seconds[model], times.predict_seconds[model]
            print(f"profile    {shown(model)}: {step:.4f} s a step, {predict:.4f} s for its logits, in {profile}")


def inspect_bundle(bundle: Path) -> None:
    """Print what a bundle is, and how much a device that runs it can disclose. No graph is run."""
    for name, value in describe_bundle(read_bundle(bundle)).items():
        print(f"{name:10} {shown(value, MAX_FACT)}")


def main(arguments: list[str] | None = None) -> None:
    """Run the command. Bad input ends it with exit code 2, a failure with 1; both print one line on stderr."""
    args = make_parser().parse_args(arguments)
    escape_unknown_characters()
    try:
        configure_logging()
        args = with_user_paths(args)
        require_64_bit()
        require("client", "onnxruntime")
        if args.command == "infer":
            infer(read_trusted_bundle(args.bundle, args.trust_graph), args.state, args.input, args.out)
        elif args.command == "run":
            from edgefd_client.take_part import RunOptions, run

            run(RunOptions(**settings(RUN, args, args.config, OPTIONAL)))
        elif args.command == "contribute":
            require("client", "grpc")
            from edgefd_client.contribute import ContributeOptions, contribute

            options = {name: getattr(args, name) for name in ContributeOptions.__dataclass_fields__}
            contribute(ContributeOptions(**options), _print_line)
        elif args.command == "inspect-bundle":
            inspect_bundle(args.bundle)
        else:
            doctor(args.bundle, args.state, args.trust_graph, args.profile)
    except (UserError, RunError, OSError) as error:
        print(f"error: {escaped(str(error))}", file=sys.stderr)
        sys.exit(2 if isinstance(error, UserError) else 1)
    except KeyboardInterrupt:
        print("stopped; run the same command again to resume", file=sys.stderr)
        sys.exit(130)


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of the command and of its subcommands."""
    parser = argparse.ArgumentParser(prog="edgefd-client", description="Run a device of a federation, without torch.")
    commands = parser.add_subparsers(dest="command", required=True)
    _infer_options(
        commands.add_parser("infer", help="classify samples", description="Classify samples with the trained model.")
    )
    _run_options(commands.add_parser("run", help="take part in a federation", description="Take part in a federation."))
    _contribute_options(
        commands.add_parser(
            "contribute",
            help="contribute RAW private samples to the proxy set",
            description="Send a fraction of the RAW private samples to a coordinator that collects them for the proxy "
            "set. Every client receives the proxy set. Labels are never sent.",
        )
    )
    inspect = commands.add_parser(
        "inspect-bundle",
        help="show what a bundle is",
        description="Show what a bundle is, and how much a device that runs it can disclose. No graph is run.",
    )
    inspect.add_argument("--bundle", type=Path, required=True, metavar="DIR", help="bundle, or where it was downloaded")
    _doctor_options(
        commands.add_parser(
            "doctor",
            help="check this machine",
            description="Check this device: architecture, memory, disk, clock, versions, self-test.",
        )
    )
    return parser


def _infer_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--bundle", type=Path, required=True, metavar="DIR", help="bundle of `edgefd export`")
    parser.add_argument(
        "--state",
        type=Path,
        metavar="DIR",
        help="folder of the trained state (default: the first parameters of the bundle)",
    )
    parser.add_argument("--input", type=Path, required=True, metavar="X.npy", help="raw samples")
    parser.add_argument("--out", type=Path, metavar="LOGITS.npy", help="write logits instead of printing labels")
    _add_run_option(parser, "trust-graph")


def _run_options(parser: argparse.ArgumentParser) -> None:
    for name in RUN:
        _add_run_option(parser, name, default=None)
    parser.add_argument(
        "--config", type=Path, metavar="FILE.yaml", help="file with these options; the command line overrides it"
    )


def _add_run_option(parser: argparse.ArgumentParser, name: str, **settings: Any) -> None:
    """Add an option of `RUN`; `settings` replace or complete its arguments."""
    kind, text = RUN[name]
    metavar = {"trust-graph": "DIGEST", "bundle-url": "URL", "query": "SELECT"}.get(name, METAVARS.get(kind))
    form = {"action": "store_true"} if kind is bool else {"type": kind, "metavar": metavar}
    parser.add_argument(f"--{name}", **({"help": text} | form | settings))


def _doctor_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--bundle", type=Path, metavar="DIR", help="also test one training step of this bundle")
    parser.add_argument(
        "--state", type=Path, default=Path("."), metavar="DIR", help="folder in which the state will be kept"
    )
    parser.add_argument(
        "--profile",
        type=Path,
        metavar="FILE.yaml",
        help="with --bundle: measure its training steps, its predictions and its filter for about 10 seconds, and "
        "write the profile of this machine for the section `devices` of a simulation",
    )
    _add_run_option(parser, "trust-graph")


def _contribute_options(parser: argparse.ArgumentParser) -> None:
    _add_run_option(parser, "server", required=True, help=RUN["server"][1].partition(",")[0])
    for name in ("certs", "insecure", "client"):
        _add_run_option(parser, name, help=RUN[name][1].removeprefix("with --server: "))
    _add_run_option(parser, "data", required=True, help="private data: .npz with x and y")
    _add_run_option(parser, "state", required=True, help=f"{RUN['state'][1]}, as for `run`")
    parser.add_argument(
        "--fraction", type=float, required=True, metavar="A", help="share of the samples of each class, in (0, 1)"
    )
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="seed of the choice of samples (0)")
    parser.add_argument("--keep", action="store_true", help="also train on the contributed samples")
    _add_run_option(parser, "give-up", default=3600, help=RUN["give-up"][1].partition(": ")[2])
    parser.add_argument(
        "--yes", action="store_true", help="send the samples; without it, the command only prints what it would send"
    )
