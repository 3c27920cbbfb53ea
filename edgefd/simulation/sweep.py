"""Sweeps: a grid of runs, several at the same time, resumable.

A sweep file holds `base`, the sections of an ordinary config, and `grid`, lists of values for any of its keys:

    base: {data: {name: mnist_mini}, train: {rounds: 30, augment_shift: 2}}
    grid:
      method: [{name: edgefd}, {name: edgefd, accept_contributed: false}, {name: fedmd}]
      partition.name: [strong, weak, iid]
      seed: [0, 1, 2]

Every combination is a run. Settings that do not form a grid go into `cases`, a list of {key: value}: each case is
combined with every combination of the grid, and the grid may then be omitted. The name of a run's folder consists of
its main settings and a digest of its resolved config and its data. Therefore a stopped sweep resumes with the runs that
are missing, and a run whose config or data changed is a new run. A run that was stopped continues after its checkpoint.
Sweeps that write in the same folder at the same time share the runs (`edgefd.simulation.run_cells`).
"""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

from edgefd.config.load import Source, parse_config, read_sections
from edgefd.config.overrides import Overrides, read_overrides, selects_variant, set_key
from edgefd.config.partition import FromFile
from edgefd.config.schema import Config, Data
from edgefd.core.errors import RunError, Stopped, UserError
from edgefd.core.files import os_errors
from edgefd.data.proxy_data import ProxyData
from edgefd.runs.callbacks import load_callbacks
from edgefd.runs.folder import has_round
from edgefd.runs.load_data import load_data
from edgefd.runs.prepare import check_fits
from edgefd.runs.read import is_complete, read_summary
from edgefd.simulation.run_cells import Cell, Failure, run_all


class FailedRuns(RunError):
    """Runs of a sweep that failed, with the error of each by the name of its folder."""

    def __init__(self, message: str, failures: Mapping[str, Failure]) -> None:
        super().__init__(message)
        self.failures = failures


def load_sweep(source: Source, overrides: Overrides = ()) -> list[Cell]:
    """Return the runs of a sweep file; the last key of the grid varies fastest.

    Args:
        source: the sweep file, or its content as a dict.
        overrides: other values for a key of the grid (`seed=[0, 1]`), or another setting in `base`.

    Raises:
        UserError: for the first error in the file or its data, before any run starts.
    """
    raw, path = read_sections(source), "the sweep" if isinstance(source, Mapping | Config) else source
    base, grid, cases = raw.get("base", {}), raw.get("grid", {} if "cases" in raw else None), raw.get("cases", [{}])
    if set(raw) - {"base", "grid", "cases"} or not isinstance(grid, dict) or not isinstance(base, dict):
        raise UserError(
            f"{path} must hold base: (sections of a config) and grid: (key: [values]) or cases:, and nothing else"
        )
    if not isinstance(cases, list) or not cases or not all(isinstance(case, dict) for case in cases):
        raise UserError(f"{path}: cases must be a list of settings, such as - {{train.rounds: 10, seed: 1}}")
    for key, value in read_overrides(overrides):
        _apply_override(base, grid, cases, key, value)
    for key in itertools.chain(grid, *cases):
        if not isinstance(key, str):
            raise UserError(f"{path}: grid.{key} must be the name of a key, such as train.rounds")
    for key, values in grid.items():
        if not isinstance(values, list) or not values:
            raise UserError(f"{path}: grid.{key} must be a list of values")
    combinations = [case | dict(zip(grid, c, strict=True)) for case in cases for c in itertools.product(*grid.values())]
    configs = [config_with(base, settings) for settings in combinations]
    digests = check_data(configs)
    cells = [cell_of(config, digests[config.data, config.proxy.data]) for config in configs]
    if len({c.name for c in cells}) < len(cells):
        raise UserError(f"{path}: the grid has the same run twice")
    return cells


