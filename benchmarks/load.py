"""Benchmark of many devices on one coordinator: seconds per round, accepted reports, memory and descriptors.

Run: python -m benchmarks.load [--devices 1000] [--rounds 5] [--rows 1000] [--classes 10] [--flower]

All processes run on 127.0.0.1, with mTLS and one certificate per device: the coordinator in one process, the devices
(`benchmarks.load_devices`, without models) in two others. A round is over when every report has been checked and
averaged. All devices answer for all rows at the same time; real devices never do, because they train first. `--flower`
sends as many replies of the same size through a Flower SuperLink (`benchmarks.load_flower`) and prints both results.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from edgefd_server.certs import add_device, init

from benchmarks import load_flower
from benchmarks.processes import start

GENERATORS = 2


@dataclass(frozen=True)
class Round:
    """The figures that the coordinator's process printed after a round."""

    seconds: float
    reports: int
    up: int
    """bytes of knowledge in the reports"""
    down: int
    """bytes of knowledge in the teachers that the devices got, summed over devices"""
    processor: float
    """processor seconds since the process began"""
    memory: float
    """memory in MB"""
    peak: float
    """peak memory so far in MB"""
    descriptors: int
    """number of open files and sockets"""


@dataclass(frozen=True)
class Load:
    """The figures of a run, without its closing round, in which the reports hold no rows."""

    devices: int
    rounds: Sequence[Round]
    accepted: int
    """accepted reports of all rounds, including the closing round"""


def certificates(folder: Path, devices: int) -> Path:
    """Create the certificates of a federation, and return their folder."""
    init(folder, ["127.0.0.1"], 30)
    for client in range(devices):
        add_device(folder, f"d{client}", client, 30)
    return folder


def measure(devices: int, rounds: int, rows: int, classes: int, limit: float = 1800.0) -> Load:
    """Run a coordinator and its devices, and return the figures.

    Raises:
        RuntimeError: if a process fails; the message holds its output.
        subprocess.TimeoutExpired: after `limit` seconds.
    """
    with tempfile.TemporaryDirectory(prefix="edgefd-load-") as name, ExitStack() as started:
        work = Path(name)
        certs = certificates(work / "certs", devices)
        size = ["--rows", str(rows), "--classes", str(classes)]
        python, piped = [sys.executable, "-m"], {"stdout": subprocess.PIPE, "text": True}
        command = [*python, "benchmarks.load_coordinator", "--devices", str(devices), "--rounds", str(rounds)]
        command += [*size, "--certs", str(certs), "--log", str(work / "log")]
        coordinator = start(started, command, work / "coordinator", **piped)
        port = json.loads(coordinator.stdout.readline() or "{}").get("port")  # type: ignore[union-attr]
        parts = np.array_split(np.arange(devices), min(GENERATORS, devices)) if port else []
        join = [*python, "benchmarks.load_devices", "--address", f"127.0.0.1:{port}", "--certs", str(certs), *size]
        fleets = [
            start(started, [*join, "--first", str(p[0]), "--count", str(len(p))], work / f"fleet{i}")
            for i, p in enumerate(parts)
        ]
        output, _ = coordinator.communicate(timeout=limit)
        for process, log in ((coordinator, "coordinator"), *((f, f"fleet{i}") for i, f in enumerate(fleets))):
            if process.wait(60):
                raise RuntimeError(f"{log} failed: {(work / log).read_text()[-2000:]}")
    lines = [json.loads(line) for line in output.splitlines()]
    completed = [Round(**{k: v for k, v in line.items() if k != "round"}) for line in lines[:-2]]
    return Load(devices, completed, int(lines[-1]["accepted"]))


def show(load: Load) -> None:
    """Print the figures."""
    seconds = [r.seconds for r in load.rounds]
    expected = load.devices * (len(load.rounds) + 1)
    last = load.rounds[-1]
    print(f"{load.devices} devices, {last.up / load.devices / 1000:.1f} kB of knowledge per report")
    print(f"  first round, devices joining in it: {seconds[0]:.2f} s")
    if rest := seconds[1:]:
        print(f"  other {len(rest)} rounds: {min(rest):.2f} to {max(rest):.2f} s, median {np.median(rest):.2f} s")
        processor = (last.processor - load.rounds[0].processor) / len(rest)
        print(f"  coordinator's processor time: {processor:.2f} s per round")
    print(f"  reports accepted: {load.accepted} of {expected}, including the closing round's")
    print(f"  coordinator: {last.peak:.0f} MB at most, {last.descriptors} descriptors")
    if len(load.rounds) > 20:
        early = load.rounds[19]
        print(
            f"  after round 20: {early.memory:.1f} MB, {early.descriptors} descriptors; "
            f"after round {len(load.rounds)}: {last.memory:.1f} MB, {last.descriptors}"
        )


def show_flower(flower: load_flower.FlowerLoad, ours: Load) -> None:
    """Print the same figures of Flower, and the ratio of the durations of a round."""
    median, ours_median = np.median(flower.seconds[1:]), np.median([r.seconds for r in ours.rounds[1:]])
    print(f"Flower SuperLink, {ours.devices} nodes that answer at once, replies of the same size")
    print(f"  first round: {flower.seconds[0]:.2f} s")
    print(f"  other {len(flower.seconds) - 1} rounds: median {median:.2f} s, {median / ours_median:.1f} times as long")
    print(f"  SuperLink's processor time: {flower.processor:.2f} s per round")
    print(f"  replies: {flower.replies} of {ours.devices * len(flower.seconds)}")
    print(f"  SuperLink {flower.superlink:.0f} MB at most, its ServerApp {flower.serverapp:.0f} MB")


def main() -> None:
    """Measure and print."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--devices", type=int, default=1000)
    options.add_argument("--rounds", type=int, default=5)
    options.add_argument("--rows", type=int, default=1000)
    options.add_argument("--classes", type=int, default=10)
    options.add_argument("--flower", action="store_true", help="run the same exchange through a Flower SuperLink too")
    chosen = options.parse_args()
    if chosen.rounds < 2 or chosen.devices < 1:
        options.error("--rounds must be at least 2 (the first round is shown separately), --devices at least 1")
    load = measure(chosen.devices, chosen.rounds, chosen.rows, chosen.classes)
    show(load)
    if chosen.flower:
        last = load.rounds[-1]
        up, down = last.up // chosen.devices, last.down // chosen.devices
        try:
            show_flower(load_flower.measure(chosen.devices, chosen.rounds, up, down), load)
        except RuntimeError as error:
            sys.exit(f"error: Flower's {chosen.devices} nodes: {error}")


if __name__ == "__main__":
    main()
