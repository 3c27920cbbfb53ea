"""Execute a run and write its run folder: metrics after each round, a summary at the end or when it is stopped."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any

from edgefd.config.partition import ByGroup
from edgefd.config.schema import Config
from edgefd.core.arrays import Int64
from edgefd.core.errors import RunError, Stopped
from edgefd.core.json_files import append_json_line, write_json, write_json_lines
from edgefd.federation.clients import Federation, ProxySet, proxy_labels_of
from edgefd.federation.progress import Progress
from edgefd.federation.terms import FederationTerms
from edgefd.learners.learner import Learner
from edgefd.poisoning.robust_aggregation import aggregate_of
from edgefd.rounds.loop import RoundResult, Transport, run_rounds
from edgefd.rounds.server import Server
from edgefd.runs.callbacks import CallbackList, run_info
from edgefd.runs.environment import environment
from edgefd.runs.facts import RunFacts, ground_truth
from edgefd.runs.folder import METRICS, write_config
from edgefd.runs.round_metrics import RoundMetrics, measure
from edgefd.runs.summary import summarise
from edgefd.runs.terms import terms_of

ProgressHook = Callable[[Iterator[RoundMetrics]], Iterator[RoundMetrics]]
"""wrapper of the iterator over rounds, which reports the progress of a run; it passes all metrics on"""


def saved_rounds_message(rounds: int, folder: Path) -> str:
    """Return the message of a stopped run about its completed rounds."""
    return f"the rounds done so far ({rounds}) are in {folder}" if rounds else "not one round was done"


def execute_run(
    config: Config,
    facts: RunFacts,
    folder: Path,
    progress: ProgressHook,
    rounds: Callable[[], Iterator[RoundMetrics]],
    done: Sequence[RoundMetrics] = (),
    callbacks: CallbackList | None = None,
    device: str | None = None,
) -> dict[str, Any]:
    """Run the rounds, write the run folder, call the callbacks and return the summary.

    When the run is stopped or a client fails, the summary of the completed rounds is written with `complete` false.

    Args:
        config: the config of the run.
        facts: the facts about its federation that the folder records.
        folder: the run folder. It exists; it is empty, or holds the files of a run that resumes.
        progress: the hook that reports the progress.
        rounds: opens a transport, runs the rounds over it and yields the metrics of each; without those in `done`.
        done: metrics of the completed rounds of a run that resumes.
        callbacks: the callbacks, which receive each round after it was written, and the end of the run (None = none).
        device: the processor that trains the models, for env.json (None = not known, as with devices).

    Raises:
        UserError: if a callback fails at the start of the run.
        Stopped: on Ctrl-C; the message names the folder of the completed rounds, if there are any.
        RunError: if a client fails or the folder cannot be written; the message names the folder too.
    """
    write_config(folder, config)
    write_json(folder / "env.json", asdict(environment(config.objects, device)))
    write_json(folder / "partition.json", facts.partition)
    if done or (folder / METRICS).exists():  # a killed run may have written rounds that it will repeat
        write_json_lines(folder / METRICS, [_line(folder, m) for m in done])
    start = time.perf_counter() - sum(m.seconds for m in done)
    completed, summary = list(done), dict[str, Any]()

    def write_summary() -> None:
        summary.update(summarise(config, facts, completed, time.perf_counter() - start))
        write_json(folder / "summary.json", summary)

    callbacks = callbacks or CallbackList()
    try:
        with ExitStack() as stack:
            stack.callback(lambda: callbacks.end(summary or None))
            try:
                new_rounds = progress(rounds())  # workers are forked here, before a callback starts threads
                callbacks.start(run_info(config, facts.n_clients, folder), done)
                for metrics in new_rounds:
                    append_json_line(folder / METRICS, _line(folder, metrics))
                    completed.append(metrics)
                    callbacks.round(metrics)
            except (KeyboardInterrupt, RunError) as error:
                if completed and isinstance(error, KeyboardInterrupt):  # it can arrive between two lines above
                    write_json_lines(folder / METRICS, [_line(folder, m) for m in completed])
                if completed:
                    write_summary()
                raise
            write_summary()
    except KeyboardInterrupt as error:
        raise Stopped(saved_rounds_message(len(completed), folder)) from error
    except RunError as error:
        raise RunError(f"{error}; {saved_rounds_message(len(completed), folder)}") from error
    return summary


def _line(folder: Path, metrics: RoundMetrics) -> dict[str, Any]:
    """Return a round's line of metrics.jsonl; write its evaluation, if it has one, to evaluation.json."""
    line = metrics.to_dict()
    if (evaluation := line.pop("evaluation")) is not None:
        write_json(folder / "evaluation.json", evaluation)
    return line


def simulate_rounds(
    transport: Transport,
    config: Config,
    federation: Federation,
    start: float | None = None,
    record: Callable[[RoundResult], None] | None = None,
    server: Server | None = None,
    progress: Progress | None = None,
    completed: Callable[[RoundResult, RoundMetrics], None] | None = None,
) -> Iterator[RoundMetrics]:
    """Run the rounds of a config over any transport and yield the metrics of each.

    Args:
        transport: the transport, ready for the first round.
        config: the config of the run.
        federation: the federation with all data that only a simulation has.
        start: time at which the first round began, in seconds of `time.perf_counter` (None = now).
        record: called with the result of each round when the round ends.
        server: the server (None = that of `make_server`).
        progress: state of the server after the last completed round, if a run is resumed.
        completed: called with the result and the metrics of each round, before the metrics are yielded.
    """
    start = time.perf_counter() if start is None else start
    truth = ground_truth(federation, isinstance(config.partition, ByGroup))
    for result in run_rounds(server or make_server(config, federation), transport, progress):
        if record is not None:
            record(result)
        metrics = measure(result, truth, time.perf_counter() - start, config.method.message)
        if completed is not None:
            completed(result, metrics)
        yield metrics
        start = time.perf_counter()


def make_server(config: Config, federation: Federation) -> Server:
    """Return the server of a config, with proxy labels and a model only if the method declares them."""
    method = config.method
    learner = None
    if method.server_model:
        from edgefd.runs.learners import server_learner

        learner = server_learner(config, federation)
    labels = proxy_labels_of(federation) if method.proxy_labels else None
    return server_of(config, terms_of(config, federation), len(federation.clients), federation.proxy, labels, learner)


def server_of(
    config: Config,
    terms: FederationTerms,
    n_clients: int,
    proxy: ProxySet,
    labels: Int64 | None = None,
    learner: Learner | None = None,
) -> Server:
    """Return the server of a config for a federation; labels and learner only for a method that declares them."""
    return Server(
        method=config.method,
        config=config.method_config,
        terms=terms,
        n_clients=n_clients,
        proxy=proxy,
        participation=config.coordinator,
        evaluate_every=config.run.evaluate_every,
        labels=labels,
        learner=learner,
        combine=aggregate_of(config.aggregator),
        patience=config.run.patience,
    )
