"""`GrpcLink`: a link (`edgefd_client.link.Link`) over gRPC. It needs grpcio and protobuf.

Whatever the network does, a call is made again until it is answered: with the same bytes, so it counts once.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

import grpc
from edgefd_proto import edgefd_pb2 as pb
from edgefd_proto.edgefd_pb2_grpc import DeviceLinkStub

from edgefd.core.errors import RunError, UserError
from edgefd.federation.terms import FederationTerms
from edgefd.wire import messages as wire
from edgefd.wire.device_link import HOLD, PROTOCOL, REASON, is_loopback, read_terms, terms_message
from edgefd_client.link import Task

MAX_MESSAGE = 256 * 2**20
SHORT, LONG = 20.0, 120.0
"""seconds that a call may take: one that moves little, one that moves much"""
FIRST_PAUSE, LAST_PAUSE = 0.2, 15.0
GIVE_UP = 3600
"""seconds without an answer after which a device takes its coordinator for gone, if it is not told otherwise"""
_AGAIN = {
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.DEADLINE_EXCEEDED,
    grpc.StatusCode.CANCELLED,
    grpc.StatusCode.INTERNAL,
    grpc.StatusCode.UNKNOWN,
}
"""without a reason of the coordinator's, these are the network's, or a coordinator's that stops"""
_WAIT = {"rate", "allow-list", "early"}
"""the coordinator's reasons that pass by themselves"""

Answer = TypeVar("Answer")


def connect(address: str, certs: Path | None, insecure: bool) -> grpc.Channel:
    """A channel to HOST:PORT. Nothing is sent yet.

    Args:
        address: of the coordinator.
        certs: folder of ca.pem, device.pem and device.key; None: plaintext.
        insecure: plaintext may leave this machine.

    Raises:
        UserError: if certificates are missing, or it would be plaintext beyond this machine.
    """
    options = [
        ("grpc.max_receive_message_length", MAX_MESSAGE),
        ("grpc.keepalive_time_ms", 20_000),
        ("grpc.keepalive_timeout_ms", 10_000),
        ("grpc.initial_reconnect_backoff_ms", 200),
        # Not how long it waits, but how long an attempt may take: TLS over a network that loses packets needs its time.
        ("grpc.min_reconnect_backoff_ms", 20_000),
        ("grpc.max_reconnect_backoff_ms", 10_000),
    ]
    if certs is None:
        if not (insecure or is_loopback(address)):
            raise UserError(
                f"without --certs everybody can read and answer what passes to {address}: give --certs DIR, "
                "the folder that `edgefd certs device` made, or --insecure to have it so"
            )
        return grpc.insecure_channel(address, options)
    try:
        ca, key, certificate = ((certs / name).read_bytes() for name in ("ca.pem", "device.key", "device.pem"))
    except OSError as error:
        raise UserError(
            f"cannot read {error.filename}: {error.strerror}; --certs is the folder that `edgefd certs device` made"
        ) from error
    return grpc.secure_channel(address, grpc.ssl_channel_credentials(ca, key, certificate), options)


