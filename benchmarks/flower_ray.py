"""Seconds of a whole round: edgefd's own engine against Flower's simulation engine on Ray, taking turns run by run.

Run: python -m benchmarks.flower_ray [turns]

Both run `client_round` with the same learner: what is compared is what Flower and Ray add. A Flower app written
the usual way, with DataLoaders and a model made anew for each message, is slower still.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from benchmarks.pairing import Ratio, ratio
from edgefd.simulation.ray import check_ray

CONFIG = """
data: {name: mnist_mini, limit: LIMIT, heldout: 0.1}
partition: {name: iid, n_clients: CLIENTS}
proxy: {source: public, alpha: ALPHA}
model: {name: MODEL}
method: {name: fedmd}
codec: {name: float32}
train: {rounds: 7, local_steps: STEPS, private_rows: 0, optimizer: sgd, lr: 0.01, final_lr: 0.01}
run: {evaluate_every: 1000}
"""
CASES = {  # about as many private and proxy rows a client as in benchmarks.rounds
    "cnn 10 x 331": {"MODEL": "cnn", "CLIENTS": "10", "LIMIT": "4000", "ALPHA": "0.08", "STEPS": "5"},
    "mlp 100 x 53": {"MODEL": "mlp", "CLIENTS": "100", "LIMIT": "6000", "ALPHA": "0.0107", "STEPS": "1"},
}


def warm_rounds(case: str, engine: str) -> float:
    """Median seconds of a round after the first two, in a fresh run."""
    text = CONFIG
    for word, value in CASES[case].items():
        text = text.replace(word, value)
    with tempfile.TemporaryDirectory() as folder:
        config, out = Path(folder) / "config.yaml", Path(folder) / "run"
        config.write_text(text)
        program = "from edgefd.cli import main; main()"
        command = [sys.executable, "-c", program, "simulate", str(config), "--engine", engine, "--out", str(out)]
        subprocess.run(command, check=True, capture_output=True, timeout=300)
        lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return float(np.median([m["seconds"] for m in lines if not m["closing"]][2:]))


def compare(case: str, turns: int = 2) -> Ratio:
    """Ray over local, run after run."""
    check_ray()
    seconds: dict[str, list[float]] = {"local": [], "ray": []}
    for turn in range(turns):
        for engine in ("local", "ray") if turn % 2 else ("ray", "local"):
            seconds[engine].append(warm_rounds(case, engine))
    medians = ", ".join(f"{engine} {np.median(s):.3f} s" for engine, s in seconds.items())
    print(f"{case}: {medians}", flush=True)
    return ratio(f"round, {case}", "Flower on Ray", seconds["ray"], seconds["local"])


if __name__ == "__main__":
    for name in CASES:
        found = compare(name, int(sys.argv[1]) if sys.argv[1:] else 3)
        print(f"  Flower on Ray takes {found.ratio:.2f} times as long  [{found.low:.2f}, {found.high:.2f}]")
