"""Run a whole federation on this machine, and compare it with its simulation.

Run: make federation, or python simulations/federation.py [--data mnist_mini] [--clients 5] [--rounds 10] [--out DIR]
The script creates certificates, exports the bundle, splits the data, starts a coordinator and the devices as processes
on 127.0.0.1 (mTLS), and ends them. It prints the accuracy of the devices' models on the test set and that of
`edgefd simulate`, the time of a round beyond the slowest device's own work, and the coordinator's memory. It uses MNIST
if it is available (some minutes), otherwise mnist_mini (one minute).
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np

from edgefd.config.load import load_config
from edgefd.core.processes import end
from edgefd.data.datasets import find_dataset
from edgefd.runs.load_data import load_data

CONFIG = Path(__file__).with_name("quickstart.yaml")
EDGEFD = (sys.executable, "-m", "edgefd")
DEVICE = (sys.executable, "-m", "edgefd_client")
LIMIT = 1800.0


def main() -> None:
    """Run the federation and the simulation, and compare them."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--data", default="mnist" if find_dataset("mnist") else "mnist_mini")
    options.add_argument("--clients", type=int, default=5)
    options.add_argument("--rounds", type=int, default=10)
    options.add_argument("--out", type=Path, help="path of the run folder (default: runs/federation-TIME)")
    chosen = options.parse_args()
    out = chosen.out or Path("runs") / time.strftime("federation-%Y%m%d-%H%M%S")
    run = [str(CONFIG), "baselines=[]", f"data.name={chosen.data}", "partition.name=shards"]
    run += [f"partition.n_clients={chosen.clients}", f"train.rounds={chosen.rounds}"]
    with tempfile.TemporaryDirectory(prefix="edgefd-") as folder:
        work = Path(folder)
        prepare_all(run, chosen.clients, work)
        memory, torch = federate(run, chosen.clients, work, out)
        devices = accuracies(run, chosen.clients, work)
        call(*EDGEFD, "simulate", *run, "run.learner=onnx", "--out", str(work / "simulated"))
        simulated = json.loads((work / "simulated" / "summary.json").read_text())["accuracy_per_client"]
        costs = overheads(out, work, chosen.clients)
    print(f"accuracy on the test set  devices     {np.mean(devices):.4f}  {formatted(devices)}")
    print(f"                          simulation  {np.mean(simulated):.4f}  {formatted(simulated)}")
    print(f"round time beyond the slowest device's own work: mean {np.mean(costs):.3f} s, maximum {max(costs):.3f} s")
    print(f"coordinator: peak memory {memory:.0f} MB, torch {'loaded' if torch else 'not loaded'}")
    print(f"run folder: {out}")
    if not np.allclose(devices, simulated, atol=1e-12):
        sys.exit("error: the accuracies of the devices and of the simulation differ")


def prepare_all(run: Sequence[str], clients: int, work: Path) -> None:
    """Create the certificates, export the bundle, and split the data."""
    call(*EDGEFD, "certs", "init", str(work / "certs"))
    for i in range(clients):
        call(*EDGEFD, "certs", "device", f"device-{i}", "--client", str(i), "--certs", str(work / "certs"))
    call(*EDGEFD, "export", *run, "--out", str(work / "bundle"))
    call(*EDGEFD, "partition", *run, "--out", str(work / "data"))