class GrpcLink:
    """A device's session with its coordinator. Use `join`."""

    def __init__(
        self, channel: grpc.Channel, client: int | None, say: Callable[[str], None], give_up: float = GIVE_UP
    ) -> None:
        self._stub = DeviceLinkStub(channel)  # type: ignore[no-untyped-call]
        self._say = say
        self._client = client
        self._give_up = give_up
        self._heard = 0.0
        """when the coordinator last answered, or was first called since"""
        self._last: tuple[bytes, int] | None = None
        """the report that was handed over last, and its round"""
        self._owed = False
        """whether the coordinator may have lost it"""
        self._terms: FederationTerms | None = None
        self._reply = pb.JoinReply()

    @property
    def run(self) -> str:
        """See `edgefd_client.link.Link`."""
        return self._reply.run

    @property
    def client(self) -> int:
        """Which client this device is."""
        return self._reply.client

    @property
    def manifest_sha256(self) -> str:
        """Of the bundle that this client must have."""
        return self._reply.manifest_sha256

    def join(self, terms: FederationTerms | None) -> None:
        """Open a session; also again, when the coordinator has forgotten it.

        Args:
            terms: of the device's bundle; None: it has none yet, and may only fetch it.

        Raises:
            UserError: if the device was set up for another federation.
            RunError: if it is refused, or the coordinator now runs another run.
        """
        self._terms = terms
        self._again(self._join)

    def next_task(self, after: int) -> Task | None:
        """See `edgefd_client.link.Link`. A coordinator that was killed meanwhile gets the last report once more."""

        def act() -> pb.TaskReply:
            if self._owed and self._last is not None:
                self._hand_over(*self._last)
            request = pb.TaskRequest(session=self._reply.session, after=after)
            reply: pb.TaskReply = self._stub.NextTask(request, timeout=HOLD + LONG)
            return reply

        while True:
            reply = self._again(act)
            match reply.WhichOneof("what"):
                case "task":
                    return _task(reply.task, after)
                case "end":
                    self._confirm(after)
                    if reply.end.reason:
                        raise RunError(f"the coordinator stopped: {' '.join(reply.end.reason.split())}")
                    return None
                case None:
                    raise RunError("the coordinator answered with neither a task, nor nothing, nor the end")

    def _confirm(self, after: int) -> None:
        """Say that the end has come. A coordinator that does not hear it only stays for a while; the device is done."""
        with suppress(grpc.RpcError):
            self._stub.NextTask(pb.TaskRequest(session=self._reply.session, after=after, told=True), timeout=SHORT)

    def submit(self, report: bytes, round: int) -> None:
        """See `edgefd_client.link.Link`. A round that has ended without this report is passed over."""
        self._again(lambda: self._hand_over(report, round))
        self._last = report, round

    def _hand_over(self, report: bytes, round: int) -> None:
        request = pb.SubmitRequest(session=self._reply.session, run=self.run, round=round, report=report)
        try:
            self._stub.SubmitReport(request, timeout=LONG)
        except grpc.RpcError as error:
            if _reason(error) != "round":
                raise
            if (report, round) != self._last:
                self._say(f"round {round}: the report came too late")
        self._owed = False

    def contribute(self, request: pb.ContributeRequest) -> pb.ContributeReply:
        """Offer samples for the proxy set, or send some of those that were offered. It needs no session.

        Raises:
            RunError: if it is refused.
        """

        def act() -> pb.ContributeReply:
            reply: pb.ContributeReply = self._stub.ContributeProxy(request, timeout=LONG)
            return reply

        return self._again(act)

    def pieces(self, file: str, offset: int) -> Iterator[bytes]:
        """The bundle's file from that byte on.

        Raises:
            grpc.RpcError: if it is cut off; go on from what has come, by `retried`.
        """
        request = pb.BundleRequest(session=self._reply.session, file=file, offset=offset)
        for chunk in self._stub.GetBundle(request, timeout=LONG):
            self._heard = time.monotonic()
            yield chunk.data

    def retried(self, act: Callable[[], Answer]) -> Answer:
        """What `act` returns, once no call in it is cut off or must wait.

        Raises:
            RunError: if the coordinator refuses.
        """
        return self._again(act)

    def _join(self) -> None:
        request = pb.JoinRequest(protocol=PROTOCOL, client=self._client)
        if self._terms is not None:
            request.terms.CopyFrom(terms_message(self._terms))
        reply: pb.JoinReply = self._stub.Join(request, timeout=SHORT)
        try:
            terms = read_terms(reply.terms)
        except ValueError as error:
            raise RunError(f"cannot read what the coordinator sent: {error}") from error
        if self._terms is not None and (different := terms.differences(self._terms)):
            raise UserError(_elsewhere(different))
        if self._reply.run not in ("", reply.run):
            raise RunError(f"the coordinator is at run {reply.run} now, this device at {self._reply.run}")
        self._reply, self._owed = reply, True

    def _again(self, act: Callable[[], Answer]) -> Answer:
        pause, told, self._heard = FIRST_PAUSE, "", time.monotonic()
        while True:
            try:
                return act()
            except grpc.RpcError as error:
                reason = _reason(error)
                if reason == "session" and self._reply.session:
                    self._reply.session = b""  # if joining anew does not help, that is the coordinator's last word
                    self._again(self._join)
                    continue
                if not (reason in _WAIT or (not reason and error.code() in _AGAIN)):
                    raise _refused(error, reason) from error
                line = " ".join((error.details() or error.code().name).split())
            if reason:
                self._heard = time.monotonic()
            elif (gone := time.monotonic() - self._heard) > self._give_up:
                raise RunError(
                    f"the coordinator has not answered for {gone:.0f} s ({line}): the state is kept, and the same "
                    "command goes on from there; --give-up SECONDS says how long to wait"
                )
            if line != told:
                self._say(f"waiting for the coordinator: {line}")
                told = line
            time.sleep(pause * random.uniform(0.5, 1.0))  # so that a fleet does not come back all at once
            pause = min(2 * pause, LAST_PAUSE)


def _task(message: pb.Task, after: int) -> Task:
    try:
        teacher = wire.decode(message.teacher) if message.HasField("teacher") else None
        task = Task(wire.decode_plan(message.plan), teacher)
    except ValueError as error:
        raise RunError(f"cannot read what the coordinator sent: {error}") from error
    if task.plan.round <= after:
        raise RunError(f"the coordinator sent round {task.plan.round} after round {after}")
    return task


def _reason(error: grpc.RpcError) -> str:
    """The coordinator's word for a refusal; "" where it was not the coordinator who answered."""
    metadata: Iterable[Any] = error.trailing_metadata() or ()
    return next((str(value) for key, value in metadata if key == REASON), "")


def _refused(error: grpc.RpcError, reason: str) -> Exception:
    line = " ".join((error.details() or "").split())
    kind = UserError if reason in ("terms", "protocol", "client") else RunError
    return kind(f"the coordinator refused: {line} ({error.code().name})")


def _elsewhere(different: list[str]) -> str:
    return (
        f"the bundle is not of this federation ({', '.join(different)} differ): "
        "leave --bundle out to fetch it from the coordinator"
    )
