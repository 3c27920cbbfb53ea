"""Callbacks: objects that follow a run, such as trackers. They never change its results.

`run.trackers` and `run.callbacks` of a config name some; a Python program passes others to `edgefd.simulate`. An error
of a callback ends a run only before its first round, when nothing can be lost. Later it is logged, with the name of the
callback, which then gets no more rounds.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from edgefd.config.schema import Config
from edgefd.core.errors import UserError, hint
from edgefd.core.families import member_names, members
from edgefd.core.objects import load_object, one_line
from edgefd.runs.folder import BASELINES
from edgefd.runs.round_metrics import RoundMetrics

_LOG = logging.getLogger(__name__)
_TRACKERS = "edgefd.runs.trackers"
_FUNCTIONS = ("on_start", "on_round", "on_end")


@dataclass(frozen=True)
class RunInfo:
    """A run that begins, as callbacks receive it."""

    name: str
    """name of the run folder, such as first; of the run of a baseline, it is such as first/fedmd"""
    folder: Path
    """the run folder, which holds config.yaml, env.json and partition.json already"""
    config: Config
    """the config with every default; `config.to_dict()` returns its sections as plain values"""
    n_clients: int
    """number of clients"""


class Callback(Protocol):
    """Interface of an object that follows a run; a subclass defines the functions that it needs.

    All functions are called in the process that coordinates the run. The same object follows the run of a config and
    then those of its baselines, one after the other: `on_start` begins a new one.
    """

    def on_start(self, run: RunInfo) -> None:
        """Receive the run before its first round.

        An error ends the run, unless rounds were completed before: by this command, or by a run that is resumed.
        """
        return  # not abstract: a subclass need not define it

    def on_round(self, metrics: RoundMetrics) -> None:
        """Receive the metrics of a round, after they were written to the run folder.

        A run that is resumed passes on the rounds that were completed before first. After an error, this object
        receives no more rounds of the run.
        """
        return  # not abstract: a subclass need not define it

    def on_end(self, summary: Mapping[str, Any] | None) -> None:
        """Receive the content of summary.json, and close everything that is open.

        It is called at the end of every run for which `on_start` succeeded, also after Ctrl-C or an error: then
        `complete` is false in the summary, or the summary is None if there is none, as without a completed round.
        """
        return  # not abstract: a subclass need not define it


class CallbackList:
    """The callbacks of the runs of one command, which follow one run at a time."""

    def __init__(self, callbacks: Sequence[Callback] = ()) -> None:
        self._all = [(_name(callback), callback) for callback in callbacks]
        self._receiving: list[tuple[str, Callback]] = []
        """the callbacks that get the rounds of the present run, with their names"""
        self._started: list[tuple[str, Callback]] = []
        """the callbacks that must be told the end of the present run"""
        self._begun = False
        """whether a run has begun before, whose results an error must not lose"""

    def start(self, run: RunInfo, done: Sequence[RoundMetrics] = ()) -> None:
        """Begin a run; `done` are the completed rounds of a run that is resumed.

        Raises:
            UserError: if a callback fails, and no round was completed before.
        """
        may_end, self._begun = not done and not self._begun, True
        self._receiving, self._started = [], []
        for name, callback in self._all:
            try:
                callback.on_start(run)
            except Exception as error:
                if may_end:
                    _LOG.debug("callback %s failed", name, exc_info=error)
                    raise UserError(f"callback {name} failed at the start of the run: {one_line(error)}") from error
                _warn(name, "the start of the run", error, "it gets no rounds of this run")
            else:
                self._receiving.append((name, callback))
                self._started.append((name, callback))
        for metrics in done:
            self.round(metrics)

    def round(self, metrics: RoundMetrics) -> None:
        """Pass the metrics of a round to the callbacks that have not failed."""
        for member in list(self._receiving):
            try:
                member[1].on_round(metrics)
            except Exception as error:
                self._receiving.remove(member)
                _warn(member[0], f"round {metrics.round}", error, "it gets no more rounds of this run")

    def end(self, summary: Mapping[str, Any] | None) -> None:
        """End the run for every callback that it began for, in spite of errors and of Ctrl-C.

        Raises:
            KeyboardInterrupt: on Ctrl-C, after all callbacks were called.
        """
        interrupted = None
        while self._started:
            name, callback = self._started.pop(0)
            try:
                callback.on_end(summary)
            except KeyboardInterrupt as stop:
                interrupted = stop
            except Exception as error:
                _warn(name, "the end of the run", error, "what it had not stored is missing there")
        if interrupted is not None:
            raise interrupted


def run_info(config: Config, n_clients: int, folder: Path) -> RunInfo:
    """Return what callbacks receive about a run in `folder`."""
    path = folder.resolve()
    name = f"{path.parents[1].name}/{path.name}" if path.parent.name == BASELINES else path.name
    return RunInfo(name, folder, config, n_clients)


def load_callbacks(config: Config, own: Sequence[Callback] = ()) -> CallbackList:
    """Return the callbacks `own` of a Python program, and then those that a config names.

    Raises:
        UserError: if a name is unknown, a tracker is named twice, a package is missing, or an object has not the
            functions of `Callback`.
    """
    names = config.run.trackers
    if twice := [name for name in names if names.count(name) > 1]:
        raise UserError(f"run.trackers names {twice[0]} twice: remove one")
    trackers = [tracker(name) for name in names]
    named = [_named(entry) for entry in config.run.callbacks]
    for callback in (*own, *named):
        missing = [name for name in _FUNCTIONS if not callable(getattr(callback, name, None))]
        if missing or isinstance(callback, type):
            problem = "is a class: pass an object of it" if isinstance(callback, type) else f"has no {missing[0]}"
            raise UserError(f"callback {_name(callback)} {problem}; a subclass of edgefd.Callback has all functions")
    return CallbackList([*own, *named, *trackers])


def tracker_names() -> tuple[str, ...]:
    """Return the names of the trackers: the files of `edgefd/runs/trackers`."""
    return member_names(_TRACKERS)


def tracker(name: str) -> Callback:
    """Return a new tracker.

    Raises:
        UserError: if there is no such tracker, or its package is missing.
    """
    if name not in tracker_names():
        other = "for one of your own, use run.callbacks"
        raise UserError(f"run.trackers: unknown tracker {name!r}: {hint(name, tracker_names())} ({other})")
    made: Callback = members(_TRACKERS, "Tracker")[name]()
    return made


def _named(entry: str | Mapping[str, Any]) -> Callback:
    """Return a new object of the class that an entry of `run.callbacks` names, with its arguments."""
    settings = {"name": entry} if isinstance(entry, str) else dict(entry)
    name = settings.pop("name", None)
    if not isinstance(name, str):
        raise UserError(
            f"run.callbacks: {entry!r} must be package.module:Class, or {{name: package.module:Class, key: value}}"
        )
    kind = load_object(name, "callback")
    try:
        made: Callback = kind(**settings)
    except Exception as error:  # the constructor of a user's class may raise anything
        raise UserError(f"run.callbacks: cannot create {name}: {one_line(error)}") from error
    return made


def _name(callback: object) -> str:
    """Return the name of a callback in messages: that of a tracker, or of its class."""
    kind = callback if isinstance(callback, type) else type(callback)
    module, _, last = kind.__module__.rpartition(".")
    return last if module == _TRACKERS else kind.__qualname__


def _warn(name: str, where: str, error: Exception, consequence: str) -> None:
    _LOG.warning("callback %s failed at %s: %s; the run continues, and %s", name, where, one_line(error), consequence)
    _LOG.debug("callback %s failed", name, exc_info=error)
