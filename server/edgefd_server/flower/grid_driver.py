"""Flower's door to a `RoundCoordinator`: a thread that sends a round's plan to the nodes of a Grid and hands their reports in.

A node is sent one message at a time, and another when it stays silent: Flower drops one that it fails to fetch whole
and tells nobody, and an answer that comes twice is the same bytes. Which client a node is, its registered key says
where there is an allow-list; else its first answer says so, and binds the client to the node until the node is gone.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from flwr.app import ConfigRecord, Message, RecordDict

from edgefd.core.errors import RunError, UserError
from edgefd.wire import messages as wire
from edgefd.wire.device_link import terms_message
from edgefd_server.coordinator.round_coordinator import OpenRound, Refused, RoundCoordinator

if TYPE_CHECKING:
    from edgefd_server.certs import AllowList
    from edgefd_server.monitoring.prometheus import LinkMetrics

MESSAGE_TYPE = "query.round"
LOOK = 1.0
"""seconds between two looks at who is connected"""
FIRST_PAUSE, LAST_PAUSE = 2.0, 60.0
"""seconds before a node that failed is sent the round again; doubled each time"""
SILENCE = 60.0
"""seconds without an answer before a node is sent the round again; doubled each time"""
PATIENCE = 30.0
"""seconds that the Grid may fail before the run ends"""
_LONGEST_LINE = 500


class Node(Protocol):
    """What is needed of Flower's NodeInfo."""

    @property
    def node_id(self) -> int:
        """Flower's number for it."""
        ...

    @property
    def public_key(self) -> bytes:
        """PEM; of a node without a registered key, one that it made up."""
        ...


class Nodes(Protocol):
    """What is needed of `flwr.serverapp.Grid`."""

    def get_nodes(self) -> Iterable[Node]:
        """Nodes that are connected."""
        ...

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str | None]:
        """Send; the ids of the messages, in order, None for one that cannot be sent."""
        ...

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """The replies to those messages that are there."""
        ...


@dataclass(frozen=True)
class _Sent:
    """A message that has no reply yet."""

    node: int
    round: int
    until: float
    """when to think it lost"""


@dataclass(eq=False)
class _Known:
    """What is known of a connected node."""

    client: int | None
    """None = it has not said"""
    barred: bool = False
    """its key is not on the allow-list"""
    failures: int = 0
    not_before: float = 0.0


