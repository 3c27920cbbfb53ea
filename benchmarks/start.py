"""Benchmark of the start of a simulation: CPU seconds of each phase before the first round, and memory, by clients.

Run: python -m benchmarks.start 10 100 1000 10000

CPU seconds are those of one process: `run.workers` divide the filters among the cores. The filters of at most 100
clients are run, and their time is multiplied. Each client has 64 rows, the proxy set 2,000: images of mnist_mini, drawn
with replacement and moved by up to two pixels.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

ROWS, PROXY, MEASURED = 64, 2000, 100


def write_data(path: Path, clients: int) -> None:
    """Write the samples of a federation as npz."""
    from edgefd.data.datasets import load_dataset

    mini, rng = load_dataset("mnist_mini"), np.random.default_rng(0)
    drawn = rng.integers(len(mini.x_train), size=clients * ROWS + PROXY)
    x = mini.x_train[drawn]
    for part in np.array_split(np.arange(len(x)), 25):
        x[part] = np.roll(x[part], rng.integers(-2, 3, 2), (2, 3))
    np.savez(path, x_train=x, y_train=mini.y_train[drawn], x_test=mini.x_test, y_test=mini.y_test)


def measure(path: Path, clients: int) -> dict[str, float]:
    """Return the CPU seconds of each phase, and the peak memory in MiB, of this process."""
    import torch
    from threadpoolctl import threadpool_limits

    from edgefd.config.load import parse_config
    from edgefd.runs.prepare import prepare
    from edgefd.simulation.engine import make_simulation_state, run_filter

    torch.set_num_threads(1)
    threadpool_limits(1, "blas")
    seconds = {"imports": time.process_time()}
    config = parse_config(
        {
            "data": {"name": str(path)},
            "partition": {"name": "iid", "n_clients": clients},
            "proxy": {"source": "public", "alpha": PROXY / (clients * ROWS + PROXY)},
            "model": {"name": "cnn"},
            "method": {"name": "edgefd"},
        }
    )
    start = time.process_time()
    prepared = prepare(config)
    seconds["data"] = time.process_time() - start
    state = make_simulation_state(config, prepared.federation)
    seconds["clients"] = time.process_time() - start - seconds["data"]
    measured = min(clients, MEASURED)
    run_filter(state, 0)
    start = time.process_time()
    for client in range(1, measured):
        run_filter(state, client)
    seconds["filters"] = (time.process_time() - start) / (measured - 1) * clients
    return seconds | {"MiB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}


def main() -> None:
    """Measure each number of clients in a new process, and print a table."""
    print("clients  imports  data  clients  filters (CPU seconds)  peak MiB")
    for clients in map(int, sys.argv[1:]):
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "images.npz"
            write_data(path, clients)
            command = [sys.executable, "-m", "benchmarks.start", "--one", str(path), str(clients)]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
        of = json.loads(done.stdout)
        print(clients, *(f"{of[name]:.1f}" for name in ("imports", "data", "clients", "filters", "MiB")), flush=True)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--one"]:
        print(json.dumps(measure(Path(sys.argv[2]), int(sys.argv[3]))))
    else:
        main()
