"""The `edgefd-client` command."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np

from edgefd.data.federation import Scale
from edgefd.errors import RunError, UserError, require
from edgefd_client.bundle import Bundle, read_bundle
from edgefd_client.doctor import machine, require_64_bit, selftest
from edgefd_client.state import load_state


def infer(bundle: Bundle, state: Path | None, source: Path, out: Path | None) -> None:
    """Classify raw samples with the trained model, or with the bundle's first parameters when there is no state."""
    from edgefd_client.onnx_learner import OnnxLearner, Sessions

    try:
        x = np.load(source, allow_pickle=False)
    except (OSError, ValueError) as error:
        raise UserError(f"cannot read {source}: {error}") from error
    shape = bundle.manifest.shape
    if not isinstance(x, np.ndarray) or x.shape[1:] != shape or x.dtype.kind not in "uif" or not np.isfinite(x).all():
        raise UserError(f"{source} must hold finite samples of shape {list(shape)}, one a row")
    learner = OnnxLearner(Sessions(bundle.graphs), bundle.init)
    if state is not None:
        saved = load_state(state, bundle.digest)
        if saved is None:
            raise UserError(f"{state} holds no whole state of this bundle")
        learner.load_state(saved.learner)
    logits = learner.predict_logits(Scale(*bundle.manifest.scale)(x))
    if out is not None:
        np.save(out, logits, allow_pickle=False)
    else:
        print("\n".join(str(label) for label in logits.argmax(1)))


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
        else:
            doctor(args.bundle, args.state)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except (RunError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="edgefd-client", description="A device of a federation, without torch.")
    commands = parser.add_subparsers(dest="command", required=True)
    one = commands.add_parser("infer", help="classify samples", description="Classify samples with the trained model.")
    one.add_argument("--bundle", type=Path, required=True, metavar="DIR")
    one.add_argument("--state", type=Path, metavar="DIR", help="the trained state (default: the bundle's first one)")
    one.add_argument("--input", type=Path, required=True, metavar="X.npy", help="raw samples")
    one.add_argument("--out", type=Path, metavar="LOGITS.npy", help="write logits instead of printing labels")
    two = commands.add_parser("doctor", help="check this machine", description="What to know before trusting a board.")
    two.add_argument("--bundle", type=Path, metavar="DIR", help="also test one training step of this bundle")
    two.add_argument("--state", type=Path, default=Path("."), metavar="DIR", help="where state will be kept")
    return parser