@dataclass(eq=False)
class GridDriver:
    """Use `run_driver`.

    `config` is for simulated clients, who are built from the config's YAML; a failure of theirs ends the run, as trying
    again would not help. Without it nothing that a node says can.
    """

    coordinator: RoundCoordinator
    grid: Nodes
    allowed: AllowList | None = None
    config: str | None = None
    metrics: LinkMetrics | None = None
    seen: dict[int, float] = field(default_factory=dict)
    """when each client's node was last connected"""
    nodes: dict[int, _Known] = field(default_factory=dict)
    _sent: dict[str, _Sent] = field(default_factory=dict)
    _looked: float = -LOOK

    def turn(self) -> None:
        """Take the replies that are there; send what there is to send."""
        self._take()
        opened = self.coordinator.round
        if opened is None:
            return
        if self.metrics is not None:
            self.metrics.round.set(opened.plan.round)
        if time.monotonic() - self._looked >= LOOK:
            self._look()
        if messages := self._due(opened):
            ids = list(self.grid.push_messages([message for _, message in messages]))
            for (node, _), sent in zip(messages, ids or [None] * len(messages), strict=True):
                if sent is None:
                    self._refuse(node, Refused("node", "Flower did not take a message for it"))
                else:
                    self._enter(sent, node, opened)

    # who is there

    def _look(self) -> None:
        found = {node.node_id: node for node in self.grid.get_nodes()}
        self._looked = time.monotonic()
        if self.config is not None and len(found) > self.coordinator.info.n_clients:
            n = self.coordinator.info.n_clients
            self.coordinator.fail(RunError(f"{len(found)} nodes for {n} clients: set num-supernodes to {n}"))
        for gone in set(self.nodes) - set(found):
            self.coordinator.note("node_gone", node=gone, client=self.nodes.pop(gone).client)
        for name in sorted(found):
            self._check(name, found[name].public_key)
        self.seen |= {known.client: self._looked for known in self.nodes.values() if known.client is not None}
        if self.metrics is not None:
            self.metrics.nodes.set(len(self.nodes))

    def _check(self, name: int, key: bytes) -> None:
        """Enter a node that is new; one that is not may have been revoked, or admitted, since."""
        known = self.nodes.get(name)
        client, why = None, ""
        if self.allowed is not None:
            try:
                client = self.allowed.client_of_key(key)
            except (PermissionError, UserError) as error:
                why = str(error)
        if known is None:
            known = self.nodes[name] = _Known(client)
            self.coordinator.note("node", node=name, client=client)
        if self.allowed is None:
            return
        if why and not known.barred:
            self._count(name, Refused("certificate", why))
        known.client, known.barred = client, bool(why)

    def _bind(self, name: int, claimed: Any) -> int:
        """The client that the node is, as its key or its first answer says."""
        known = self.nodes.setdefault(name, _Known(None))
        if type(claimed) is not int or not 0 <= claimed < self.coordinator.info.n_clients:
            raise Refused("client", f"there is no client {claimed!r}: 0 to {self.coordinator.info.n_clients - 1} are")
        if known.barred or (self.allowed is not None and known.client is None):
            raise Refused("certificate", "its key is not on the allow-list")
        if known.client not in (None, claimed):
            raise Refused("client", f"the node is client {known.client}, not {claimed}")
        holder = next((n for n, other in self.nodes.items() if other.client == claimed and n != name), None)
        if holder is not None:
            raise Refused("claimed", f"client {claimed} is another node ({holder}), which is connected")
        known.client = claimed
        return claimed

    # what they answer

    def _take(self) -> None:
        if not self._sent:
            return
        for reply in self._replies():
            if (sent := self._sent.pop(reply.metadata.reply_to_message_id, None)) is None:
                continue
            try:
                self._settle(sent, reply)
            except Refused as refused:
                self._refuse(sent.node, refused)

    def _replies(self) -> list[Message]:
        """Those that are there. One that Flower cannot read must not cost the others theirs."""
        try:
            return list(self.grid.pull_messages(list(self._sent)))
        except Exception:
            list(self.grid.get_nodes())  # if it is the Grid that fails, this does too
        found: list[Message] = []
        for name, sent in list(self._sent.items()):
            try:
                found += self.grid.pull_messages([name])
            except Exception as error:
                del self._sent[name]
                line = f"Flower cannot read its reply: {type(error).__name__}: {error}"
                self._refuse(sent.node, Refused("malformed", line[:_LONGEST_LINE]))
        there = {reply.metadata.reply_to_message_id for reply in found}
        self._sent = {name: sent for name, sent in self._sent.items() if name in there}
        return found  # what was lost by the way is asked for again, and answered with the same bytes

    def _settle(self, sent: _Sent, reply: Message) -> None:
        """Hand a reply's report in.

        Raises:
            Refused: if there is none, or it is not taken.
        """
        if reply.has_error():
            raise Refused("node", f"Flower says: {reply.error.reason or reply.error.code}")
        body = reply.content.get("edgefd")
        if not isinstance(body, ConfigRecord):
            raise Refused("malformed", "a reply without a record edgefd")
        client, failure, report = body.get("client"), body.get("failure"), body.get("report")
        if failure is not None:
            line = str(failure)[:_LONGEST_LINE]
            if self.config is not None:
                self.coordinator.fail(RunError(f"round {sent.round}: {line}"))
            raise Refused("failed", line)
        who = self._bind(sent.node, client)
        if report is None:
            return  # it was not asked, and has said who it is
        if not isinstance(report, bytes):
            raise Refused("malformed", "a report that is not bytes")
        known = self.coordinator.submit(who, sent.round, report)
        self.nodes[sent.node].failures = 0
        if self.metrics is not None and not known:
            self.metrics.accepted.inc()
            self.metrics.bytes.labels("up").inc(len(report))
            if (opened := self.coordinator.round) is not None and opened.plan.round == sent.round:
                self.metrics.report_seconds.observe(time.monotonic() - opened.began)

    def _refuse(self, name: int, refused: Refused) -> None:
        """Count it; the node is sent the round again, but not at once. To be late is no fault."""
        self._count(name, refused)
        known = self.nodes.get(name)
        if known is not None and refused.reason != "round":
            known.not_before = time.monotonic() + min(LAST_PAUSE, FIRST_PAUSE * 2**known.failures)
            known.failures = min(known.failures + 1, 10)

    def _count(self, name: int, refused: Refused) -> None:
        if self.metrics is not None:
            self.metrics.refused.labels("Flower", refused.reason).inc()
        client = self.nodes[name].client if name in self.nodes else None
        self.coordinator.note(
            "refused", call="Flower", reason=refused.reason, line=str(refused), node=name, client=client
        )

    # what they are sent

    def _due(self, opened: OpenRound) -> list[tuple[int, Message]]:
        """A message for each free node whose client is missing, or who has not said which client it is."""
        missing, now = set(self.coordinator.missing()), time.monotonic()
        busy = {sent.node for sent in self._sent.values() if now < sent.until}
        due = []
        for name, known in self.nodes.items():
            free = name not in busy and not known.barred and now >= known.not_before
            if free and (known.client is None or known.client in missing):
                due.append((name, self._message(name, known, opened)))
        return due

    def _enter(self, message: str, node: int, opened: OpenRound) -> None:
        unanswered = sum(sent.node == node for sent in self._sent.values())
        if unanswered:
            self.coordinator.note("silent", node=node, client=self.nodes[node].client, unanswered=unanswered)
        self._sent[message] = _Sent(node, opened.plan.round, time.monotonic() + SILENCE * 2 ** min(unanswered, 10))

    def _message(self, name: int, known: _Known, opened: OpenRound) -> Message:
        info, body = self.coordinator.info, dict[str, Any]()
        body["run"], body["terms"] = info.run, terms_message(info.terms).SerializeToString()
        body["plan"] = wire.encode_plan(opened.plan)
        if opened.teacher is not None:
            body["teacher"] = opened.teacher
        if known.client is None and len(opened.asked) < info.n_clients:
            body["asked"] = list(opened.asked)
        if self.config is not None:
            body["config"] = self.config
        if self.allowed is not None and known.client is not None:
            body["client"] = known.client
        if self.metrics is not None:
            self.metrics.bytes.labels("down").inc(len(body["plan"]) + len(opened.teacher or b""))
        content = RecordDict({"edgefd": ConfigRecord(body)})
        ttl = self.coordinator.timeout + 60.0
        return Message(content, name, MESSAGE_TYPE, ttl=ttl, group_id=str(opened.plan.round))


@contextmanager
def run_driver(front_end: GridDriver, poll: float = 0.1) -> Iterator[None]:
    """Let the nodes in while the context lasts. A Grid that fails for long ends the run.

    Args:
        front_end: to open.
        poll: seconds between two looks at the Grid.
    """
    over = threading.Event()
    thread = threading.Thread(target=_serve, args=(front_end, poll, over), name="flower-door", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join(PATIENCE)


def _serve(front_end: GridDriver, poll: float, over: threading.Event) -> None:
    well = time.monotonic()
    while not over.wait(poll):
        try:
            front_end.turn()
            well = time.monotonic()
        except Exception as error:  # whatever it is, the round must not wait for ever
            line = f"{type(error).__name__}: {error}"
            front_end.coordinator.note("grid", line=line)
            if time.monotonic() - well > PATIENCE:
                front_end.coordinator.fail(RunError(f"Flower's Grid fails: {line}"))
                return
            over.wait(1.0)
