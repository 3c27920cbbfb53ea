"""A run that can be killed at any moment and go on, over any transport that tells its clients how it ended."""

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
from edgefd.runs.execute import ProgressHook, execute_run, make_plans, make_server_state
from edgefd.runs.prepare import PreparedRun
from edgefd.runs.record import KNOWLEDGE, record_messages
from edgefd.runs.round_metrics import RoundMetrics, measure
from edgefd.wire.exchange_folder import COMPLETE
from edgefd_server.coordinator.checkpoint import Checkpoint, config_digest, load_checkpoint, save_checkpoint


class Announced(Transport, Protocol):
    """A transport that tells its clients how the run ended."""

    def finish(self, how: str) -> None:
        """`edgefd.wire.exchange_folder.COMPLETE`, or why it stopped."""
        ...


def check_deployable(config: Config) -> None:
    """Whether the config holds nothing that only a simulation can do.

    Raises:
        UserError: if it does.
    """
    if config.attack.name != "none":
        raise UserError("attack is for simulations: devices are what they are; leave the section out")
    check_devices_can(config.method, config.method_config)
    check_one_head(config)
    check_defence(config.defence)
    if config.coordinator.dropout:
        raise UserError("coordinator.dropout is for simulations: devices drop out by themselves; leave it out")


def create_checkpoint(config: Config, home: Path, out: Path) -> Checkpoint:
    """A first checkpoint in `home`, before clients see anything, of a run with the run folder `out`."""
    saved = Checkpoint(secrets.token_hex(6), config_digest(config), str(out.resolve()))
    save_checkpoint(home, saved)
    return saved


def load_for_resume(config: Config, home: Path) -> Checkpoint:
    """The checkpoint in `home`.

    Raises:
        UserError: if it is of another config.
    """
    saved = load_checkpoint(home)
    if saved is None:
        raise UserError(f"the checkpoint in {home} was taken away")
    if saved.config != config_digest(config):
        raise UserError(f"the run in {home} is of another config: {saved.out}/config.yaml")
    return saved


def completed_rounds(saved: Checkpoint) -> list[RoundMetrics]:
    """The rounds before a checkpoint."""
    return [RoundMetrics(**m) for m in saved.metrics]


def lines(rounds: Iterator[RoundMetrics]) -> Iterator[RoundMetrics]:
    """Print a line a round."""
    for m in rounds:
        accuracy = "" if m.heldout_accuracy_mean is None else f"held-out accuracy {m.heldout_accuracy_mean:.3f}, "
        teacher = "" if m.teacher_accuracy is None else f"teacher's {m.teacher_accuracy:.3f}, "
        kept = "closing" if m.closing else f"kept {m.kept_fraction:.3f}"
        print(f"round {m.round}: {accuracy}{teacher}{kept}, {m.seconds:.2f} s", flush=True)
        yield m


def coordinate(
    prepared: PreparedRun, transport: Announced, home: Path, out: Path, saved: Checkpoint, watch: ProgressHook = lines
) -> dict[str, Any]:
    """The rounds after `saved`, which is in `home`, into the run folder `out`; clients are told the end. The summary.

    Raises:
        RunError: if a round does not get its reports, or the disk is full. The clients are told.
    """
    try:
        config, federation = prepared.config, prepared.federation
        summary = execute_run(
            prepared,
            out,
            watch,
            lambda: _rounds(transport, config, federation, home, out, saved),
            completed_rounds(saved),
        )
    except BaseException as error:  # whatever ends it, Ctrl-C too, the devices must not wait for ever
        transport.finish(str(error) or "it was interrupted")
        raise
    transport.finish(COMPLETE)
    return summary


def _rounds(
    transport: Transport, config: Config, federation: Federation, home: Path, out: Path, saved: Checkpoint
) -> Iterator[RoundMetrics]:
    """The rounds that are not done yet, each with its checkpoint before anything of the next goes out."""
    began = time.perf_counter()
    todo = make_plans(config, federation, saved.next_round)
    method, server = config.method, make_server_state(config, federation)
    for result in run_rounds(
        method, config.method_config, transport, todo, saved.teacher, server, saved.selection_state
    ):
        if config.run.record_knowledge:
            record_messages(out / KNOWLEDGE, config, result)
        metrics = measure(result, federation, time.perf_counter() - began, method.message)
        done = (*saved.metrics, metrics.to_dict())
        saved = replace(saved, metrics=done, teacher=result.teacher, selection_state=result.selection_state)
        save_checkpoint(home, saved)
        yield metrics
        began = time.perf_counter()
