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
"""

from __future__ import annotations

import hashlib
import itertools
import json
import multiprocessing
import os
import shutil
import signal
import sys
import threading
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing, contextmanager
from copy import deepcopy
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any

from edgefd.config.load import Source, parse_config, read_sections
from edgefd.config.overrides import Overrides, read_overrides, selects_variant, set_key
from edgefd.config.schema import Config, Data, FromFile
from edgefd.core.errors import RunError, Stopped, UserError
from edgefd.core.files import os_errors, removed_on_error
from edgefd.core.objects import one_line
from edgefd.runs.callbacks import load_callbacks
from edgefd.runs.checkpoint import CHECKPOINT
from edgefd.runs.folder import has_round
from edgefd.runs.load_data import load_data
from edgefd.runs.prepare import check_fits
from edgefd.runs.read import is_complete, read_summary
from edgefd.simulation.run import simulate_config


@dataclass(frozen=True)
class Cell:
    """One run of a sweep."""

    name: str
    """name of the run folder"""
    config: Config


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
    cells = [cell_of(config, digests[config.data]) for config in configs]
    if len({c.name for c in cells}) < len(cells):
        raise UserError(f"{path}: the grid has the same run twice")
    return cells


def run_sweep(cells: list[Cell], out: Path, workers: int, on_done: Callable[[Cell, str], None]) -> list[Path]:
    """Run all cells that are not complete, `workers` runs at a time, and return the folders of all.

    `on_done(cell, outcome)` is called when a run ends; a run that fails does not stop the others.

    Raises:
        RunError: at the end, if runs failed; the message names them.
        Stopped: on Ctrl-C.
    """
    incomplete = [cell for cell in cells if not is_complete(out / cell.name)]
    for cell in cells:
        if cell not in incomplete:
            on_done(cell, "complete already")
    failed = []

    def has_results() -> bool:
        return any(has_round(out / cell.name) for cell in cells)

    with removed_on_error(out, unless=has_results):
        try:
            with closing(_run_all(incomplete, out, workers)) as results:
                for cell, error in results:
                    on_done(cell, error or outcome(out / cell.name))
                    failed += [cell.name] if error else []
        except KeyboardInterrupt as stop:
            kept = f"finished runs are kept in {out}; repeat the command to resume"
            raise Stopped(kept if has_results() else "no run has completed a round") from stop
        if failed:
            raise RunError(
                f"{len(failed)} of {len(cells)} runs failed: {', '.join(failed)}; repeat the command to retry them"
            )
    return [out / cell.name for cell in cells]


def outcome(folder: Path) -> str:
    """Return one line about a finished run."""
    summary = read_summary(folder)
    return f"accuracy {summary.accuracy_mean:.4f} in {summary.seconds_total:.0f} s"


def _run_all(cells: list[Cell], out: Path, workers: int) -> Generator[tuple[Cell, str | None]]:
    """Yield each cell with its error, or None, when it ends. If closed early, for example by Ctrl-C, kill all runs."""
    context = multiprocessing.get_context("spawn")  # a new process for each worker: no thread or lock is inherited
    other_processes = multiprocessing.active_children()
    pool = ProcessPoolExecutor(workers, mp_context=context, initializer=_follow_parent)
    waiting, running = list(reversed(cells)), dict[Future[str | None], Cell]()
    try:
        while waiting or running:
            while waiting and len(running) < workers:
                cell = waiting.pop()
                with _isolated_start():
                    running[pool.submit(_run_cell, cell, out / cell.name)] = cell
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                yield running.pop(future), future.result()
    except BrokenProcessPool as error:
        raise RunError("a process of the sweep died; repeat the command to resume") from error
    finally:
        if running:
            for process in set(multiprocessing.active_children()) - set(other_processes):
                process.kill()
        pool.shutdown(cancel_futures=True)
        for cell in running.values():
            _settle(out / cell.name)


def _follow_parent() -> None:
    """Ignore Ctrl-C, which the parent handles, and end this process when the parent ends.

    The terminal sends Ctrl-C to every process of the command. Without its parent, a run would conflict with a sweep
    that is started again.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None, "only worker processes have a parent"
    parent.join()
    os._exit(1)


@contextmanager
def _isolated_start() -> Iterator[None]:
    """Prevent that Ctrl-C ends a process while it starts, and that the process runs the user's script again.

    The process inherits that Ctrl-C is blocked. Without this context, it would import `__main__`: a script that calls
    `edgefd.sweep` would then start its sweep again.
    """
    script = sys.modules["__main__"]
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = script
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})


def _run_cell(cell: Cell, folder: Path) -> str | None:
    """Run one cell in this process, after its checkpoint if it has one; return its error in one line, or None."""
    try:
        _settle(folder)
        resume = (folder / CHECKPOINT).exists()
        if folder.exists() and not resume:  # the folder of a stopped run without a checkpoint
            folder.rename(_replaced(folder))
        try:
            simulate_config(cell.config, folder, resume=resume)
        finally:
            _settle(folder)
    except (UserError, RunError) as error:
        return f"failed: {error}"
    except Exception as error:  # an error of one run must not stop the others
        return f"failed: {one_line(error)}"
    return None


def _replaced(folder: Path) -> Path:
    """Return the place of a stopped run while another one takes its folder."""
    return folder.with_name(f".{folder.name}.stopped")


def _settle(folder: Path) -> None:
    """Remove a run that completed no round, and bring back the stopped run that it was to replace, if there is one.

    If the new run has completed a round, the stopped run is removed.
    """
    if folder.exists() and not has_round(folder):
        shutil.rmtree(folder)
    if (replaced := _replaced(folder)).exists():
        if folder.exists():
            shutil.rmtree(replaced)
        else:
            replaced.rename(folder)


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


def check_data(configs: Sequence[Config]) -> dict[Data, str]:
    """Check every config against its data set, and its callbacks; return the sha256 of each data set."""
    for config in configs:
        load_callbacks(config)
    digests = {}
    for data in dict.fromkeys(config.data for config in configs):
        same_data = [config for config in configs if config.data == data]
        dataset = load_data(same_data[0])
        for config in same_data:
            check_fits(config, dataset)
        digests[data] = dataset.sha256
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
