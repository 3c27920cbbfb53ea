"""The device's loop: take a task, do the core's `client_round`, save, and only then submit.

One save after each round holds everything, the report too. So whenever the device dies, it either has not finished the
round, and does it again from the state before it, or has, and submits the very bytes that it saved.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from edgefd.core.errors import RunError, UserError
from edgefd.defences.apply import check_devices_can, check_method, defence_of, defended
from edgefd.federation.clients import ClientData, ProxySet
from edgefd.federation.method import Method
from edgefd.federation.plan import RoundPlan
from edgefd.federation.report import Report
from edgefd.federation.state import ClientState
from edgefd.learners.onnx_learner import OnnxLearner, Sessions
from edgefd.methods import config_of, get_method
from edgefd.rounds.client import client_filter, client_round
from edgefd.rounds.validation import check_plan, check_teacher
from edgefd.wire import messages as wire
from edgefd.wire.bundle_reader import Bundle
from edgefd_client.link import Link, Task
from edgefd_client.state import DeviceState, exclusive_lock, load_state, save_state


def run_agent(link: Link, bundle: Bundle, data: ClientData, folder: Path, say: Callable[[str], None]) -> None:
    """Take part in a run until it is over.

    Args:
        link: to the coordinator.
        bundle: what to train.
        data: private data, scaled.
        folder: of the durable state.
        say: takes a line for each round.

    Raises:
        UserError: if the state in `folder` is of another run, client or bundle.
        RunError: if a round cannot be done or saved; the state saved before is intact.
    """
    with exclusive_lock(folder):
        device = _Device(bundle, *method_of(bundle), _proxy(bundle), data, folder, say)
        saved = device.resume(link.run)
        state = device.state(saved)
        answers = int((saved.acceptance > 0).sum())
        say(f"client {data.client}: {len(data.x)} samples, {len(data.x_heldout)} held out, answers for {answers} rows")
        after = saved.round - 1  # the saved round's report may not have been submitted
        while (task := link.next_task(after)) is not None:
            saved = device.done(task, state, saved)
            link.submit(saved.report, saved.round)
            after = saved.round


def one_round(
    run: str, task: Task, bundle: Bundle, data: ClientData, folder: Path, say: Callable[[str], None]
) -> bytes:
    """One turn of that loop, for a process that lives no longer: the report to submit.

    Args:
        run: the federation's run.
        task: what to do; a round that is done already is answered again with the same bytes.
        bundle: what to train.
        data: private data, scaled.
        folder: of the durable state.
        say: takes a line for the round.

    Raises:
        UserError: if the state in `folder` is of another run, client or bundle.
        RunError: if the round cannot be done or saved; the state saved before is intact.
    """
    with exclusive_lock(folder):
        device = _Device(bundle, *method_of(bundle), _proxy(bundle), data, folder, say)
        saved = device.resume(run)
        return device.done(task, device.state(saved), saved).report


def method_of(bundle: Bundle) -> tuple[Method, Any]:
    """The bundle's method, with its defence, and its config.

    Raises:
        UserError: for a method that edgefd does not ship: its name would import whatever it says; or for a defence that
            is none, or would be none here.
    """
    terms = bundle.manifest.terms
    if ":" in terms.method:
        raise UserError(f"the bundle asks for method {terms.method!r}: a device runs the methods of edgefd only")
    method, defence = get_method(terms.method), defence_of(terms.defence)
    check_devices_can(defence)
    check_method(defence, method)
    return defended(method, defence), config_of(method, terms.method_config)


@dataclass(frozen=True, eq=False)
class _Device:
    """What does not change between rounds."""

    bundle: Bundle
    method: Method
    config: Any
    proxy: ProxySet
    data: ClientData
    folder: Path
    say: Callable[[str], None]

    def resume(self, run: str) -> DeviceState:
        """The saved state, or a first one; saved with the claims of these data."""
        bundle, client = self.bundle, self.data.client
        saved = load_state(self.folder, bundle.digest)
        digest = _digest(bundle, self.data)
        if saved is not None and (saved.run, saved.client) != (run, client):
            raise UserError(
                f"{self.folder} is of client {saved.client} in run {saved.run}, this is client {client} in run {run}: "
                "give another --state folder"
            )
        if saved is not None and saved.acceptance_of == digest and saved.acceptance.shape == (len(self.proxy),):
            return saved
        acceptance = client_filter(self.method, self.config, self.data, self.proxy, bundle.manifest.terms.seed)
        if saved is None:
            saved = DeviceState(bundle.digest, run, client, -1, bundle.init, acceptance, digest, b"")
        saved = replace(saved, acceptance=acceptance, acceptance_of=digest)
        save_state(self.folder, saved)
        return saved

    def state(self, saved: DeviceState) -> ClientState:
        """The client as it was saved."""
        learner = OnnxLearner(Sessions(self.bundle.graphs), saved.learner)
        return ClientState(self.data, learner, self.bundle.manifest.n_classes, saved.acceptance)

    def done(self, task: Task, state: ClientState, saved: DeviceState) -> DeviceState:
        """What is saved once the task is done; it may be already."""
        if task.plan.round < saved.round:
            raise RunError(f"the coordinator is at round {task.plan.round}, this device at {saved.round}")
        return saved if task.plan.round == saved.round else self._do(task, state, saved)

    def _do(self, task: Task, state: ClientState, saved: DeviceState) -> DeviceState:
        """One round, and the save that makes it count."""
        began = time.perf_counter()
        plan = task.plan
        try:
            check_task(self.method, task, self.bundle)
            report = client_round(self.method, self.config, state, self.proxy, plan, task.teacher)
            encoded = wire.encode_report(report, self.bundle.manifest.terms.codec)
        except ValueError as error:
            raise RunError(f"round {plan.round}: {error}") from error
        saved = replace(saved, round=plan.round, learner=state.learner.state(), report=encoded)
        save_state(self.folder, saved)
        self.say(f"round {plan.round}: {_outcome(report, plan)}, {time.perf_counter() - began:.2f} s")
        return saved


def _outcome(report: Report, plan: RoundPlan) -> str:
    accuracy = report.metrics.get("heldout_accuracy")
    measured = "" if accuracy is None else f"held-out accuracy {accuracy:.3f}, "
    return measured + ("closing" if plan.closing else f"answered for {len(report.knowledge)} of {len(plan.ids)} rows")


def _proxy(bundle: Bundle) -> ProxySet:
    return ProxySet(bundle.proxy, np.full(len(bundle.proxy), -1))  # a device is not told who gave a row


def _digest(bundle: Bundle, data: ClientData) -> str:
    """Of all that the claims depend on."""
    digest = hashlib.sha256(f"{bundle.digest} {data.client}".encode())
    for array in (data.x, data.y, data.x_heldout, data.y_heldout, data.contributed):
        digest.update(f" {array.dtype.str} {array.shape} ".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()


def check_task(method: Method, task: Task, bundle: Bundle) -> None:
    """Whether a task is one that this bundle's device can and should do.

    Raises:
        ValueError: with the reason.
    """
    manifest, plan = bundle.manifest, task.plan
    check_plan(plan, len(bundle.proxy))
    if task.teacher is not None:
        check_teacher(method, task.teacher, len(bundle.proxy), manifest.n_classes)
    if (task.teacher is None) != (plan.round == 0):
        raise ValueError("there is a teacher in every round but the first")
    asked, has = plan.training, (manifest.terms.seed, manifest.optimizer)
    if (plan.seed, asked.optimizer) != has:
        raise ValueError(
            f"the plan is for seed {plan.seed} and {asked.optimizer}, the bundle for {has[0]} and {has[1]}"
        )
    if asked.batch_size > manifest.batch:
        raise ValueError(f"the plan asks for batches of {asked.batch_size}, the bundle's graph takes {manifest.batch}")
    if asked.augment_shift and len(manifest.shape) != 3:
        raise ValueError(f"the plan shifts images; samples have shape {list(manifest.shape)}")
