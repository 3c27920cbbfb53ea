"""The loop of a device: receive a task, run `client_round`, save the state, and only then submit the report.

One save after each round holds the whole state, including the report. After a crash at any moment the device therefore
either repeats the unfinished round from the last saved state, or submits the saved report again, byte for byte.
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
from edgefd.defences.apply import Defence, defence_of, defended, spend
from edgefd.defences.pate import Pate
from edgefd.federation.clients import ClientData, ProxySet
from edgefd.federation.context import ClientContext, client_context
from edgefd.federation.method import MessageKind, Method
from edgefd.federation.plan import RoundPlan
from edgefd.federation.report import Report
from edgefd.federation.terms import FederationTerms
from edgefd.filters.drift import DRIFT, drift, summary_of
from edgefd.filters.shift import OTHER_KIND, describe_shift, effective_share, proxy_shift, proxy_spaces
from edgefd.learners.graphs import State
from edgefd.learners.onnx_learner import OnnxLearner, Sessions
from edgefd.methods import get_method
from edgefd.methods._deployable import deployed_method
from edgefd.rounds.client import client_filter, client_round, is_listener, publish
from edgefd.rounds.validation import ExpectedTask, expected_task
from edgefd.wire import messages as wire
from edgefd.wire.bundle_reader import Bundle
from edgefd_client.link import Link, Membership, Task
from edgefd_client.state import DeviceState, exclusive_lock, load_state, save_state

MAX_STEPS = 10**6
"""training steps in a round that a device makes at most; more can only be a mistake of the coordinator"""
MIN_PRIVATE_ROWS = 8
"""private rows of a training step that has any, at least: the parameters after a step of one row hold this row"""


def run_agent(
    link: Link,
    bundle: Bundle,
    data: ClientData,
    folder: Path,
    log: Callable[[str], None],
    read_again: Callable[[], ClientData | None] = lambda: None,
) -> None:
    """Take part in a run until it is over.

    A state of an earlier run in `folder` is continued: the model goes on from its own parameters if the graphs are the
    same, and starts anew otherwise.

    Args:
        link: connection to the coordinator.
        bundle: bundle of this client.
        data: private data, scaled.
        folder: folder of the durable state.
        log: receives one line at the start and one line per round.
        read_again: returns the private data as they are before a round; None = those of the round before.

    Raises:
        UserError: if the state in `folder` belongs to another client, or is damaged.
        RunError: if a round cannot be run or saved; the state saved before is intact.
    """
    with exclusive_lock(folder):
        device = _device(link.membership, bundle, data, folder, log)
        saved = device.resume()
        context = device.context(saved)
        n_accepted = int((saved.acceptance > 0).sum())
        sizes = f"{len(data.x)} samples, {len(data.x_heldout)} held out"
        log(f"client {data.client}: {sizes}, {n_accepted} of {len(bundle.proxy)} proxy rows accepted")
        if device.listens:
            log(device.listener_line)
        elif device.method.message.of_proxy_rows:
            device.log_shift(n_accepted)
        after = saved.round - 1  # the report of the saved round may not have been submitted
        while (task := link.next_task(after, device.expected(saved))) is not None:
            if (newest := read_again()) is not None:
                device = _device(link.membership, bundle, newest, folder, log)
                saved = device.fitted(saved)
                context = replace(context, data=newest, acceptance=saved.acceptance)
            saved = device.finished(task, context, saved)
            link.submit(saved.report, saved.round)
            after = saved.round


def one_round(
    membership: Membership,
    read: Callable[[ExpectedTask], Task],
    bundle: Bundle,
    data: ClientData,
    folder: Path,
    log: Callable[[str], None],
) -> DeviceState:
    """Run one round in a process that ends afterwards, and return the state with the report to submit.

    Args:
        membership: the run and its terms.
        read: returns the round to run; if it is finished already, the saved report is returned again, byte for byte.
        bundle: bundle of this client.
        data: private data, scaled.
        folder: folder of the durable state.
        log: receives one line for the round.

    Raises:
        UserError: if the state in `folder` belongs to another client, or is damaged.
        RunError: if the round cannot be run or saved; the state saved before is intact.
    """
    with exclusive_lock(folder):
        device = _device(membership, bundle, data, folder, log)
        saved = device.resume()
        return device.finished(read(device.expected(saved)), device.context(saved), saved)


def _device(
    membership: Membership, bundle: Bundle, data: ClientData, folder: Path, log: Callable[[str], None]
) -> _Device:
    check_trainable(membership.terms, bundle, len(data.x))
    method, config = method_of(bundle)
    if not is_listener(method, data, membership.terms):  # a listener sends nothing that could disclose a row
        check_private_rows(membership.terms, len(bundle.proxy), data)
    return _Device(membership, bundle, method, config, _proxy(bundle), data, folder, log)


def method_of(bundle: Bundle) -> tuple[Method, Any]:
    """Return the method of a bundle, with its defence applied, and the config of the method.

    Raises:
        UserError: for a method or defence that a device cannot run (`edgefd.methods._deployable`).
    """
    terms = bundle.manifest.terms
    defence = defence_of(terms.defence)
    method, config = deployed_method(terms.method, terms.method_config, defence)
    return defended(method, defence), config


@dataclass(frozen=True, eq=False)
class _Device:
    """Everything of a device that does not change between rounds."""

    membership: Membership
    bundle: Bundle
    method: Method
    config: Any
    proxy: ProxySet
    data: ClientData
    folder: Path
    log: Callable[[str], None]

    @property
    def defence(self) -> Defence:
        return defence_of(self.bundle.manifest.terms.defence)

    def expected(self, saved: DeviceState) -> ExpectedTask:
        """Return what the device expects of the next task."""
        manifest = self.bundle.manifest
        return expected_task(self.method, manifest.terms, len(self.proxy), manifest.n_clients, saved.teacher)

    @property
    def listens(self) -> bool:
        """Whether the device only learns, because it has too few samples or classes to answer others."""
        return is_listener(self.method, self.data, self.membership.terms)

    @property
    def listener_line(self) -> str:
        """What a listener says: the samples and classes that it has, and those that it needs to answer."""
        training, y = self.membership.terms.training, self.data.y
        return (
            f"client {self.data.client} is a listener, with {len(y)} samples of {len(np.unique(y))} classes where the "
            f"coordinator asks for {training.min_samples} and {training.min_classes}: it learns, but sends nothing"
        )

    def resume(self) -> DeviceState:
        """Load the state of this run, begin one from the state of an earlier run, or create the first one."""
        client, run = self.data.client, self.membership.run
        saved = load_state(self.folder)
        if saved is not None and saved.client != client:
            raise UserError(
                f"{self.folder} holds the state of client {saved.client} in run {saved.run}, but this is client "
                f"{client} in run {run}: give another --state folder"
            )
        if saved is None:
            saved = self._first_state(self.bundle.init)
        elif (saved.run, saved.bundle) != (run, self.bundle.digest):
            if saved.budget_spent:
                raise UserError(
                    f"run {run} would spend privacy budget again, which run {saved.run} has spent: the epsilons of all "
                    "runs add up. To allow it, give another --state folder"
                )
            saved = self._first_state(self._parameters_after(saved))
        return self.fitted(saved)

    def _first_state(self, learner: State) -> DeviceState:
        """Return the state before the first round, whose filter is not fitted yet."""
        none, graphs = np.zeros(len(self.proxy), np.float32), self.bundle.parsed.digest
        run, client = self.membership.run, self.data.client
        return DeviceState(self.bundle.digest, run, client, -1, learner, none, "", b"", graphs=graphs)

    def _parameters_after(self, saved: DeviceState) -> State:
        """Return the parameters with which the device begins a run after an earlier one; the optimizer begins anew."""
        run, init = self.membership.run, self.bundle.init
        if saved.graphs != self.bundle.parsed.digest:
            self.log(f"run {run} has other graphs than run {saved.run} before: the model starts anew")
            return init
        self.log(f"run {run} has the graphs of run {saved.run} before: the model goes on from its own parameters")
        return {name: saved.learner[name] if name.startswith("model/") else init[name] for name in init}

    def fitted(self, saved: DeviceState) -> DeviceState:
        """Return the state with acceptance weights for the data: fitted again and saved if the data have moved."""
        data, digest = self.data, _digest(self.bundle, self.data)
        if saved.acceptance_of == digest:
            return saved
        if saved.budget_spent and isinstance(self.defence, Pate):
            raise UserError(
                "defence pate: the private data changed after their labels were sent, and labels of other data would "
                "spend the privacy budget again: give the same data, or join a new run with a new --state folder"
            )
        now = summary_of(data.x_filter, data.y, self.membership.terms.n_classes, data.contributed)
        moved = None if saved.fitted_to is None or self.listens else drift(saved.fitted_to, now)
        if moved is not None and moved < DRIFT:
            self.log(f"client {data.client}: the data have moved by {moved:.3f}, less than {DRIFT}: its filter stays")
            return saved
        acceptance = client_filter(self.method, self.config, data, self.proxy, self.membership.terms)
        began, listened = not saved.acceptance_of, saved.fitted_to is None
        if self.listens and not (began or listened):
            self.log(self.listener_line)
        if listened and not (began or self.listens):
            self.log(f"client {data.client} is no listener any more: it accepts {(acceptance > 0).sum()} proxy rows")
        if moved is not None:
            before, after = ((weights > 0).sum() for weights in (saved.acceptance, acceptance))
            self.log(
                f"client {data.client}: the data have moved by {moved:.3f}, {DRIFT} or more: its filter was fitted "
                f"again, and accepts {after} proxy rows instead of {before}"
            )
        fitted_to = None if self.listens else now
        saved = replace(saved, acceptance=acceptance, acceptance_of=digest, fitted_to=fitted_to)
        save_state(self.folder, saved)
        return saved

    def log_shift(self, n_accepted: int) -> None:
        """Warn if the proxy set is of another kind than the data, or if the device answers for no row of it."""
        data, terms = self.data, self.membership.terms
        share = effective_share(data.y, terms.n_classes)
        shift = proxy_shift(data.x, data.x_heldout, proxy_spaces(self.proxy.x), share)
        if shift is not None and shift >= OTHER_KIND:
            self.log(f"warning: client {data.client}: {describe_shift(shift)}")
        if not n_accepted:
            self.log(
                f"warning: client {data.client} accepts 0 of {len(self.proxy)} proxy rows: it answers for no row, and "
                "classes that only it has reach no other client"
            )

    def context(self, saved: DeviceState) -> ClientContext:
        """Build the client from the saved state."""
        training = self.membership.terms.training
        learner = OnnxLearner(
            Sessions(self.bundle.graphs), saved.learner, momentum=training.momentum, weight_decay=training.weight_decay
        )
        terms, acceptance = self.membership.terms, saved.acceptance
        context = client_context(self.data, learner, self.proxy, acceptance, terms, self.config)
        return replace(context, noise_key=saved.noise_key)

    def finished(self, task: Task, context: ClientContext, saved: DeviceState) -> DeviceState:
        """Return the saved state after the task; run the task unless it is finished already."""
        if task.plan.round < saved.round:
            raise RunError(
                f"the coordinator is at round {task.plan.round}, but this device has finished round {saved.round}"
            )
        return saved if task.plan.round == saved.round else self._run_round(task, context, saved)

    def _run_round(self, task: Task, context: ClientContext, saved: DeviceState) -> DeviceState:
        """Run one round and save the state after it. The round counts only when it is saved."""
        started = time.perf_counter()
        plan, terms = task.plan, self.bundle.manifest.terms
        try:
            check_task(task)
            spent = spend(self.defence, context.terms, plan, len(self.proxy), saved.budget_spent)
            report = client_round(self.method, replace(context, plan=plan, next_round=saved.round + 1), task.teacher)
            report, changes, published = publish(terms, plan, report, saved.published, task.held)
            encoded = wire.encode_report(report, terms.codec, changes)
        except ValueError as error:
            raise RunError(f"round {plan.round}: {error}") from error
        teacher = None if terms.changes_above is None else task.teacher
        saved = replace(
            saved,
            round=plan.round,
            learner=context.learner.state(),
            report=encoded,
            teacher=teacher,
            published=published,
            budget_spent=spent,
        )
        save_state(self.folder, saved)
        self.log(f"round {plan.round}: {_outcome(report, plan)}, {time.perf_counter() - started:.2f} s")
        return saved


def _outcome(report: Report, plan: RoundPlan) -> str:
    accuracy = report.metrics.get("heldout_accuracy")
    measured = "" if accuracy is None else f"held-out accuracy {accuracy:.3f}, "
    return measured + ("closing" if plan.closing else f"sent {len(report.knowledge)} of {len(plan.ids)} queried rows")


def _proxy(bundle: Bundle) -> ProxySet:
    return ProxySet(bundle.proxy, np.full(len(bundle.proxy), -1))  # a device does not learn who contributed a row


def _digest(bundle: Bundle, data: ClientData) -> str:
    """Return the sha256 of everything that the acceptance weights depend on."""
    digest = hashlib.sha256(f"{bundle.digest} {data.client}".encode())
    for array in (data.x_filter, data.y, data.x_heldout, data.y_heldout, data.contributed):
        digest.update(f" {array.dtype.str} {array.shape} ".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()


def check_task(task: Task) -> None:
    """Check that a decoded task has a teacher if and only if its round needs one.

    Raises:
        ValueError: if not; the message is the reason.
    """
    if (task.teacher is None) != (task.plan.round == 0):
        raise ValueError("every round but the first must have a teacher, and the first must have none")


def private_rows_of_steps(terms: FederationTerms, n_proxy: int) -> list[int]:
    """Return the numbers of private rows that the steps of a round have, except for steps that have none."""
    training, method = terms.training, get_method(terms.method)
    rows = [training.private_rows_per_batch]
    by_method = method.local_training != "configured"
    if training.local_steps or training.warmup_steps or training.adjusted_steps or by_method:
        rows.append(training.private_batch_size)
    if training.local_epochs:
        rows.append((training.private_batch_size + 1) // 2)  # the smallest that a pass of several batches can have
    if method.message is MessageKind.CLASS_LABELS:  # it distils as many private rows
        last = (n_proxy - 1) % training.proxy_rows_per_batch + 1
        rows.append(training.private_rows_per_batch + last)
    return [n for n in rows if n > 0]


def check_private_rows(terms: FederationTerms, n_proxy: int, data: ClientData) -> None:
    """Check that no step has fewer private rows than `MIN_PRIVATE_ROWS` because the device has no more.

    The bundle states how many are held out, so a coordinator could leave a single one.

    Raises:
        UserError: if a step would have fewer.
    """
    n = len(data.x)
    if n < MIN_PRIVATE_ROWS and private_rows_of_steps(terms, n_proxy):
        raise UserError(
            f"a device trains on {MIN_PRIVATE_ROWS} private samples or more, but {n} are left, "
            f"{len(data.y_heldout)} are held out: give more samples, or a bundle that holds out fewer (data.heldout)"
        )


def check_trainable(terms: FederationTerms, bundle: Bundle, n_private: int) -> None:
    """Check that a device with this bundle and `n_private` rows can train as the terms of the coordinator say.

    Raises:
        UserError: if it cannot.
    """
    training, manifest = terms.training, bundle.manifest
    if training.optimizer != manifest.optimizer:
        raise UserError(
            f"the coordinator trains with optimizer {training.optimizer}, but the bundle with {manifest.optimizer}: "
            "export the bundle from the config that the coordinator runs"
        )
    if training.initial == "own":
        raise UserError(
            "the coordinator asks for train.initial=own, but all devices start from the parameters of their bundle: "
            "it must set train.initial=shared"
        )
    if training.largest_batch > manifest.batch:
        raise UserError(
            f"the coordinator has batches of {training.largest_batch} rows, but the graph of the bundle takes "
            f"{manifest.batch}: export the bundle from the config that the coordinator runs"
        )
    if few := [n for n in private_rows_of_steps(terms, len(bundle.proxy)) if n < MIN_PRIVATE_ROWS]:
        raise UserError(
            f"the coordinator asks for {few[0]} private rows a step, but a device needs {MIN_PRIVATE_ROWS} or more: "
            "set a larger train.private_rows_per_batch (0 = none), train.batch_size or train.local_batch_size"
        )
    if training.most_steps(len(bundle.proxy), n_private) > MAX_STEPS:  # a number that can be too long to print
        raise UserError(
            f"the coordinator asks for more training steps in a round than the {MAX_STEPS} that a device makes: set "
            "smaller train.distill_epochs, train.closing_epochs, train.catch_up, train.adjusted_steps, "
            "train.local_steps, train.local_epochs or train.warmup_steps"
        )
    training.check_shift(manifest.shape)
