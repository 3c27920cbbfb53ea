"""Tune several methods with the same budget, on the validation part of the training data.

Each method gets the same number of trials. A trial is one combination of settings, run with the same seeds for every
method; its value is the final mean accuracy over clients on the validation part, averaged over the seeds. Trial 0 has
the settings of the config. Later trials are suggested by Optuna's TPE sampler from the trials before them.

A suggestion depends on nothing but the earlier trials, the seed of the config, the method and the number of the trial.
A trial is stored when all its runs have ended, and its runs are kept in folders whose names hold a digest of their
configs. Therefore a tuning that was stopped, also by kill -9, resumes where it stopped, and gives the same trials.

A trial with a run that its settings made impossible, such as a learning rate with which the training diverges, is
stored as failed: it is not tried again. An error of the machine, such as a full disk, ends the tuning instead.
"""

from __future__ import annotations

import hashlib
import json
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edgefd.config.load import baseline_config, read_sections
from edgefd.config.schema import Config
from edgefd.core.errors import RunError, UserError
from edgefd.core.files import exclusive_lock, make_folder, removed_on_error
from edgefd.core.seeding import Purpose, make_rng
from edgefd.runs.read import read_summary
from edgefd.simulation.run_cells import Cell, Failure
from edgefd.simulation.sweep import FailedRuns, cell_of, check_data, config_with, run_sweep
from edgefd.simulation.tuning_space import Range, Space, read_space, with_default

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution
    from optuna.study import Study
    from optuna.trial import FrozenTrial

STUDIES = "studies.db"
"""SQLite file of Optuna with one study for each method"""
_RANDOM_TRIALS = 4  # trials after the default before TPE models the earlier ones
_MODEL_DRAWS, _DRAWS = 20, 200  # suggestions for one trial, first by TPE, then random, until one is new and accepted


@dataclass(frozen=True)
class MethodSpace:
    """A method with its default config and its space, which holds the default."""

    name: str
    base: Config
    space: Space
    default: Mapping[str, Any]
    """settings of trial 0"""

    def config(self, settings: Mapping[str, Any], seed: int) -> Config:
        """Return the config of one run of a trial."""
        return config_with(read_sections(self.base), {**settings, "seed": seed})


@dataclass(frozen=True)
class Trial:
    """A trial of a method, finished or failed."""

    method: str
    number: int
    settings: Mapping[str, Any]
    value: float | None
    """mean of `by_seed`; None for a failed trial"""
    by_seed: Mapping[int, float]
    """final mean accuracy over clients on the validation part, for each seed"""
    seconds: float
    """duration of all runs of the trial"""
    bytes_up: float
    """mean over seeds of the bytes that all clients sent"""
    error: str = ""
    """error of a failed trial: the first of its runs, with the name of the run"""


Results = dict[str, list[Trial]]
"""the trials of each method, the default first"""


@dataclass(frozen=True)
class Tuning:
    """Everything that decides the trials, except their number."""

    config: Config
    methods: tuple[MethodSpace, ...]
    seeds: tuple[int, ...]
    data_sha256: str
    """digest of the data without the validation part, and of the validation part"""

    def identity(self, method: MethodSpace) -> str:
        """Return a digest of what decides the trials of a method."""
        space = {key: repr(values) for key, values in method.space.items()}
        parts = [method.base.to_dict(), space, self.seeds, self.config.seed, self.data_sha256]
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def load_tuning(config: Config, space: Path, methods: Sequence[str], seeds: Sequence[int]) -> Tuning:
    """Check all inputs of a tuning before its first run.

    Args:
        config: settings of every run. Its seed belongs to the reported runs, so it may not be one of `seeds`.
        space: the space file.
        methods: methods to tune (empty = the config's method and its baselines).
        seeds: seeds of each trial.

    Raises:
        UserError: for the first error.
    """
    if not config.data.validation:
        raise UserError("tuning measures on a validation part of the training data: set data.validation, such as 0.1")
    if not seeds or len(set(seeds)) < len(seeds) or min(seeds) < 0:
        raise UserError(f"--seeds must be different numbers of at least 0, such as 100,101, not {list(seeds)}")
    if config.seed in seeds:
        raise UserError(
            f"--seeds holds {config.seed}, the seed of the config: tune with seeds that no reported run uses, such as "
            "100,101"
        )
    names = list(dict.fromkeys(methods or (config.method_name, *config.baselines)))
    spaces = read_space(space, names)
    tuned = tuple(_method_space(config, name, space, spaces[name]) for name in names)
    data_sha256 = " ".join(check_data([method.base for method in tuned]).values())
    return Tuning(config, tuned, tuple(seeds), data_sha256)


