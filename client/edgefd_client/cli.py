"""The `edgefd-client` command."""

from __future__ import annotations

import argparse
import signal
import sys
from pathlib import Path

import numpy as np

from edgefd.core.errors import RunError, UserError, require
from edgefd.federation.clients import ClientData
from edgefd.wire.bundle_reader import Bundle, read_bundle
from edgefd.wire.exchange_folder import FEDERATION
from edgefd_client.contribution import load_contribution
from edgefd_client.doctor import machine, require_64_bit, selftest
from edgefd_client.options import settings
from edgefd_client.sources import client_data, prepared, source_of
from edgefd_client.state import exclusive_lock, load_state

RUN: dict[str, tuple[type, str]] = {
    "bundle": (Path, "what `edgefd export` wrote (default with --server: fetched into the state folder)"),
    "data": (Path, "private data: .npz with x and y, .csv, or a folder of images by label"),
    "state": (Path, "folder of what must not be lost; this device's own"),
    "exchange": (Path, "the coordinator's exchange folder"),
    "server": (str, "HOST:PORT of the coordinator, instead of --exchange"),
    "certs": (Path, "with --server: ca.pem, device.pem and device.key, as `edgefd certs device` made them"),
    "insecure": (bool, "with --server: plaintext, also to another machine"),
    "give-up": (int, "with --server: end after so many seconds without an answer (3600); the state is kept"),
    "client": (int, "which client of the federation this is: 0, 1, ... (with --certs, the certificate says so)"),
}
METAVARS = {Path: "PATH", int: "N", str: "HOST:PORT"}
OPTIONAL = ("bundle", "exchange", "server", "certs", "insecure", "give-up", "client")


def infer(bundle: Bundle, state: Path | None, source: Path, out: Path | None) -> None:
    """Classify raw samples with the trained model, or with the bundle's first parameters when there is no state."""
    from edgefd.learners.onnx_learner import OnnxLearner, Sessions

    try:
        x = np.load(source, allow_pickle=False)
    except (OSError, ValueError) as error:
        raise UserError(f"cannot read {source}: {error}") from error
    shape = bundle.manifest.sample_shape
    if not isinstance(x, np.ndarray) or x.shape[1:] != shape or x.dtype.kind not in "uif" or not np.isfinite(x).all():
        raise UserError(f"{source} must hold finite samples of shape {list(shape)}, one a row")
    learner = OnnxLearner(Sessions(bundle.graphs), bundle.init)
    if state is not None:
        saved = load_state(state, bundle.digest)
        if saved is None:
            raise UserError(f"{state} holds no whole state of this bundle")
        learner.load_state(saved.learner)
    logits = learner.predict_logits(prepared(x, bundle))
    if out is not None:
        np.save(out, logits, allow_pickle=False)
    else:
        print("\n".join(str(label) for label in logits.argmax(1)))


def run(
    bundle: Path | None,
    data: Path,
    state: Path,
    exchange: Path | None,
    server: str | None,
    certs: Path | None,
    insecure: bool | None,
    give_up: int | None,
    client: int | None,
) -> None:
    """Take part in a federation until it is over, a line a round."""
    signal.signal(signal.SIGTERM, _end)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # also where a script started it in the background
    if client is not None and client < 0:
        raise UserError("--client is 0, 1, ...: which client of the federation this is")
    if client is None and certs is None:
        raise UserError("--client must be given: which client of the federation this is")
    if (exchange is None) == (server is None):
        raise UserError("give either --server HOST:PORT or --exchange DIR")
    if exchange is None:
        assert server is not None
        if give_up is not None and give_up < 1:
            raise UserError("--give-up must be at least 1 second")
        _run_over_grpc(bundle, data, state, server, certs, bool(insecure), give_up, client)
    else:
        if bundle is None or client is None or certs is not None or insecure or give_up is not None:
            raise UserError("--exchange needs --bundle and --client, and knows no --certs, --insecure or --give-up")
        _run_over_folder(bundle, data, state, exchange, client)
    _say("the run is complete")


def _run_over_folder(bundle: Path, data: Path, state: Path, exchange: Path, client: int) -> None:
    from edgefd_client.agent import method_of, run_agent
    from edgefd_client.folder_link import join

    read = read_bundle(bundle)
    method_of(read)  # what is wrong with bundle or data shows before there is a coordinator
    private = _private(data, read, client, state)
    if not (exchange / FEDERATION).exists():
        _say(f"waiting for the coordinator to open {exchange}")
    link = join(exchange, client, read.manifest.terms)
    run_agent(link, read, private, state, _say)


