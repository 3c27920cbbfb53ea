"""A simulation with its run folder: metrics as they come, a summary at the end, nothing lost when it is stopped."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from edgefd.config.schema import Config
from edgefd.core.errors import RunError, Stopped
from edgefd.core.json_files import append_json_line, write_json, write_json_lines
from edgefd.federation.clients import Federation, proxy_labels_of
from edgefd.federation.plan import RoundPlan
from edgefd.federation.state import Server
from edgefd.rounds.loop import RoundResult, Transport, run_rounds
from edgefd.rounds.participation import round_plans
from edgefd.runs.environment import environment
from edgefd.runs.folder import write_config
from edgefd.runs.prepare import PreparedRun
from edgefd.runs.round_metrics import RoundMetrics, measure
from edgefd.runs.summary import partition_record, summarise

ProgressHook = Callable[[Iterator[RoundMetrics]], Iterator[RoundMetrics]]


def saved_rounds_message(rounds: int, folder: Path) -> str:
    """What a run that was stopped says."""
    return f"the rounds done so far ({rounds}) are in {folder}" if rounds else "not one round was done"


def execute_run(
    prepared: PreparedRun,
    folder: Path,
    watch: ProgressHook,
    rounds_of: Callable[[], Iterator[RoundMetrics]],
    done: Sequence[RoundMetrics] = (),
) -> dict[str, Any]:
    """Simulate into `folder`, which exists and is empty; the summary.

    Of a run that goes on, `done` are the rounds that are done, and `folder` is as it was left; `rounds_of` the others.

    `watch` sees the rounds pass and shows them. `rounds_of` opens a transport and runs the rounds over it.

    When it is stopped or a client fails, the summary of the rounds that were done is written with `complete` false.

    Raises:
        Stopped: on Ctrl-C; it says where the rounds done so far are, if any.
        RunError: if a client fails or the folder cannot be written to; it says the same.
    """
    config, federation = prepared.config, prepared.federation
    write_config(folder, config)
    write_json(folder / "env.json", environment())
    write_json(folder / "partition.json", partition_record(federation, config.run.record_knowledge))
    if done:
        write_json_lines(folder / "metrics.jsonl", [_line(folder, m) for m in done])
    began = time.perf_counter() - sum(m.seconds for m in done)
    rounds = list(done)
    try:
        for metrics in watch(rounds_of()):
            append_json_line(folder / "metrics.jsonl", _line(folder, metrics))
            rounds.append(metrics)
    except (KeyboardInterrupt, RunError) as error:
        if rounds and isinstance(error, KeyboardInterrupt):  # it may have come between the two lines above
            write_json_lines(folder / "metrics.jsonl", [_line(folder, m) for m in rounds])
        if rounds:
            write_json(folder / "summary.json", summarise(prepared, rounds, time.perf_counter() - began))
        if isinstance(error, KeyboardInterrupt):
            raise Stopped(saved_rounds_message(len(rounds), folder)) from error
        raise RunError(f"{error}; {saved_rounds_message(len(rounds), folder)}") from error
    summary = summarise(prepared, rounds, time.perf_counter() - began)
    write_json(folder / "summary.json", summary)
    return summary


def _line(folder: Path, metrics: RoundMetrics) -> dict[str, Any]:
    """The round's line in metrics.jsonl; its evaluation, if it has one, is written to evaluation.json."""
    line = metrics.to_dict()
    if (evaluation := line.pop("evaluation")) is not None:
        write_json(folder / "evaluation.json", evaluation)
    return line


def simulate_rounds(
    transport: Transport,
    config: Config,
    federation: Federation,
    began: float | None = None,
    record: Callable[[RoundResult], None] | None = None,
) -> Iterator[RoundMetrics]:
    """Run the rounds over any transport.

    `began` (of `time.perf_counter`) is when the first one did, if not now; `record` sees each as it ends.
    """
    began = time.perf_counter() if began is None else began
    method, todo = config.method, make_plans(config, federation)
    for result in run_rounds(
        method, config.method_config, transport, todo, server=make_server_state(config, federation)
    ):
        if record is not None:
            record(result)
        yield measure(result, federation, time.perf_counter() - began, method.message)
        began = time.perf_counter()


def make_server_state(config: Config, federation: Federation) -> Server:
    """What the config's method needs at the server: labels and a model only where it declares them."""
    method = config.method
    labels = proxy_labels_of(federation) if method.proxy_labels else None
    learner = None
    if method.server_model:
        from edgefd.runs.learners import server_learner

        learner = server_learner(config, federation)
    return Server(federation.proxy, federation.n_classes, labels, learner)


def make_plans(config: Config, federation: Federation, first: int = 0) -> Iterator[RoundPlan]:
    """The config's plans from round `first` on, with who is asked in each."""
    ids = np.arange(len(federation.proxy))
    n_clients, every = len(federation.clients), config.run.evaluate_every
    for plan in round_plans(config.coordinator, n_clients, config.seed, ids, config.train, every, first):
        yield replace(plan, selection=config.selection, distillation=config.distillation)