def _method_space(config: Config, name: str, path: Path, space: Space) -> MethodSpace:
    """Return the space of a method with its default, after a check of every value of the space."""
    own = config if name == config.method_name else baseline_config(config, name)
    base = config_with(read_sections(own), {"data.evaluate_on": "validation"})
    flat = {
        f"{section}.{key}": value
        for section, values in base.to_dict().items()
        if isinstance(values, dict)
        for key, value in values.items()
    }
    if unknown := [key for key in space if key not in flat]:
        raise UserError(f"{path}: {name} has no setting {unknown[0]}: remove it, or set it to null for this method")
    complete = {key: with_default(path, name, key, values, flat[key]) for key, values in space.items()}
    for key, values in complete.items():
        for value in values.ends if isinstance(values, Range) else values:
            try:
                config_with(read_sections(base), {key: value})
            except UserError as error:
                raise UserError(f"{path}: {name} with {key}={value}: {error}") from error
    return MethodSpace(name, base, complete, {key: flat[key] for key in complete})


def run_tuning(
    tuning: Tuning,
    trials: int,
    out: Path,
    workers: int,
    on_done: Callable[[Cell, str], None],
    on_trial: Callable[[Results], None],
) -> Results:
    """Run the trials that are missing and return all trials of each method, with the default first.

    Trial n of every method runs before trial n + 1 of any, so all budgets are equal at any time. A method whose space
    has no further combination gets no further trial.

    Args:
        tuning: the methods with their spaces.
        trials: number of trials of each method, at least 1.
        out: folder of the studies and of all run folders; it may hold an earlier part of the same tuning.
        workers: runs at the same time.
        on_done: called with each run and its outcome in one line when it ends.
        on_trial: called with all trials so far when one more trial of every method is stored.

    Raises:
        UserError: if `out` belongs to another tuning, or another process uses it.
        RunError: if a run fails because of the machine.
        Stopped: on Ctrl-C; everything that was completed is kept.
    """
    locked = False

    def is_kept() -> bool:  # without the lock, everything in `out` belongs to the process that has it
        return not locked or any(out.glob("runs/*/summary.json"))

    with removed_on_error(out, unless=is_kept):
        make_folder(out)
        lock = exclusive_lock(out / ".lock", f"another process tunes in {out}", f"cannot lock {out / '.lock'}")
        with lock:
            locked = True
            studies = _open_studies(tuning, out)
            for number in range(trials):
                _run_trial(tuning, number, studies, out, workers, on_done)
                results = {n: [_trial(n, t) for t in study.trials[: number + 1]] for n, study in studies.items()}
                on_trial(results)
            return results


def _open_studies(tuning: Tuning, out: Path) -> dict[str, Study]:
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    storage = f"sqlite:///{out / STUDIES}"
    studies = {}
    for method in tuning.methods:
        study = optuna.create_study(storage=storage, study_name=method.name, direction="maximize", load_if_exists=True)
        identity = tuning.identity(method)
        if study.user_attrs.setdefault("identity", identity) != identity:
            raise UserError(
                f"{out} holds a tuning of {method.name} with other settings, seeds or data: choose another --out"
            )
        study.set_user_attr("identity", identity)
        studies[method.name] = study
    return studies


def _run_trial(
    tuning: Tuning,
    number: int,
    studies: Mapping[str, Study],
    out: Path,
    workers: int,
    on_done: Callable[[Cell, str], None],
) -> None:
    """Run one trial of every method that does not have it yet, and store the results."""
    histories = {name: study.trials for name, study in studies.items()}
    missing = [method for method in tuning.methods if len(histories[method.name]) == number]
    suggested = {m.name: suggest(m, histories[m.name], tuning.config.seed) for m in missing}
    cells = {
        (method.name, seed): cell_of(method.config(settings, seed), tuning.data_sha256)
        for method in missing
        if (settings := suggested[method.name]) is not None
        for seed in tuning.seeds
    }
    failures = _failures(list(cells.values()), out / "runs", workers, on_done)
    for method in missing:
        if (settings := suggested[method.name]) is None:
            continue
        names = {seed: cells[method.name, seed].name for seed in tuning.seeds}
        failed = [f"{name}: {failures[name].message}" for name in names.values() if name in failures]
        folders = {seed: out / "runs" / name for seed, name in names.items()}
        trial = _failed(method, settings, failed[0]) if failed else _stored(method, settings, folders)
        studies[method.name].add_trial(trial)


