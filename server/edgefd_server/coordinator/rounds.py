"""The rounds of a served run. The end of the run is announced to its clients.

A coordinator that was killed at any moment resumes after its checkpoint.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from edgefd.rounds.loop import run_rounds
from edgefd.runs.callbacks import load_callbacks
from edgefd.runs.checkpoint import save_checkpoint
from edgefd.runs.execute import ProgressHook, execute_run, server_of
from edgefd.runs.facts import GroundTruth
from edgefd.runs.record import KNOWLEDGE, record_messages
from edgefd.runs.round_metrics import RoundMetrics, measure
from edgefd.wire.exchange_folder import COMPLETE
from edgefd_server.coordinator.open_run import OpenRun
from edgefd_server.coordinator.round_coordinator import RoundCoordinator


def print_rounds(rounds: Iterator[RoundMetrics]) -> Iterator[RoundMetrics]:
    """Print one line for each round."""
    for m in rounds:
        accuracy = "" if m.heldout_accuracy_mean is None else f"held-out accuracy {m.heldout_accuracy_mean:.3f}, "
        teacher = "" if m.teacher_accuracy is None else f"teacher's {m.teacher_accuracy:.3f}, "
        accepted = "closing" if m.closing else f"kept {m.kept_fraction:.3f}"
        print(f"round {m.round}: {accuracy}{teacher}{accepted}, {m.seconds:.2f} s", flush=True)
        yield m


def coordinate(run: OpenRun, coordinator: RoundCoordinator, progress: ProgressHook = print_rounds) -> dict[str, Any]:
    """Run the rounds after a checkpoint, announce the end to the clients, and return the run's summary.

    Args:
        run: the run, whose checkpoint the caller has locked.
        coordinator: carries the rounds.
        progress: passes on the metrics of each round.

    Raises:
        RunError: if a round does not get its reports, or the disk is full. The clients receive the reason.
    """
    try:
        summary = execute_run(
            run.served.config,
            run.served.facts,
            run.folder,
            progress,
            lambda: _measured_rounds(run, coordinator),
            run.saved.metrics,
            load_callbacks(run.served.config),
        )
    except BaseException as error:  # also Ctrl-C: the devices must not wait forever
        coordinator.finish(str(error) or "it was interrupted")
        raise
    coordinator.finish(COMPLETE)
    return summary


def _measured_rounds(run: OpenRun, coordinator: RoundCoordinator) -> Iterator[RoundMetrics]:
    """Run the remaining rounds; the checkpoint of each is written before anything of the next one is sent."""
    served, config, saved = run.served, run.served.config, run.saved
    labels = served.proxy_labels if config.method.proxy_labels else None
    truth = GroundTruth(served.n_clients, len(served.proxy), served.proxy_labels)
    server = server_of(config, served.terms, served.n_clients, served.proxy, labels)
    began = time.perf_counter()
    for result in run_rounds(server, coordinator, saved.progress):
        if config.run.record_knowledge:
            record_messages(run.folder / KNOWLEDGE, served.terms.codec, result)
        metrics = measure(result, truth, time.perf_counter() - began, config.method.message)
        saved = replace(saved, metrics=(*saved.metrics, metrics), progress=result.progress)
        save_checkpoint(run.folder, saved)
        yield metrics
        began = time.perf_counter()
