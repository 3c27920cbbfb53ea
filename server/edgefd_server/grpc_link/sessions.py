"""`DeviceSessions`: the coordinator's answers to the calls of devices, without the network (`device_service` has it).

No request is trusted: its size is checked before it is parsed, and the caller is identified before anything is done.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from edgefd_proto import edgefd_pb2 as pb

from edgefd.wire.device_link import read_identity, terms_message
from edgefd_server.coordinator.round_coordinator import Refused, RoundCoordinator
from edgefd_server.coordinator.round_inbox import OpenRound
from edgefd_server.coordinator.served_run import BundleFiles
from edgefd_server.grpc_link.rate_limit import DEFAULT_RATE, Limiter, Rate
from edgefd_server.grpc_link.refusals import Code, Refusal
from edgefd_server.grpc_link.requests import FRAME, check_version, identify_client, parse_request


@dataclass(frozen=True)
class _Session:
    client: int
    agreed: bool
    """whether the device holds a bundle of this federation"""


class DeviceSessions:
    """The sessions of a run's devices, in front of its `RoundCoordinator`. Used from one thread.

    The argument `certified` of its functions is the client of the calling device's certificate; None without
    certificates.

    Args:
        coordinator: of the run.
        bundles: bundle folders that devices may download: client i gets bundle i modulo their number.
        largest: bytes that no honest report exceeds while no round is open.
        rate: limit on the calls of each client.
        clock: returns the time in seconds.
    """

    def __init__(
        self,
        coordinator: RoundCoordinator,
        bundles: Sequence[BundleFiles],
        largest: int,
        rate: Rate = DEFAULT_RATE,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.coordinator, self.bundles, self.largest = coordinator, bundles, largest
        self._limiter = Limiter(rate, clock)
        self._task: tuple[tuple[OpenRound, bytes | None, bytes], bytes] | None = None
        """the newest task and its serialised reply, which all devices get if all rows are sent to each of them"""
        self._boot = secrets.token_bytes(8)
        self._sessions: dict[bytes, _Session] = {}
        self._token: dict[int, bytes] = {}

    @property
    def seen(self) -> dict[int, float]:
        """Time of each client's last call, by the clock."""
        return self._limiter.seen

    def joined(self) -> set[int]:
        """Return the clients that hold a session."""
        return set(self._token)

    def join(self, certified: int | None, request: bytes) -> pb.JoinReply:
        """Answer `DeviceLink.Join`: check version and terms, and open a session, which ends the client's older one."""
        self._limiter.pay(certified)
        message = parse_request(pb.JoinRequest(), request, FRAME)
        client = identify_client(certified, message, self.coordinator.info.n_clients)
        if certified is None:
            self._limiter.pay(client)
        check_version(message.protocol)
        agreed = message.HasField("terms")
        if agreed:
            self._check_terms(message.terms)
        token = self._boot + secrets.token_bytes(16)
        self._sessions.pop(self._token.get(client, b""), None)
        self._sessions[token], self._token[client] = _Session(client, agreed), token
        self.coordinator.connected(client)
        return pb.JoinReply(
            run=self.coordinator.info.run,
            client=client,
            n_clients=self.coordinator.info.n_clients,
            terms=terms_message(self.coordinator.info.terms),
            manifest_sha256=self._bundle(client).digest,
            session=token,
        )

    def file(self, certified: int | None, request: bytes) -> tuple[Path, int]:
        """Answer `DeviceLink.GetBundle`: the path of the requested file, and the offset of the first byte to send."""
        message = parse_request(pb.BundleRequest(), request, FRAME)
        bundle = self._bundle(self._session(certified, message.session).client)
        size = bundle.sizes.get(message.file)  # the requested name is compared with names; it is never used as a path
        if size is None:
            raise Refusal(Code.NOT_FOUND, "file", f"the bundle has no file {message.file!r}")
        if message.offset > size:
            raise Refusal(Code.OUT_OF_RANGE, "file", f"{message.file} has {size} bytes, not {message.offset}")
        return bundle.folder / message.file, message.offset

    def task_request(self, certified: int | None, request: bytes) -> tuple[int, int, bytes]:
        """Parse a call of `DeviceLink.NextTask`.

        Return the client, the round after which it asks for a task, and the digest of the teacher that it holds.

        A client that has received the end of the run acknowledges it in this request.
        """
        message = parse_request(pb.TaskRequest(), request, FRAME)
        client = self._agreed(certified, message.session)
        if message.told and self.coordinator.ended is not None:
            self.coordinator.end_acknowledged(client)
        return client, message.after, message.held

    def next_task(self, client: int, after: int, held: bytes = b"") -> bytes | None:
        """Return the client's task after that round, or the run's end, as a TaskReply; None if there is none yet."""
        if (ended := self.coordinator.ended) is not None:
            return pb.TaskReply(end=pb.End(reason=ended)).SerializeToString()
        opened = self.coordinator.next_task(client, after)
        if opened is None:
            return None
        task = opened, opened.teacher_for(client, held), opened.held_digest(client)
        if self._task is None or self._task[0] != task:
            message = pb.Task(plan=opened.encoded_plan, teacher=task[1], held=task[2])
            self._task = task, pb.TaskReply(task=message).SerializeToString()
        return self._task[1]

    def submit(self, certified: int | None, request: bytes) -> bool:
        """Answer `DeviceLink.SubmitReport`: return whether the report had been accepted before."""
        try:
            message = parse_request(pb.SubmitRequest(), request, FRAME + self.limit)
        except Refusal as refusal:
            if certified is not None:
                self.coordinator.refuse(certified, refusal)
            raise
        client = self._agreed(certified, message.session)
        info = self.coordinator.info
        if message.run != info.run:
            raise Refusal(Code.FAILED_PRECONDITION, "run", f"this is run {info.run}, not {message.run!r}")
        return self.coordinator.submit(client, message.round, message.report)

    def contribute(self, certified: int | None) -> NoReturn:
        """Refuse `DeviceLink.ContributeProxy`: a run takes no samples."""
        self._limiter.pay(certified)
        raise Refused("closed", "this coordinator no longer collects samples: the run has its proxy set")

    @property
    def limit(self) -> int:
        """Bytes that no honest report exceeds at present."""
        opened = self.coordinator.round
        return self.largest if opened is None else self.coordinator.expected(opened.plan).largest

    def _check_terms(self, message: pb.Terms) -> None:
        try:
            different = self.coordinator.info.terms.differences(read_identity(message))
        except ValueError as error:
            raise Refusal(Code.INVALID_ARGUMENT, "malformed", str(error)) from error
        if different:
            raise Refusal(
                Code.FAILED_PRECONDITION,
                "terms",
                f"the bundle is not of this federation ({', '.join(different)} differ): "
                "download it from this coordinator, or export it from the coordinator's config",
            )

    def _agreed(self, certified: int | None, token: bytes) -> int:
        session = self._session(certified, token)
        if not session.agreed:
            raise Refusal(Code.FAILED_PRECONDITION, "session", "join with the terms of the bundle first")
        return session.client

    def _session(self, certified: int | None, token: bytes) -> _Session:
        session = self._sessions.get(token)
        self._limiter.pay(certified)
        if session is None and token.startswith(self._boot):
            line = "a newer connection has joined as this client: two devices use one certificate or number"
            raise Refusal(Code.ABORTED, "superseded", line)
        if session is None:
            raise Refusal(Code.FAILED_PRECONDITION, "session", "the coordinator does not know this session: join again")
        if certified is not None and session.client != certified:
            line = f"the session is that of client {session.client}, the certificate that of client {certified}"
            raise Refusal(Code.PERMISSION_DENIED, "client", line)
        if certified is None:
            self._limiter.pay(session.client)
        return session

    def _bundle(self, client: int) -> BundleFiles:
        return self.bundles[client % len(self.bundles)]
