"""What two runs with the same bits have in common: everything in their folders but the time that they took."""

import json
from pathlib import Path
from typing import Any

from edgefd.runs.callbacks import Callback
from edgefd.runs.round_metrics import RoundMetrics


class StopAfter(Callback):
    """A callback that stops a run after a number of rounds, as Ctrl-C does."""

    def __init__(self, n_rounds: int) -> None:
        self._last = n_rounds - 1

    def on_round(self, metrics: RoundMetrics) -> None:
        if metrics.round == self._last:
            raise KeyboardInterrupt


def results(folder: Path) -> dict[str, Any]:
    """Return metrics, summary, evaluation and models of a run folder and of its baselines, without seconds."""
    found: dict[str, Any] = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if path.name in ("metrics.jsonl", "summary.json", "evaluation.json"):
            found[name] = [_timeless(json.loads(line)) for line in _documents(path)]
        elif path.suffix in (".safetensors", ".npz", ".bin") and path.name != "checkpoint.bin":
            found[name] = path.read_bytes()
    return found


def _documents(path: Path) -> list[str]:
    return path.read_text().splitlines() if path.suffix == ".jsonl" else [path.read_text()]


def _timeless(document: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in document.items() if not key.startswith("seconds")}
