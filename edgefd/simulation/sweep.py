"""Sweeps: a grid of runs, many side by side, resumable.

A sweep file holds `base`, the sections of an ordinary config, and `grid`, lists of values for any of its keys:

    base: {data: {name: mnist_mini}, train: {rounds: 30, augment_shift: 2}}
    grid:
      method: [{name: edgefd}, {name: edgefd, accept_contributed: false}, {name: fedmd}]
      partition.name: [strong, weak, iid]
      seed: [0, 1, 2]

Every combination is a run. What does not fit in a grid stands in `cases`, a list of {key: value}: each case goes with
every combination of the grid, which may then be left out. A run's folder is named after what it is and a digest of its
resolved config and its data, so a sweep that was stopped goes on where it was, and a run whose config or data changed
is a new run.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import multiprocessing
import os
import shutil
import signal
import threading
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing, contextmanager
from copy import deepcopy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from edgefd.config.load import parse_config, read_yaml
from edgefd.config.overrides import read_override, selects_variant, set_key
from edgefd.config.schema import Config, Data, FromFile
from edgefd.core.errors import RunError, Stopped, UserError
from edgefd.runs.execute import execute_run
from edgefd.runs.load_data import load_data
from edgefd.runs.prepare import check_fits, prepare
from edgefd.runs.round_metrics import RoundMetrics
from edgefd.simulation.engine import open_transport, simulate


@dataclass(frozen=True)
class Cell:
    """One run of a sweep."""

    name: str
    config: Config


def load_sweep(path: Path, overrides: Sequence[str] = ()) -> list[Cell]:
    """The runs of a sweep file, seeds innermost.

    Args:
        path: of the file.
        overrides: `key=value`: other values for a key of the grid (`seed=[0, 1]`), or another setting in `base`.

    Raises:
        UserError: for anything wrong with it or with the data it asks for, before any run starts.
    """
    raw = read_yaml(path)
    base, grid, cases = raw.get("base", {}), raw.get("grid", {} if "cases" in raw else None), raw.get("cases", [{}])
    if set(raw) - {"base", "grid", "cases"} or not isinstance(grid, dict) or not isinstance(base, dict):
        raise UserError(
            f"{path} must hold base: (sections of a config) and grid: (key: [values]) or cases:, and nothing else"
        )
    if not isinstance(cases, list) or not cases or not all(isinstance(case, dict) for case in cases):
        raise UserError(f"{path}: cases must be a list of settings, such as - {{train.rounds: 10, seed: 1}}")
    for override in overrides:
        _change(base, grid, cases, *read_override(override))
    for key in itertools.chain(grid, *cases):
        if not isinstance(key, str):
            raise UserError(f"{path}: grid.{key} must be the name of a key, such as train.rounds")
    for key, values in grid.items():
        if not isinstance(values, list) or not values:
            raise UserError(f"{path}: grid.{key} must be a list of values")
    chosen = [case | dict(zip(grid, c, strict=True)) for case in cases for c in itertools.product(*grid.values())]
    configs = [_config(base, settings) for settings in chosen]
    data = _checked_data(configs)
    cells = [_cell(config, data[config.data]) for config in configs]
    if len({c.name for c in cells}) < len(cells):
        raise UserError(f"{path}: the grid has the same run twice")
    return cells


def run_sweep(cells: list[Cell], out: Path, workers: int, on_done: Callable[[Cell, str], None]) -> list[Path]:
    """Run what is not done yet, `workers` runs at a time; the folders of all that are done.

    `on_done(cell, outcome)` hears of each run as it ends; a run that fails does not stop the others.

    Raises:
        RunError: at the end, if any failed; it names them.
        Stopped: on Ctrl-C.
    """
    todo = [cell for cell in cells if not is_complete(out / cell.name)]
    for cell in cells:
        if cell not in todo:
            on_done(cell, "done before")
    failed = []
    try:
        with closing(_run_all(todo, out, workers)) as ended:
            for cell, problem in ended:
                on_done(cell, problem or outcome(out / cell.name))
                failed += [cell.name] if problem else []
    except KeyboardInterrupt as stop:
        raise Stopped(f"finished runs are kept in {out}; the same command goes on") from stop
    if failed:
        raise RunError(f"{len(failed)} of {len(cells)} runs failed: {', '.join(failed)}; the same command tries again")
    return [out / cell.name for cell in cells]


def is_complete(folder: Path) -> bool:
    """Whether the run in that folder reached its end."""
    summary = folder / "summary.json"
    return summary.exists() and bool(json.loads(summary.read_text(encoding="utf-8"))["complete"])


def outcome(folder: Path) -> str:
    """One line about a finished run."""
    summary = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
    return f"accuracy {summary['accuracy_mean']:.4f} in {summary['seconds_total']:.0f} s"


def _run_all(todo: list[Cell], out: Path, workers: int) -> Generator[tuple[Cell, str | None]]:
    """Each cell with what went wrong, or None, as it ends. Left early, by Ctrl-C for one, it ends what is running."""
    context = multiprocessing.get_context("spawn")  # a clean process each: no thread or lock is inherited
    others = multiprocessing.active_children()
    pool = ProcessPoolExecutor(workers, mp_context=context, initializer=_follow_parent)
    waiting, running = list(reversed(todo)), dict[Future[str | None], Cell]()
    try:
        while waiting or running:
            while waiting and len(running) < workers:
                cell = waiting.pop()
                with _ctrl_c_later():
                    running[pool.submit(_run_cell, cell, out / cell.name)] = cell
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                yield running.pop(future), future.result()
    except BrokenProcessPool as error:
        raise RunError("a run's process died; the same command goes on where the sweep was") from error
    finally:
        if running:
            for process in set(multiprocessing.active_children()) - set(others):
                process.kill()
        pool.shutdown(cancel_futures=True)


def _follow_parent() -> None:
    """Ctrl-C is the parent's to handle: the terminal sends it to every process of the command.

    Where the parent is gone, however it went, the run would be nobody's, and in the way of the sweep begun again.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None, "for worker processes only"
    parent.join()
    os._exit(1)


