"""Benchmark of one hostile device in a fleet: the accuracy of the honest ones, the coordinator's memory, late rounds.

Run: python -m benchmarks.hostile [--clients 20] [--rounds 50] [--deadline 10]

All processes run on 127.0.0.1 with mTLS: a coordinator, honest devices (`edgefd-client`) and, as the last client, the
hostile device (`benchmarks.hostile_device`). A second run is the same without the last client. The script prints both,
and fails unless the honest devices of the two runs end within 0.5 points of each other on the test set, the coordinator
stays under 300 MB and no round lasts longer than its deadline and one second. The first round, in which the devices
start, is left out.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from edgefd_client.state import load_state

from benchmarks.processes import memory, start
from edgefd.config.load import load_config
from edgefd.learners.onnx_learner import OnnxLearner, Sessions
from edgefd.runs.load_data import federate, load_data
from edgefd.wire.bundle_reader import read_bundle
from simulations.federation import DEVICE, EDGEFD, LIMIT, prepare_all, wait_for_port

CONFIG = "simulations/quickstart.yaml"


@dataclass(frozen=True)
class Outcome:
    """The figures of a run."""

    accuracy: Sequence[float]
    """of each honest device's final model on the test set"""
    memory: float
    """peak memory of the coordinator in MB"""
    seconds: Sequence[float]
    """of each round"""
    log: float
    """size of all log files and of the coordinator's output, in MB"""


def measure(run: Sequence[str], clients: int, work: Path, hostile: bool) -> Outcome:
    """Run a coordinator and its devices to the end. The last client is hostile, or does not take part."""
    out, bundle, keys = work / f"run-{hostile}", str(work / "bundle"), work / "certs/devices"
    logs = work / f"logs-{hostile}"
    logs.mkdir()
    with ExitStack() as started:
        serve = [*EDGEFD, "serve", "grpc", *run, "--listen", "127.0.0.1:0", "--certs", str(work / "certs")]
        server = start(started, [*serve, "--bundle", bundle, "--out", str(out)], logs / "server.log")
        address = f"127.0.0.1:{wait_for_port(server, logs / 'server.log')}"
        honest = []
        for i in range(clients - 1):
            device = [*DEVICE, "run", "--server", address, "--bundle", bundle]
            data = str(work / f"data/client-{i:03d}.npz")
            device += ["--certs", str(keys / f"device-{i}"), "--data", data]
            device += ["--state", str(work / f"state-{hostile}-{i}")]
            honest.append(start(started, device, logs / f"device-{i}.log"))
        if hostile:
            certs = str(keys / f"device-{clients - 1}")
            join = ["--address", address, "--certs", certs, "--bundle", bundle]
            start(started, [sys.executable, "-m", "benchmarks.hostile_device", *join], logs / "hostile.log")
        peak, deadline = 0.0, time.monotonic() + LIMIT
        while server.poll() is None and time.monotonic() < deadline:
            peak = max(peak, memory(server.pid))
            time.sleep(0.2)
        if server.poll() != 0:
            sys.exit(f"error: the coordinator did not complete the run: {(logs / 'server.log').read_text()[-2000:]}")
        for i, device in enumerate(honest):
            if device.wait(60):
                sys.exit(f"error: device {i} failed: {(logs / f'device-{i}.log').read_text()[-500:]}")
    if hostile:
        print((logs / "hostile.log").read_text().strip()[-500:])
    rounds = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    size = sum(f.stat().st_size for f in (*out.glob("link.jsonl*"), logs / "server.log"))
    accuracy = test_accuracies(run, clients - 1, work, hostile)
    return Outcome(accuracy, peak, [r["seconds"] for r in rounds], size / 1e6)


def test_accuracies(run: Sequence[str], devices: int, work: Path, hostile: bool) -> list[float]:
    """Return the accuracy of each device's final model on the test set."""
    config = load_config(Path(run[0]), list(run[1:]))
    federation = federate(config, load_data(config))
    bundle = read_bundle(work / "bundle")
    learner, accuracies = OnnxLearner(Sessions(bundle.graphs), bundle.init), []
    for i in range(devices):
        saved = load_state(work / f"state-{hostile}-{i}", bundle.digest)
        assert saved is not None
        learner.load_state(saved.learner)
        correct = learner.predict_logits(federation.x_test).argmax(1) == federation.y_test
        accuracies.append(float(correct.mean()))
    return accuracies


def show(name: str, outcome: Outcome) -> None:
    """Print the figures of a run."""
    accuracy, seconds = outcome.accuracy, outcome.seconds
    print(f"{name}: accuracy of the honest devices {np.mean(accuracy):.4f} (lowest {min(accuracy):.4f})")
    print(f"  rounds after the first: median {np.median(seconds[1:]):.2f} s, longest {max(seconds[1:]):.2f} s")
    print(f"  coordinator: {outcome.memory:.0f} MB at most, {outcome.log:.2f} MB of logs and output", flush=True)


def main() -> None:
    """Measure both runs, print them, and fail if the hostile device did harm."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--clients", type=int, default=20)
    options.add_argument("--rounds", type=int, default=50)
    options.add_argument("--deadline", type=float, default=10.0, help="seconds until a round ends without all clients")
    chosen = options.parse_args()
    n = chosen.clients
    run = [CONFIG, "baselines=[]", "partition.name=shards", f"partition.n_clients={n}", f"train.rounds={chosen.rounds}"]
    run += [f"coordinator.min_reports={n - 1}", f"coordinator.deadline_s={chosen.deadline}"]
    with tempfile.TemporaryDirectory(prefix="edgefd-hostile-") as name:
        work = Path(name)
        prepare_all(run, n, work)
        without, attacked = (measure(run, n, work, hostile) for hostile in (False, True))
        show("without the last client", without)
        show("the last client is hostile", attacked)
    change = 100 * (np.mean(attacked.accuracy) - np.mean(without.accuracy))
    print(f"change of the accuracy: {change:+.2f} points")
    if abs(change) > 0.5 or attacked.memory > 300 or max(attacked.seconds[1:]) > chosen.deadline + 1:
        sys.exit("error: the hostile device did harm")


if __name__ == "__main__":
    main()
