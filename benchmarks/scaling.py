"""Benchmark of scaling: seconds per round by clients and by proxy rows, memory, and share of the GEMM peak.

Run: python -m benchmarks.scaling
"""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import torch

from benchmarks.engines import Ours, round_seconds
from benchmarks.pairing import take_turns
from benchmarks.workload import Case

CLIENTS, PROXY = (1, 10, 100, 1000), (320, 1000, 3000)
FLOPS_A_ROW = 2 * (24 * 24 * 25 * 10 + 8 * 8 * 250 * 20 + 320 * 50 + 500)  # cnn, forward


def seconds_a_round(case: Case, workers: int, rounds: int) -> float:
    """Return the median seconds of a round, without the first two rounds."""
    return float(np.median(round_seconds(Ours(case, workers), rounds + 2)[2:]))


def peak_memory(case: Case, workers: int) -> int:
    """Return the peak memory in bytes of a new process and its workers, sampled each round.

    It is the proportional set size, which counts shared pages once.
    """
    command = [sys.executable, "-m", "benchmarks.scaling", "--memory", case.model, str(case.clients), str(case.rows)]
    done = subprocess.run([*command, str(workers)], capture_output=True, text=True, check=True, timeout=600)
    return int(json.loads(done.stdout))


def gemm_peak() -> float:
    """Return the floating-point operations per second of one thread on a large product (two per multiply-add)."""
    torch.set_num_threads(1)
    a = torch.rand(1536, 1536)
    return 2 * 1536**3 / min(take_turns({"product": lambda: a @ a}, 6)["product"])


def _measure_memory(case: Case, workers: int) -> int:
    import multiprocessing
    import os

    engine = Ours(case, workers)
    peak = 0
    for _ in range(3):
        engine.round()
        pids = [os.getpid(), *(p.pid for p in multiprocessing.active_children())]
        peak = max(peak, sum(_pss(pid) for pid in pids if pid))
    engine.close()
    return peak


def _pss(pid: int) -> int:
    with open(f"/proc/{pid}/smaps_rollup") as file:
        return next(int(line.split()[1]) * 1024 for line in file if line.startswith("Pss:"))


def main() -> None:
    """Print all figures."""
    print("clients (cnn, 64 rows, 64 proxy rows, 2 workers):")
    for n in CLIENTS:
        s = seconds_a_round(Case("cnn", n, 64), 2, 3 if n >= 1000 else 7)
        print(f"  {n:5} clients: {s:8.3f} s per round, {1000 * s / n:7.2f} ms per client")
    print("proxy rows (cnn, 10 clients x 320, 2 workers):")
    for p in PROXY:
        s = seconds_a_round(Case("cnn", 10, 320, p), 2, 4)
        print(f"  {p:5} proxy rows: {s:8.3f} s per round, {1e6 * s / (10 * (p + 320)):7.1f} us per trained row")
    for n in (10, 1000):
        print(f"memory of {n} clients (cnn, 64 rows, 2 workers): {peak_memory(Case('cnn', n, 64), 2) / 2**20:.0f} MiB")
    case = Case("cnn", 10, 320)
    s = seconds_a_round(case, 0, 5)
    work = case.clients * FLOPS_A_ROW * (3 * (case.rows + case.proxy_rows) + case.proxy_rows)
    print(f"cnn 10 x 320, 1 process: {work / s / 1e9:.1f} GF/s, {100 * work / s / gemm_peak():.0f} % of the GEMM peak")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--memory"]:
        name, clients, rows, n_workers = sys.argv[2:]
        print(_measure_memory(Case(name, int(clients), int(rows)), int(n_workers)))
    else:
        main()
