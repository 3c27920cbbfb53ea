"""Sweeps: a grid of runs, many side by side, resumable.

A sweep file holds `base`, the sections of an ordinary config, and `grid`, lists of values for any of its keys:

    base: {data: {name: mnist_mini}, train: {rounds: 30, shift: 2}}
    grid:
      method: [{name: edgefd}, {name: edgefd, ownership: false}, {name: fedmd}]
      partition.name: [strong, weak, iid]
      seed: [0, 1, 2]

Every combination is a run. Its folder is named after what it is and a digest of its resolved config, so a sweep that
was stopped goes on where it was, and a run whose config changed is a new run.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import multiprocessing
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from edgefd.config import Config, parse_config, read_yaml, renames, set_key
from edgefd.errors import RunError, UserError
from edgefd.metrics import RoundMetrics
from edgefd.simulation.engine import open_transport, simulate
from edgefd.simulation.run import prepare, run


@dataclass(frozen=True)
class Cell:
    """One run of a sweep."""

    name: str
    config: Config


def load_sweep(path: Path) -> list[Cell]:
    """The runs of a sweep file, seeds innermost.

    Raises:
        UserError: for anything wrong with it, before any run starts.
    """
    raw = read_yaml(path)
    unknown = set(raw) - {"base", "grid"}
    if unknown or not isinstance(raw.get("grid"), dict) or not isinstance(raw.get("base", {}), dict):
        raise UserError(f"{path} must hold base: (sections of a config) and grid: (key: [values]), and nothing else")
    axes = [(key, values) for key, values in raw["grid"].items()]
    for key, values in axes:
        if not isinstance(values, list) or not values:
            raise UserError(f"{path}: grid.{key} must be a list of values")
    cells = [_cell(raw.get("base", {}), dict(zip(raw["grid"], c, strict=True))) for c in _product(axes)]
    if len({c.name for c in cells}) < len(cells):
        raise UserError(f"{path}: the grid has the same run twice")
    return cells


def run_sweep(cells: list[Cell], out: Path, workers: int, on_done: Callable[[Cell, str], None]) -> list[Path]:
    """Run what is not done yet, `workers` runs at a time; the folders of all that are done.

    `on_done(cell, outcome)` hears of each run as it ends; a run that fails does not stop the others.

    Raises:
        RunError: at the end, if any failed; it names them.
    """
    todo = [cell for cell in cells if not is_complete(out / cell.name)]
    for cell in cells:
        if cell not in todo:
            on_done(cell, "done before")
    failed = []
    for cell, problem in _run_all(todo, out, workers):
        on_done(cell, problem or outcome(out / cell.name))
        failed += [cell.name] if problem else []
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


def _run_all(todo: list[Cell], out: Path, workers: int) -> Iterator[tuple[Cell, str | None]]:
    """Each cell with what went wrong, or None, as it ends."""
    context = multiprocessing.get_context("spawn")  # a clean process each: no thread or lock is inherited
    with ProcessPoolExecutor(workers, mp_context=context) as pool:
        futures = {pool.submit(_run_cell, cell, out / cell.name): cell for cell in todo}
        try:
            for future in as_completed(futures):
                yield futures[future], future.result()
        except BrokenProcessPool as error:
            raise RunError("a run's process died; the same command goes on where the sweep was") from error
        finally:
            pool.shutdown(cancel_futures=True)


def _run_cell(cell: Cell, folder: Path) -> str | None:
    """Run one cell in this process; what went wrong, if anything the user can mend or must know did."""
    try:
        prepared = prepare(cell.config)
        if folder.exists():  # a run that was stopped
            shutil.rmtree(folder)
        folder.mkdir(parents=True)
        run(prepared, folder, _unseen, lambda: simulate(open_transport(prepared.config, prepared.federation)))
    except (UserError, RunError, OSError) as error:
        return f"failed: {error}"
    return None


def _unseen(rounds: Iterator[RoundMetrics]) -> Iterator[RoundMetrics]:
    return rounds


def _product(axes: list[tuple[str, list[Any]]]) -> Iterator[tuple[Any, ...]]:
    return itertools.product(*(values for _, values in axes))


def _cell(base: dict[str, Any], chosen: dict[str, Any]) -> Cell:
    raw = json.loads(json.dumps(base))
    for key, value in sorted(chosen.items(), key=lambda item: renames(item[0]), reverse=True):
        set_key(raw, key, value)
    config = parse_config(raw)
    one_process = replace(config, run=replace(config.run, workers=0), also=())
    digest = hashlib.sha256(json.dumps(one_process.to_dict(), sort_keys=True).encode()).hexdigest()
    data = Path(config.data.name).stem
    name = f"{config.method_name.replace(':', '.')}-{data}-{config.partition.name}-s{config.seed}-{digest[:8]}"
    return Cell(name, one_process)