def _failures(
    cells: list[Cell], out: Path, workers: int, on_done: Callable[[Cell, str], None]
) -> Mapping[str, Failure]:
    """Run the cells; return the errors of those that their settings made impossible, by name.

    Raises:
        RunError: if a run failed because of the machine: the same settings can run later.
    """
    try:
        run_sweep(cells, out, workers, on_done)
    except FailedRuns as error:
        for name, failure in error.failures.items():
            if failure.of_machine:
                raise RunError(f"{name} failed: {failure.message}; repeat the command to resume") from error
        return error.failures
    return {}


def suggest(method: MethodSpace, history: Sequence[FrozenTrial], seed: int) -> dict[str, Any] | None:
    """Return the settings of the next trial after `history`; None if no new combination was found.

    The first trial has the default settings. A combination that was tried, or that the config refuses, is drawn again.
    The last draws are random, because TPE alone would not leave the best region of a small space.
    """
    import optuna

    if not history:
        return dict(method.default)
    distributions = _distributions(method.space)
    tried = [trial.params for trial in history]
    for draw in range(_DRAWS):
        rng = make_rng(seed, Purpose.TUNING, zlib.crc32(method.name.encode()), len(history), draw)
        n_random = 1 + _RANDOM_TRIALS if draw < _MODEL_DRAWS else len(history) + 1
        sampler = optuna.samplers.TPESampler(n_startup_trials=n_random, seed=int(rng.integers(2**32)))
        study = optuna.create_study(direction="maximize", sampler=sampler)
        study.add_trials(history)
        settings = study.ask(distributions).params
        if settings not in tried and _accepted(method, settings):
            return settings
    return None


def _accepted(method: MethodSpace, settings: Mapping[str, Any]) -> bool:
    try:
        method.config(settings, 0)
    except UserError:
        return False
    return True


def _distributions(space: Space) -> dict[str, BaseDistribution]:
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    distributions: dict[str, BaseDistribution] = {}
    for key, values in space.items():
        if not isinstance(values, Range):
            distributions[key] = CategoricalDistribution(values)
        elif values.kind == "integers":
            distributions[key] = IntDistribution(int(values.low), int(values.high))
        else:
            distributions[key] = FloatDistribution(values.low, values.high, log=values.kind == "log")
    return distributions


def _stored(method: MethodSpace, settings: dict[str, Any], folders: Mapping[int, Path]) -> FrozenTrial:
    """Return a trial in the form that Optuna stores, from the finished runs of the trial."""
    from optuna.trial import create_trial

    runs = {seed: read_summary(folder) for seed, folder in folders.items()}
    by_seed = {str(seed): run.accuracy_mean for seed, run in runs.items()}
    return create_trial(
        value=float(np.mean(list(by_seed.values()))),
        params=settings,
        distributions=_distributions(method.space),
        user_attrs={
            "by_seed": by_seed,
            "seconds": sum(run.seconds_total for run in runs.values()),
            "bytes_up": float(np.mean([run.bytes_up for run in runs.values()])),
        },
    )


def _failed(method: MethodSpace, settings: dict[str, Any], error: str) -> FrozenTrial:
    from optuna.trial import TrialState, create_trial

    return create_trial(
        state=TrialState.FAIL,
        params=settings,
        distributions=_distributions(method.space),
        user_attrs={"by_seed": {}, "seconds": 0.0, "bytes_up": 0.0, "error": error},
    )


def _trial(method: str, stored: FrozenTrial) -> Trial:
    attributes = stored.user_attrs
    by_seed = {int(seed): value for seed, value in attributes["by_seed"].items()}
    costs = (attributes["seconds"], attributes["bytes_up"])
    value = stored.values[0] if stored.values else None
    return Trial(method, stored.number, stored.params, value, by_seed, *costs, attributes.get("error", ""))


def best_of(trials: Sequence[Trial]) -> Trial | None:
    """Return the trial with the highest value, the earliest one among equals; None if all failed."""
    finished = [(trial.value, -trial.number, trial) for trial in trials if trial.value is not None]
    return max(finished)[2] if finished else None


def best_config(tuning: Tuning, best: Trial) -> Config:
    """Return the complete config of the best trial, measured on the test set, with the seed of the tuned config."""
    (method,) = (m for m in tuning.methods if m.name == best.method)
    config = method.config(best.settings, tuning.config.seed)
    return replace(config, data=replace(config.data, evaluate_on="test"), run=tuning.config.run)