def _run_over_grpc(
    bundle: Path | None,
    data: Path,
    state: Path,
    server: str,
    certs: Path | None,
    insecure: bool,
    give_up: int | None,
    client: int | None,
) -> None:
    require("client", "grpc")
    from edgefd_client.agent import method_of, run_agent
    from edgefd_client.bundle_download import fetch_bundle
    from edgefd_client.grpc_link import GIVE_UP, GrpcLink, connect

    read = None if bundle is None else read_bundle(bundle)
    with connect(server, certs, insecure) as channel:
        if certs is None:
            print("warning: without --certs nothing is encrypted and nobody proves who he is", file=sys.stderr)
        link = GrpcLink(channel, client, _say, GIVE_UP if give_up is None else give_up)
        link.join(None if read is None else read.manifest.terms)
        if read is None:
            with exclusive_lock(state):
                read = read_bundle(fetch_bundle(link, state))
        if read.digest != link.manifest_sha256:
            raise UserError("the bundle is not the coordinator's: leave --bundle out to fetch that")
        method_of(read)
        private = _private(data, read, link.client, state)
        if bundle is None:
            link.join(read.manifest.terms)
        run_agent(link, read, private, state, _say)


def _private(data: Path, bundle: Bundle, client: int, state: Path) -> ClientData:
    given = load_contribution(state)
    private = client_data(source_of(data, bundle.manifest), bundle, client, given)
    if given is not None:
        _say(f"{len(private.contributed)} proxy rows are own ones: this device has offered {len(given.rows)} samples")
    return private


def _contribute(args: argparse.Namespace) -> None:
    from edgefd_client.contribute import Asked, contribute

    asked = {name: getattr(args, name) for name in Asked.__dataclass_fields__}
    contribute(Asked(**asked), _say)


def _say(line: str) -> None:
    print(line, flush=True)


def _end(signum: int, frame: object) -> None:
    """SIGTERM is how a service is stopped: all that counts is saved already."""
    sys.exit(0)


def doctor(bundle: Path | None, state: Path) -> None:
    """Print what is known of this machine, and test it on the bundle."""
    for what, value in machine(state).items():
        print(f"{what:10} {value}")
    if bundle is not None:
        print(f"self-test  one step within {selftest(read_bundle(bundle)):.1e} of the expected one")


def main(arguments: list[str] | None = None) -> None:
    """Entry point: bad input is one line on stderr and exit code 2, a failure exit code 1."""
    args = _parser().parse_args(arguments)
    try:
        require_64_bit()
        require("client", "onnxruntime")
        if args.command == "infer":
            infer(read_bundle(args.bundle), args.state, args.input, args.out)
        elif args.command == "run":
            run(**settings(RUN, args, args.config, OPTIONAL))
        elif args.command == "contribute":
            require("client", "grpc")
            _contribute(args)
        else:
            doctor(args.bundle, args.state)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except (RunError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        print("stopped; the same command goes on from there", file=sys.stderr)
        sys.exit(130)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="edgefd-client", description="A device of a federation, without torch.")
    commands = parser.add_subparsers(dest="command", required=True)
    one = commands.add_parser("infer", help="classify samples", description="Classify samples with the trained model.")
    one.add_argument("--bundle", type=Path, required=True, metavar="DIR")
    one.add_argument("--state", type=Path, metavar="DIR", help="the trained state (default: the bundle's first one)")
    one.add_argument("--input", type=Path, required=True, metavar="X.npy", help="raw samples")
    one.add_argument("--out", type=Path, metavar="LOGITS.npy", help="write logits instead of printing labels")
    three = commands.add_parser("run", help="take part in a federation", description="Take part in a federation.")
    for name, (kind, what) in RUN.items():
        if kind is bool:
            three.add_argument(f"--{name}", action="store_true", default=None, help=what)
        else:
            three.add_argument(f"--{name}", type=kind, metavar=METAVARS[kind], help=what)
    three.add_argument("--config", type=Path, metavar="FILE.yaml", help="these options; the command line wins")
    _contribute_options(
        commands.add_parser(
            "contribute",
            help="give RAW private samples for the proxy set",
            description="Send a fraction of the RAW private samples to a coordinator that collects them for the proxy "
            "set, which every client gets. Labels are never sent.",
        )
    )
    two = commands.add_parser("doctor", help="check this machine", description="What to know before trusting a board.")
    two.add_argument("--bundle", type=Path, metavar="DIR", help="also test one training step of this bundle")
    two.add_argument("--state", type=Path, default=Path("."), metavar="DIR", help="where state will be kept")
    return parser


def _contribute_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--server", required=True, metavar="HOST:PORT", help=RUN["server"][1].partition(",")[0])
    for name in ("certs", "insecure", "client"):
        kind, what = RUN[name]
        if kind is bool:
            parser.add_argument(f"--{name}", action="store_true", help=what)
        else:
            parser.add_argument(f"--{name}", type=kind, metavar=METAVARS[kind], help=what)
    parser.add_argument("--data", type=Path, required=True, metavar="PATH", help="private data: .npz with x and y")
    parser.add_argument("--state", type=Path, required=True, metavar="PATH", help=f"{RUN['state'][1]}, as for `run`")
    parser.add_argument("--fraction", type=float, required=True, metavar="A", help="of the samples of each class")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of the choice (0)")
    parser.add_argument("--keep", action="store_true", help="train on the samples that were given as well")
    parser.add_argument("--give-up", type=int, default=3600, metavar="N", help=RUN["give-up"][1].partition(": ")[2])
    parser.add_argument("--yes", action="store_true", help="send them; without it, it is only said what would be sent")
