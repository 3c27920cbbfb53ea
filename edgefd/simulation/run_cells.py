"""Run the cells of a sweep in several processes, and share them with other sweeps that write in the same folder.

Each cell has a lease (`edgefd.core.leases`), which the process that runs it holds. So several sweeps, also on several
machines over a shared folder, run each cell once: what another one has at work is left to it, and taken over if the
other one dies.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import shutil
import signal
import sys
import threading
import time
from collections import deque
from collections.abc import Generator, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from edgefd.config.schema import Config
from edgefd.core.errors import InUse, RunError, UserError
from edgefd.core.leases import DEAD_AFTER_SECONDS, lease
from edgefd.core.objects import one_line
from edgefd.runs.checkpoint import CHECKPOINT
from edgefd.runs.folder import has_round
from edgefd.runs.read import is_complete
from edgefd.simulation.checkpoint import locked
from edgefd.simulation.run import simulate_config

_LOG = logging.getLogger(__name__)
_PAUSE_SECONDS = 1.0  # until cells of other sweeps are looked at again


@dataclass(frozen=True)
class Cell:
    """One run of a sweep."""

    name: str
    """name of the run folder"""
    config: Config


@dataclass(frozen=True)
class Failure:
    """Error that ended a run."""

    message: str
    of_machine: bool
    """whether the machine was the cause, such as a full disk: the same settings can run later"""


@dataclass(frozen=True)
class Elsewhere:
    """A run that another sweep has at work, or has completed."""

    holder: str | None
    """the process that has it at work; None if the run is complete"""


Outcome = Failure | Elsewhere | None
"""how a run ended; None = it is complete, and this sweep ran it"""


def run_all(cells: list[Cell], out: Path, workers: int) -> Generator[tuple[Cell, Outcome]]:
    """Yield each cell when its run has ended, here or in another sweep. If closed early, by Ctrl-C, kill all runs.

    Raises:
        RunError: if a process of the sweep died.
    """
    context = multiprocessing.get_context("spawn")  # a new process for each worker: no thread or lock is inherited
    other_processes = multiprocessing.active_children()
    pool = ProcessPoolExecutor(workers, mp_context=context, initializer=_follow_parent)
    waiting, running = deque(cells), dict[Future[Outcome], Cell]()
    held, told = dict[str, Cell](), False
    try:
        while waiting or running or held:
            while waiting and len(running) < workers:
                cell = waiting.popleft()
                with _isolated_start():
                    running[pool.submit(run_cell, cell, out / cell.name)] = cell
            ended = wait(running, _PAUSE_SECONDS if held else None, FIRST_COMPLETED).done if running else ()
            for future in ended:
                cell, result = running.pop(future), future.result()
                if isinstance(result, Elsewhere) and result.holder is not None:
                    held[f"{cell.name} ({result.holder})"] = cell
                else:
                    yield cell, result
            if held and not ended:  # all have been tried: try again whether the other sweeps still have them
                if not running:
                    if not told:
                        _LOG.info("waiting for %d runs of other processes: %s", len(held), ", ".join(held))
                    told = True
                    time.sleep(_PAUSE_SECONDS)
                waiting.extend(held.values())
                held.clear()
    except BrokenProcessPool as error:
        raise RunError("a process of the sweep died; repeat the command to resume") from error
    finally:
        if running:
            for process in set(multiprocessing.active_children()) - set(other_processes):
                process.kill()
        pool.shutdown(cancel_futures=True)
        for cell in running.values():
            with suppress(InUse), _lease_of(out / cell.name):
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


def run_cell(cell: Cell, folder: Path) -> Outcome:
    """Run one cell in this process, after its checkpoint if it has one, unless another process has it at work."""
    try:
        with _lease_of(folder):
            if is_complete(folder):
                return Elsewhere(None)
            _settle(folder)
            resume = (folder / CHECKPOINT).exists()
            if folder.exists() and not resume:  # the folder of a stopped run without a checkpoint
                folder.rename(_replaced(folder))
            try:
                simulate_config(cell.config, folder, resume=resume)
            finally:
                _settle(folder)
    except InUse as error:
        return Elsewhere(str(error))
    except (UserError, RunError) as error:
        return Failure(str(error), _of_machine(error))
    except Exception as error:  # an error of one run must not stop the others
        return Failure(one_line(error), _of_machine(error))
    return None


def _lease_of(folder: Path) -> AbstractContextManager[None]:
    """Hold the lease of a cell while the context lasts.

    Raises:
        InUse: if another process holds it; the text names the process.
        RunError: if the folder of the sweep cannot be written.
    """

    def end_process() -> None:  # an exception could not stop the run before it writes another file
        print(
            f"{folder}: another process took over, because this one did not touch its lease for "
            f"{DEAD_AFTER_SECONDS:.0f} s",
            file=sys.stderr,
            flush=True,
        )
        os._exit(1)

    return lease(folder.parent, folder.name, end_process)


def _of_machine(error: BaseException | None) -> bool:
    """Return whether an error, or one that caused it, is of the operating system or about memory."""
    while error is not None and not isinstance(error, OSError | MemoryError):
        error = error.__cause__
    return error is not None


def _replaced(folder: Path) -> Path:
    """Return the place of a stopped run while another one takes its folder."""
    return folder.with_name(f".{folder.name}.stopped")


def _settle(folder: Path) -> None:
    """Remove a run that completed no round, and bring back the stopped run that it was to replace, if there is one.

    If the new run has completed a round, the stopped run is removed. This process must hold the lease of the cell.

    Raises:
        InUse: if a process is at work in the folder.
    """
    if folder.exists() and not has_round(folder):
        with locked(folder):  # a killed sweep may have left a worker that is about to end
            shutil.rmtree(folder)
    if (replaced := _replaced(folder)).exists():
        if folder.exists():
            shutil.rmtree(replaced)
        else:
            replaced.rename(folder)