def federate(run: Sequence[str], clients: int, work: Path, out: Path) -> tuple[float, bool]:
    """Run the coordinator and each device as a process.

    Returns:
        The coordinator's peak memory in MB, and whether it loaded torch.
    """
    with ExitStack() as started:
        serve = [*EDGEFD, "serve", "grpc", *run, "--listen", "127.0.0.1:0", "--certs", str(work / "certs")]
        serve += ["--bundle", str(work / "bundle"), "--out", str(out)]
        server = started.enter_context(process(serve, work / "server.log"))
        port = wait_for_port(server, work / "server.log")
        devices = []
        for i in range(clients):
            join = [*DEVICE, "run", "--server", f"127.0.0.1:{port}", "--certs", str(work / f"certs/devices/device-{i}")]
            join += ["--data", str(work / f"data/client-{i:03d}.npz"), "--state", str(work / f"state-{i}")]
            devices.append(started.enter_context(process(join, work / f"device-{i}.log")))
        memory, torch = 0.0, False
        deadline, printed = time.monotonic() + LIMIT, 0
        while server.poll() is None and time.monotonic() < deadline:
            memory, torch = max(memory, peak_memory(server.pid)), torch or loads_torch(server.pid)
            printed = print_new(work / "server.log", printed)
            for i, device in enumerate(devices):
                if device.poll():
                    sys.exit(f"error: device {i} failed: {(work / f'device-{i}.log').read_text()[-300:]}")
            time.sleep(0.2)
        print_new(work / "server.log", printed)
        if server.poll() != 0:
            sys.exit("error: the coordinator did not complete the run")
        for device in devices:
            device.wait(30)
    return memory, torch


@contextmanager
def process(command: Sequence[str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Run a process that is ended with the context, also after an exception."""
    with log.open("wb") as file:
        started = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT)
    try:
        yield started
    finally:
        if started.poll() is None:
            end(started)


def wait_for_port(server: subprocess.Popen[bytes], log: Path) -> int:
    """Wait until the coordinator prints the port on which it listens, and return the port."""
    while not (match := re.search(r"clients on port (\d+)", log.read_text())):
        if server.poll() is not None:
            sys.exit(f"error: the coordinator ended: {log.read_text()}")
        time.sleep(0.05)
    return int(match[1])


def peak_memory(pid: int) -> float:
    """Return the peak memory of a process in MB; 0 if it has ended, or on a system without /proc."""
    try:
        match = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    except OSError:
        return 0.0
    return int(match[1]) / 1024 if match else 0.0


def loads_torch(pid: int) -> bool:
    """Return whether a process has loaded a library of torch."""
    try:
        return "libtorch" in Path(f"/proc/{pid}/maps").read_text()
    except OSError:
        return False


def print_new(log: Path, printed: int) -> int:
    """Print a log without its first `printed` characters, and return its length."""
    text = log.read_text()
    print(text[printed:], end="", flush=True)
    return len(text)


def accuracies(run: Sequence[str], clients: int, work: Path) -> list[float]:
    """Return the accuracy of each device's final model on the test set, by `edgefd-client infer`."""
    dataset = load_data(load_config(Path(run[0]), list(run[1:])))
    np.save(work / "x.npy", dataset.x_test)
    results = []
    for i in range(clients):
        bundle = next((work / f"state-{i}").glob("bundle-*"))
        infer = ["--bundle", str(bundle), "--state", str(work / f"state-{i}"), "--input", str(work / "x.npy")]
        call(*DEVICE, "infer", *infer, "--out", str(work / "logits.npy"))
        results.append(float((np.load(work / "logits.npy").argmax(1) == dataset.y_test).mean()))
    return results


def overheads(out: Path, work: Path, clients: int) -> list[float]:
    """Return the seconds of each round beyond the slowest device's own work. Leave out round 0: devices start in it."""
    logs = [(work / f"device-{i}.log").read_text() for i in range(clients)]
    device_seconds = [
        {int(r): float(s) for r, s in re.findall(r"^round (\d+): .* ([\d.]+) s$", log, re.M)} for log in logs
    ]
    rounds = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [r["seconds"] - max(seconds[r["round"]] for seconds in device_seconds) for r in rounds if r["round"] > 0]


def formatted(values: Sequence[float]) -> str:
    """Format values with four decimals, separated by spaces."""
    return " ".join(f"{value:.4f}" for value in values)


def call(*command: str) -> None:
    """Run a command to its end without printing its output. On an error, print its message and exit."""
    done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT)
    if done.returncode:
        sys.exit(f"error: {' '.join(command[2:5])}: {done.stderr.strip()}")


if __name__ == "__main__":
    main()
