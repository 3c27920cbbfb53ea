"""Results of a tuning: a table of all trials, the best config of each method, and a table on the terminal."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.box import SIMPLE
from rich.table import Table

from edgefd.core.files import put, writing
from edgefd.core.yaml_files import dump_yaml
from edgefd.simulation.tuning import Trial, Tuning, best_config, best_of

TRIALS = "trials.csv"
BEST = "best.yaml"


def write_results(tuning: Tuning, trials: Mapping[str, Sequence[Trial]], out: Path) -> None:
    """Write out/trials.csv with every trial, and out/METHOD/best.yaml, a complete config, for each method.

    Raises:
        RunError: if the disk is full or read-only.
    """
    with writing(out / TRIALS) as path:
        put(path, _csv([trial for of_method in trials.values() for trial in of_method], tuning.seeds).encode())
    for name, of_method in trials.items():
        if (best := best_of(of_method)) is None:
            continue
        head = (
            f"# Best of {len(of_method)} trials of {name} (trial {best.number}): mean accuracy {best.value:.4f} on the "
            f"validation part,\n# seeds {_listed(tuning.seeds)}; the default (trial 0) "
            f"{'failed' if of_method[0].value is None else f'had {of_method[0].value:.4f}'}. "
            "This config measures on the test set.\n"
        )
        with writing(best_path(out, name)) as path:
            put(path, (head + dump_yaml(best_config(tuning, best).to_dict())).encode())


def best_path(out: Path, method: str) -> Path:
    """Return the path of a method's best config."""
    return out / method.replace(":", ".") / BEST


def _csv(trials: Sequence[Trial], seeds: Sequence[int]) -> str:
    keys = list(dict.fromkeys(key for trial in trials for key in trial.settings))
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(["method", "trial", "accuracy", *(f"seed {s}" for s in seeds), "up MB", "seconds", *keys, "error"])
    for t in trials:
        by_seed = (f"{t.by_seed[seed]:.6f}" if seed in t.by_seed else "" for seed in seeds)
        costs = (f"{t.bytes_up / 1e6:.3f}", f"{t.seconds:.1f}")
        settings = (t.settings.get(key, "") for key in keys)
        value = "" if t.value is None else f"{t.value:.6f}"
        writer.writerow([t.method, t.number, value, *by_seed, *costs, *settings, t.error])
    return text.getvalue()


def tuning_table(tuning: Tuning, trials: Mapping[str, Sequence[Trial]]) -> Table:
    """Return a table with one row for each method, the best value first."""
    config = tuning.config
    title = f"{Path(config.data.name).stem}, {config.partition.name}: accuracy in per cent on the validation part"
    caption = (
        f"final mean over clients, mean over seeds {_listed(tuning.seeds)}; default: trial 0, the settings of the "
        "config; a best of several trials is optimistic: measure it on the test set with other seeds"
    )
    table = Table(title=title, caption=caption, box=SIMPLE, padding=(0, 1, 0, 0), pad_edge=False)
    table.add_column("method", no_wrap=True)
    for name in ("trials", "default", "best", "gain", "trial"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("best settings that differ from the default")
    order = sorted(trials, key=lambda name: _value(best_of(trials[name]), -1.0), reverse=True)
    for name, of_method in ((name, trials[name]) for name in order):
        best, default = best_of(of_method), of_method[0]
        n_failed = sum(trial.value is None for trial in of_method)
        count = f"{len(of_method)} ({n_failed} failed)" if n_failed else str(len(of_method))
        if best is None:
            table.add_row(name, count, "failed", "", "", "", of_method[0].error)
            continue
        changed = [f"{k}={_short(v)}" for k, v in best.settings.items() if v != default.settings[k]]
        gain = "" if default.value is None else f"{100 * (_value(best, 0) - default.value):.2f}"
        figures = ("failed" if v is None else f"{100 * v:.2f}" for v in (default.value, best.value))
        table.add_row(name, count, *figures, gain, str(best.number), " ".join(changed) or "none")
    return table


def _value(trial: Trial | None, otherwise: float) -> float:
    return otherwise if trial is None or trial.value is None else trial.value


def _short(value: object) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _listed(seeds: Sequence[int]) -> str:
    return ", ".join(map(str, seeds))
