"""Front end for Flower: a thread that exchanges messages between a `RoundCoordinator` and the nodes of a Grid.

The thread sends the plan of the open round to the nodes and submits their reports. A node gets one message at a time,
and another one if it does not answer: Flower drops a message that the node could not fetch completely, without an
error. A node that answers twice sends the same bytes. With an allow-list, the registered key of a node determines its
client. Without one, the node's first answer does, and the client belongs to this node until the node disconnects.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from flwr.app import ConfigRecord, Message, RecordDict

from edgefd.core.errors import RunError, UserError
from edgefd.core.text import shown
from edgefd.wire.device_link import terms_message
from edgefd_server.coordinator.round_coordinator import Refused, RoundCoordinator
from edgefd_server.coordinator.round_inbox import OpenRound

if TYPE_CHECKING:
    from flwr.serverapp import Grid

    from edgefd_server.certs import AllowList
    from edgefd_server.monitoring.prometheus import LinkMetrics

MESSAGE_TYPE = "query.round"
NODE_CHECK_SECONDS = 1.0
"""seconds between two queries for the connected nodes"""
FIRST_RETRY_SECONDS, MAX_RETRY_SECONDS = 2.0, 60.0
"""seconds before the round is sent again to a node that failed; doubled after each failure, up to the maximum"""
RESEND_SECONDS = 60.0
"""seconds without an answer before the round is sent again to a node; doubled each time"""
GRID_FAILURE_SECONDS = 30.0
"""seconds for which the Grid may fail before the run ends"""


@dataclass(frozen=True)
class _PendingMessage:
    """A sent message that has no reply yet."""

    node: int
    round: int
    expires: float
    """time after which the message counts as lost"""


@dataclass(eq=False)
class _NodeState:
    """The state of a connected node."""

    client: int | None
    """None = not known yet"""
    barred: bool = False
    """whether its key is missing on the allow-list"""
    held: bytes = b""
    """digest of the teacher that the node said it holds with its last report; empty = not known"""
    failures: int = 0
    not_before: float = 0.0
    """time before which it is not sent the round again"""


@dataclass(eq=False)
class GridDriver:
    """Exchange of messages between a coordinator and the nodes of a Grid. Use `run_driver` to run one.

    `config` is for simulated clients, which are created from its YAML. A failure of a simulated client ends the run,
    because another attempt would fail too. Without `config`, no answer of a node can end the run.
    """

    coordinator: RoundCoordinator
    grid: Grid
    allowed: AllowList | None = None
    config: str | None = None
    metrics: LinkMetrics | None = None
    seen: dict[int, float] = field(default_factory=dict)
    """time at which each client's node was last connected"""
    nodes: dict[int, _NodeState] = field(default_factory=dict)
    _pending: dict[str, _PendingMessage] = field(default_factory=dict)
    _nodes_checked: float = -NODE_CHECK_SECONDS

    def step(self) -> None:
        """Process the replies that have arrived, and send the messages that are due."""
        self._process_replies()
        opened = self.coordinator.round
        if opened is None:
            return
        if time.monotonic() - self._nodes_checked >= NODE_CHECK_SECONDS:
            self._update_nodes()
        if messages := self._due_messages(opened):
            ids: list[str | None] = list(self.grid.push_messages([message for _, message in messages]))
            for (node, _), message_id in zip(messages, ids or [None] * len(messages), strict=True):
                if message_id is None:
                    self._refuse(node, Refused("node", "Flower did not accept a message for this node"))
                else:
                    self._add_pending(message_id, node, opened)

    # Connected nodes.

    def _update_nodes(self) -> None:
        connected = {node.node_id: node for node in self.grid.get_nodes()}
        self._nodes_checked = time.monotonic()
        n_clients = self.coordinator.info.n_clients
        if self.config is not None and len(connected) > n_clients:
            line = f"{len(connected)} nodes for {n_clients} clients: set num-supernodes to {n_clients}"
            self.coordinator.fail(RunError(line))
        for node in set(self.nodes) - set(connected):
            self.coordinator.note("node_gone", node=node, client=self.nodes.pop(node).client)
        for node in sorted(connected):
            self._check_key(node, connected[node].public_key)
        self.seen |= {state.client: self._nodes_checked for state in self.nodes.values() if state.client is not None}
        if self.metrics is not None:
            self.metrics.nodes.set(len(self.nodes))

    def _check_key(self, node: int, key: bytes) -> None:
        """Add a new node. Check each node against the allow-list again, because the list may have changed."""
        state = self.nodes.get(node)
        client, reason = None, ""
        if self.allowed is not None:
            try:
                client = self.allowed.client_of_key(key)
            except (PermissionError, UserError) as error:
                reason = str(error)
        if state is None:
            state = self.nodes[node] = _NodeState(client)
            self.coordinator.note("node", node=node, client=client)
        if self.allowed is None:
            return
        if reason and not state.barred:
            self._record_refusal(node, Refused("certificate", reason))
        state.client, state.barred = client, bool(reason)

    def _bind(self, node: int, client: Any) -> int:
        """Return the client of a node, which is the one in its answer.

        Raises:
            Refused: if this client does not exist, the node's key is another client's, or another node has the client.
        """
        state = self.nodes.setdefault(node, _NodeState(None))
        n_clients = self.coordinator.info.n_clients
        if type(client) is not int or not 0 <= client < n_clients:
            raise Refused("client", f"there is no client {client!r}: the clients are 0 to {n_clients - 1}")
        if state.barred or (self.allowed is not None and state.client is None):
            raise Refused("certificate", "the node's key is not on the allow-list")
        if state.client not in (None, client):
            raise Refused("client", f"the node is client {state.client}, not {client}")
        holder = next((n for n, other in self.nodes.items() if other.client == client and n != node), None)
        if holder is not None:
            raise Refused("claimed", f"client {client} is another connected node ({holder})")
        state.client = client
        return client

    # Replies of the nodes.

    def _process_replies(self) -> None:
        if not self._pending:
            return
        for reply in self._pull_replies():
            if (sent := self._pending.pop(reply.metadata.reply_to_message_id, None)) is None:
                continue
            try:
                self._submit(sent, reply)
            except Refused as refused:
                self._refuse(sent.node, refused)

    def _pull_replies(self) -> list[Message]:
        """Return the replies that have arrived. A reply that Flower cannot read does not affect the others."""
        try:
            return list(self.grid.pull_messages(list(self._pending)))
        except Exception:
            list(self.grid.get_nodes())  # if the Grid itself fails, this call fails too
        replies: list[Message] = []
        for message_id, sent in list(self._pending.items()):
            try:
                replies += self.grid.pull_messages([message_id])
            except Exception as error:
                del self._pending[message_id]
                line = f"Flower cannot read the node's reply: {type(error).__name__}: {error}"
                self._refuse(sent.node, Refused("malformed", line))
        # The first call may have removed replies from the Grid. Their nodes are sent the round again, and answer with
        # the same bytes.
        answered = {reply.metadata.reply_to_message_id for reply in replies}
        self._pending = {message_id: sent for message_id, sent in self._pending.items() if message_id in answered}
        return replies

    def _submit(self, sent: _PendingMessage, reply: Message) -> None:
        """Submit the report in a reply to the coordinator.

        Raises:
            Refused: if the reply holds no report, or the coordinator refuses it.
        """
        if reply.has_error():
            raise Refused("node", f"Flower reports an error: {reply.error.reason or reply.error.code}")
        body = reply.content.get("edgefd")
        if not isinstance(body, ConfigRecord):
            raise Refused("malformed", "the reply has no record `edgefd`")
        client_field, failure, report = body.get("client"), body.get("failure"), body.get("report")
        if failure is not None:
            line = shown(failure)
            if self.config is not None:
                self.coordinator.fail(RunError(f"round {sent.round}: {line}"))
            raise Refused("failed", line)
        client = self._bind(sent.node, client_field)
        if report is None:
            return  # the client was not sampled; the reply only tells which client the node is
        if not isinstance(report, bytes):
            refused = Refused("malformed", "the report is not bytes")
            self.coordinator.refuse(client, refused)
            raise refused
        duplicate = self.coordinator.submit(client, sent.round, report)
        self.nodes[sent.node].failures = 0
        held = body.get("held")
        self.nodes[sent.node].held = held if isinstance(held, bytes) else b""
        if self.metrics is not None and not duplicate:
            self.metrics.bytes.labels("up").inc(len(report))

    def _refuse(self, node: int, refused: Refused) -> None:
        """Record a refusal, and send the round to the node again after a delay. A late report causes no delay."""
        self._record_refusal(node, refused)
        state = self.nodes.get(node)
        if state is not None and refused.reason != "round":
            state.held = b""  # it may have lost its state: the next message has the whole teacher
            delay = min(MAX_RETRY_SECONDS, FIRST_RETRY_SECONDS * 2**state.failures)
            state.not_before = time.monotonic() + delay
            state.failures = min(state.failures + 1, 10)

    def _record_refusal(self, node: int, refused: Refused) -> None:
        client = self.nodes[node].client if node in self.nodes else None
        self.coordinator.note(
            "refused", call="Flower", reason=refused.reason, line=str(refused), node=node, client=client
        )

    # Messages to the nodes.

    def _due_messages(self, opened: OpenRound) -> list[tuple[int, Message]]:
        """Create a message for each free node whose client's report is missing or whose client is not known yet."""
        missing, now = set(self.coordinator.missing()), time.monotonic()
        busy = {sent.node for sent in self._pending.values() if now < sent.expires}
        due = []
        for node, state in self.nodes.items():
            free = node not in busy and not state.barred and now >= state.not_before
            if free and (state.client is None or state.client in missing):
                due.append((node, self._message(node, state, opened)))
        return due

    def _add_pending(self, message_id: str, node: int, opened: OpenRound) -> None:
        unanswered = self._unanswered(node)
        if unanswered:
            self.coordinator.note("silent", node=node, client=self.nodes[node].client, unanswered=unanswered)
        expires = time.monotonic() + RESEND_SECONDS * 2 ** min(unanswered, 10)
        self._pending[message_id] = _PendingMessage(node, opened.plan.round, expires)

    def _unanswered(self, node: int) -> int:
        """Return the number of messages to a node that have no reply yet."""
        return sum(sent.node == node for sent in self._pending.values())

    def _message(self, node: int, state: _NodeState, opened: OpenRound) -> Message:
        info, body = self.coordinator.info, dict[str, Any]()
        body["run"], body["terms"] = info.run, terms_message(info.terms).SerializeToString()
        body["plan"] = opened.encoded_plan
        held = b"" if self._unanswered(node) else state.held  # it may have run the round already
        teacher = opened.teacher_for(state.client, held)
        if teacher is not None:
            body["teacher"] = teacher
        if held := opened.held_digest(state.client):
            body["held"] = held
        if state.client is None and len(opened.asked) < info.n_clients:
            body["asked"] = list(opened.asked)
        if self.config is not None:
            body["config"] = self.config
        if self.allowed is not None and state.client is not None:
            body["client"] = state.client
        if self.metrics is not None:
            self.metrics.bytes.labels("down").inc(len(body["plan"]) + len(teacher or b""))
        content = RecordDict({"edgefd": ConfigRecord(body)})
        ttl = self.coordinator.timeout + 60.0
        return Message(content, node, MESSAGE_TYPE, ttl=ttl, group_id=str(opened.plan.round))


@contextmanager
def run_driver(driver: GridDriver, poll: float = 0.1) -> Iterator[None]:
    """Exchange messages with the nodes while the context lasts. A Grid that keeps failing ends the run.

    Args:
        driver: driver to run in a thread.
        poll: seconds between two steps.
    """
    stop = threading.Event()
    thread = threading.Thread(target=_run, args=(driver, poll, stop), name="grid-driver", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(GRID_FAILURE_SECONDS)


def _run(driver: GridDriver, poll: float, stop: threading.Event) -> None:
    last_success = time.monotonic()
    while not stop.wait(poll):
        try:
            driver.step()
            last_success = time.monotonic()
        except Exception as error:  # any error: otherwise the round would wait for ever
            line = f"{type(error).__name__}: {error}"
            driver.coordinator.note("grid", line=line)
            if time.monotonic() - last_success > GRID_FAILURE_SECONDS:
                driver.coordinator.fail(RunError(f"Flower's Grid fails: {line}"))
                return
            stop.wait(1.0)
