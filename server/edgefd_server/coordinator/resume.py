"""Runs that resume after the coordinator was killed at any moment, over any transport that announces the run's end."""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

from edgefd.config.consistency import check_one_head
from edgefd.config.schema import Config
from edgefd.core.errors import UserError
from edgefd.defences.apply import check_devices_can as check_defence
from edgefd.federation.clients import Federation
from edgefd.methods import check_devices_can
from edgefd.rounds.loop import Transport, run_rounds
from edgefd.runs.execute import ProgressHook, execute_run, make_server
from edgefd.runs.prepare import PreparedRun
from edgefd.runs.record import KNOWLEDGE, record_messages
from edgefd.runs.round_metrics import RoundMetrics, measure
from edgefd.wire.exchange_folder import COMPLETE
from edgefd_server.coordinator.checkpoint import Checkpoint, config_digest, load_checkpoint, save_checkpoint


class Announced(Transport, Protocol):
    """A transport that tells its clients how the run ended."""

    def finish(self, outcome: str) -> None:
        """Announce the end: `edgefd.wire.exchange_folder.COMPLETE`, or the reason why the run stopped."""
        ...


def check_deployable(config: Config) -> None:
    """Check that the config has no setting that only a simulation supports.

    Raises:
        UserError: if it has one.
    """
    if config.attack.name != "none":
        raise UserError("attack is for simulations: real devices cannot be told to attack; remove the section")
    check_devices_can(config.method, config.method_config)
    check_one_head(config)
    check_defence(config.defence)
    if config.coordinator.dropout:
        raise UserError("coordinator.dropout is for simulations: real devices drop out by themselves; remove it")


def create_checkpoint(config: Config, home: Path, out: Path) -> Checkpoint:
    """Write the first checkpoint of a run with run folder `out` in `home`, before anything is sent to clients."""
    saved = Checkpoint(secrets.token_hex(6), config_digest(config), str(out.resolve()))
    save_checkpoint(home, saved)
    return saved


def load_for_resume(config: Config, home: Path) -> Checkpoint:
    """Return the checkpoint in `home`, of a run with this config.

    Raises:
        UserError: if there is none, or it is of another config.
    """
    saved = load_checkpoint(home)
    if saved is None:
        raise UserError(f"the checkpoint in {home} was removed")
    if saved.config != config_digest(config):
        raise UserError(f"the run in {home} is of another config: resume it with {saved.out}/config.yaml")
    return saved


def completed_rounds(saved: Checkpoint) -> list[RoundMetrics]:
    """Return the metrics of the rounds that a checkpoint completes."""
    return [RoundMetrics(**fields) for fields in saved.metrics]


def print_rounds(rounds: Iterator[RoundMetrics]) -> Iterator[RoundMetrics]:
    """Print one line for each round."""
    for m in rounds:
        accuracy = "" if m.heldout_accuracy_mean is None else f"held-out accuracy {m.heldout_accuracy_mean:.3f}, "
        teacher = "" if m.teacher_accuracy is None else f"teacher's {m.teacher_accuracy:.3f}, "
        accepted = "closing" if m.closing else f"kept {m.kept_fraction:.3f}"
        print(f"round {m.round}: {accuracy}{teacher}{accepted}, {m.seconds:.2f} s", flush=True)
        yield m


def coordinate(
    prepared: PreparedRun,
    transport: Announced,
    home: Path,
    out: Path,
    saved: Checkpoint,
    progress: ProgressHook = print_rounds,
) -> dict[str, Any]:
    """Run the rounds after a checkpoint, announce the end to the clients, and return the run's summary.

    Args:
        prepared: the config and its data.
        transport: carries the rounds.
        home: folder of the checkpoint.
        out: the run folder.
        saved: the checkpoint in `home`.
        progress: passes on the metrics of each round.

    Raises:
        RunError: if a round does not get its reports, or the disk is full. The clients receive the reason.
    """
    try:
        config, federation = prepared.config, prepared.federation
        summary = execute_run(
            prepared,
            out,
            progress,
            lambda: _rounds(transport, config, federation, home, out, saved),
            completed_rounds(saved),
        )
    except BaseException as error:  # also Ctrl-C: the devices must not wait forever
        transport.finish(str(error) or "it was interrupted")
        raise
    transport.finish(COMPLETE)
    return summary


def _rounds(
    transport: Transport, config: Config, federation: Federation, home: Path, out: Path, saved: Checkpoint
) -> Iterator[RoundMetrics]:
    """Run the remaining rounds; the checkpoint of each is written before anything of the next one is sent."""
    began = time.perf_counter()
    for result in run_rounds(make_server(config, federation), transport, saved.progress):
        if config.run.record_knowledge:
            record_messages(out / KNOWLEDGE, config, result)
        metrics = measure(result, federation, time.perf_counter() - began, config.method.message)
        saved = replace(
            saved,
            metrics=(*saved.metrics, metrics.to_dict()),
            progress=result.progress,
        )
        save_checkpoint(home, saved)
        yield metrics
        began = time.perf_counter()