def run_sweep(cells: list[Cell], out: Path, workers: int, on_done: Callable[[Cell, str], None]) -> list[Path]:
    """Run all cells that are not complete, `workers` runs at a time, and return the folders of all.

    `on_done(cell, outcome)` is called when a run ends; a run that fails does not stop the others. Runs that another
    sweep has at work in the same folder are left to it; this sweep ends when all cells are complete or have failed.

    Raises:
        FailedRuns: at the end, if runs failed; the message names them.
        RunError: if a process of the sweep died.
        Stopped: on Ctrl-C.
    """
    incomplete = [cell for cell in cells if not is_complete(out / cell.name)]
    for cell in cells:
        if cell not in incomplete:
            on_done(cell, "complete already")
    failures: dict[str, Failure] = {}

    def has_results() -> bool:
        return any(has_round(out / cell.name) for cell in cells)

    with _removed_if_empty(out):
        try:
            with closing(run_all(incomplete, out, workers)) as results:
                for cell, result in results:
                    if isinstance(result, Failure):
                        failures[cell.name] = result
                        on_done(cell, f"failed: {result.message}")
                    else:
                        on_done(cell, outcome(out / cell.name) + (", by another process" if result else ""))
        except KeyboardInterrupt as stop:
            kept = f"finished runs are kept in {out}; repeat the command to resume"
            raise Stopped(kept if has_results() else "no run has completed a round") from stop
        if failures:
            names = ", ".join(failures)
            message = f"{len(failures)} of {len(cells)} runs failed: {names}; repeat the command to retry them"
            raise FailedRuns(message, failures)
    return [out / cell.name for cell in cells]


@contextmanager
def _removed_if_empty(folder: Path) -> Iterator[None]:
    """Remove a folder, and those above it, after an error, if they did not exist before and nothing is in them."""
    made = [path for path in (folder, *folder.parents) if not path.exists()]
    try:
        yield
    except BaseException:
        for path in made:
            with suppress(OSError):  # it holds something, perhaps a run of another sweep that is under way
                path.rmdir()
        raise


def outcome(folder: Path) -> str:
    """Return one line about a finished run."""
    summary = read_summary(folder)
    return f"accuracy {summary.accuracy_mean:.4f} in {summary.seconds_total:.0f} s"


def _apply_override(
    base: dict[str, Any], grid: dict[str, Any], cases: list[dict[str, Any]], key: str, value: Any
) -> None:
    """Apply one override to the grid, if the grid has the key, otherwise to base."""
    if key in grid:
        grid[key] = value if isinstance(value, list) else [value]
        return
    for axis in itertools.chain(grid, *cases):
        if f"{axis}.".startswith(f"{key}.") or f"{key}.".startswith(f"{axis}."):
            advice = f"override {axis} instead: '{axis}=[...]'" if axis in grid else "change them in the file"
            raise UserError(f"override {key}: the {'grid sets' if axis in grid else 'cases set'} {axis}: {advice}")
    set_key(base, key, value)


def config_with(base: Mapping[str, Any], settings: Mapping[str, Any]) -> Config:
    """Return the config of a run: serial and without baselines, because the runs share the cores."""
    raw = deepcopy(dict(base))
    for key, value in sorted(settings.items(), key=lambda item: selects_variant(item[0]), reverse=True):
        set_key(raw, key, deepcopy(value))
    config = parse_config(raw)
    return replace(config, run=replace(config.run, workers=0), baselines=(), baseline_settings={})


def check_data(configs: Sequence[Config]) -> dict[tuple[Data, ProxyData | None], str]:
    """Check every config against its data, and its callbacks; return the sha256 of its data set and of `proxy.data`."""
    for config in configs:
        load_callbacks(config)
    digests = {}
    for key in dict.fromkeys((config.data, config.proxy.data) for config in configs):
        same_data = [config for config in configs if (config.data, config.proxy.data) == key]
        dataset = load_data(same_data[0])
        for config in same_data:
            check_fits(config, dataset)
        digests[key] = dataset.sha256 + ("" if dataset.proxy is None else f" {dataset.proxy.sha256}")
    return digests


def cell_of(config: Config, data_sha256: str) -> Cell:
    """Return a run under a name that contains a digest of its config and its data."""
    paths = (config.proxy.path, config.partition.path if isinstance(config.partition, FromFile) else None)
    identity = [config.to_dict(), data_sha256, *(None if path is None else _file_digest(Path(path)) for path in paths)]
    identity += [_file_digest(Path(model.init)) for model in config.model if model.init and Path(model.init).is_file()]
    digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()
    stem = Path(config.data.name).stem
    method = config.method_name.replace(":", ".")
    return Cell(f"{method}-{stem}-{config.partition.name}-s{config.seed}-{digest[:8]}", config)


def _file_digest(path: Path) -> str:
    with os_errors(f"read {path}"):
        return hashlib.sha256(path.read_bytes()).hexdigest()
