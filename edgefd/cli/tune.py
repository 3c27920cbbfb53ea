"""The command that tunes methods on the validation part of the training data."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgefd.cli.common import ConfigFile, Overrides, console, require_simulation
from edgefd.config.load import load_config
from edgefd.core.errors import RunError, UserError, require
from edgefd.core.host import cores

if TYPE_CHECKING:
    from edgefd.simulation.run_cells import Cell
    from edgefd.simulation.tuning import Results, Trial

_DIGITS = 20  # of the largest seed, 2**64 - 1


def tune(
    config: ConfigFile,
    overrides: Overrides = None,
    space: Annotated[
        Path,
        typer.Option("--space", metavar="FILE", help="the values of each setting, for all methods and for single ones"),
    ] = Path("simulations/tuning/methods.yaml"),
    trials: Annotated[int, typer.Option("--trials", min=1, help="trials of each method, the default included")] = 12,
    seeds: Annotated[str, typer.Option("--seeds", help="seeds of each trial, such as 100,101")] = "100",
    methods: Annotated[
        str | None,
        typer.Option("--methods", help="methods, such as edgefd,fedmd (default: that of CONFIG and its baselines)"),
    ] = None,
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="the folder of trials and results")] = Path(
        "runs/tuning"
    ),
    jobs: Annotated[
        int | None, typer.Option("--jobs", min=1, help="runs at the same time (default: one for each core)")
    ] = None,
) -> None:
    """Tune methods with the same budget on the validation part. Repeat the command to resume a stopped tuning.

    Example: edgefd tune simulations/quickstart.yaml data.validation=0.1 --trials 12 --seeds 100,101 --out runs/tuning
    """
    loaded = load_config(config, overrides or [])  # first: a bad config is refused before torch is imported
    require_simulation()
    require("tune", "optuna")
    from edgefd.simulation.tuning import best_of, load_tuning, run_tuning
    from edgefd.simulation.tuning_results import TRIALS, best_path, tuning_table, write_results

    names = [name.strip() for name in methods.split(",")] if methods else []
    tuning = load_tuning(loaded, space, names, _numbers(seeds))
    if loaded.data.evaluate_on == "test":
        print("the trials are measured on the validation part: data.evaluate_on=validation", flush=True)
    total, finished = trials * len(tuning.methods) * len(tuning.seeds), 0

    def log_outcome(cell: Cell, outcome: str) -> None:
        nonlocal finished
        finished += 1
        print(f"{finished}/{total} {cell.name}: {outcome}", flush=True)

    def log_trial(results: Results) -> None:
        write_results(tuning, results, out)
        best = ", ".join(f"{name} {_shown(best_of(of_method))}" for name, of_method in results.items())
        print(f"best after {max(map(len, results.values()))} of {trials} trials: {best}", flush=True)

    results = run_tuning(tuning, trials, out, jobs or cores(), log_outcome, log_trial)
    console.print(tuning_table(tuning, results))
    console.print(f"all trials: {out / TRIALS}; best configs: {best_path(out, '*')}", soft_wrap=True, highlight=False)
    for name, of_method in results.items():
        if best_of(of_method) is None:
            raise RunError(f"all trials of {name} failed: {of_method[0].error}")


def _shown(trial: Trial | None) -> str:
    return "failed" if trial is None else f"{trial.value:.4f}"


def _numbers(text: str) -> list[int]:
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isascii() and part.isdigit() and len(part) <= _DIGITS for part in parts):
        raise UserError(f"--seeds must be numbers such as 100,101, not {text!r}")
    return [int(part) for part in parts]