@contextmanager
def _ctrl_c_later() -> Iterator[None]:
    """Hold back Ctrl-C until the block ends; a process started in it inherits that, so that it cannot die half made."""
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})


def _run_cell(cell: Cell, folder: Path) -> str | None:
    """Run one cell in this process; what went wrong, in one line, if anything did."""
    try:
        prepared = prepare(cell.config)
        if folder.exists():  # a run that was stopped
            shutil.rmtree(folder)
        folder.mkdir(parents=True)
        execute_run(
            prepared, folder, _unseen, lambda: simulate(open_transport(prepared.config, prepared.federation), folder)
        )
    except (UserError, RunError) as error:
        return f"failed: {error}"
    except Exception as error:  # of one run; the others need not suffer
        return f"failed: {type(error).__name__}: {' '.join(str(error).split())}"
    return None


def _unseen(rounds: Iterator[RoundMetrics]) -> Iterator[RoundMetrics]:
    return rounds


def _change(base: dict[str, Any], grid: dict[str, Any], cases: list[dict[str, Any]], key: str, value: Any) -> None:
    """One override: of the grid, if it has that key."""
    if key in grid:
        grid[key] = value if isinstance(value, list) else [value]
        return
    for axis in itertools.chain(grid, *cases):
        if f"{axis}.".startswith(f"{key}.") or f"{key}.".startswith(f"{axis}."):
            how = f"override that: '{axis}=[...]'" if axis in grid else "change them in the file"
            raise UserError(f"override {key}: the {'grid sets' if axis in grid else 'cases set'} {axis}, so {how}")
    set_key(base, key, value)


def _config(base: dict[str, Any], chosen: dict[str, Any]) -> Config:
    """A run of the grid: in one process, since runs share the cores."""
    raw = deepcopy(base)
    for key, value in sorted(chosen.items(), key=lambda item: selects_variant(item[0]), reverse=True):
        set_key(raw, key, deepcopy(value))
    config = parse_config(raw)
    return replace(config, run=replace(config.run, workers=0), baselines=())


def _checked_data(configs: Sequence[Config]) -> dict[Data, str]:
    """The sha256 of each data set asked for, once every config was held against its data."""
    found = {}
    for data in dict.fromkeys(config.data for config in configs):
        alike = [config for config in configs if config.data == data]
        dataset = load_data(alike[0])
        for config in alike:
            check_fits(config, dataset)
        found[data] = dataset.sha256
    return found


def _cell(config: Config, data: str) -> Cell:
    paths = (config.proxy.path, config.partition.path if isinstance(config.partition, FromFile) else None)
    identity = [config.to_dict(), data, *(None if path is None else _file_digest(Path(path)) for path in paths)]
    digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()
    stem = Path(config.data.name).stem
    method = config.method_name.replace(":", ".")
    return Cell(f"{method}-{stem}-{config.partition.name}-s{config.seed}-{digest[:8]}", config)


def _file_digest(path: Path) -> str:
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error
