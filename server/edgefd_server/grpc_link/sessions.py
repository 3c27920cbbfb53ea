"""`DeviceSessions`: what the coordinator answers to the calls of devices. No network here: see `device_link`.

It believes nothing: a request is measured before it is parsed, and who calls is found out before anything is done.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from edgefd_proto import edgefd_pb2 as pb

from edgefd.rounds.validation import largest_report
from edgefd.wire import messages as wire
from edgefd.wire.device_link import read_terms, terms_message
from edgefd_server.coordinator.round_coordinator import OpenRound, Refused, RoundCoordinator
from edgefd_server.grpc_link.bundle_files import BundleFiles
from edgefd_server.grpc_link.rate_limit import DEFAULT_RATE, Limiter, Rate
from edgefd_server.grpc_link.refusals import Code, Refusal, refusal_of
from edgefd_server.grpc_link.requests import FRAME, check_version, claimed, parsed


@dataclass(frozen=True)
class _Session:
    client: int
    agreed: bool
    """the device holds a bundle of this federation"""


class DeviceSessions:
    """The sessions of a run's devices, before its desk. Used from one thread.

    `who` is the client that a device's certificate stands for; None where there are no certificates.
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
        self._task: tuple[OpenRound, bytes] | None = None
        """of the open round, serialised once for all devices"""
        self._boot = secrets.token_bytes(8)
        self._sessions: dict[bytes, _Session] = {}
        self._token: dict[int, bytes] = {}

    @property
    def seen(self) -> dict[int, float]:
        """When each client last called."""
        return self._limiter.seen

    def joined(self) -> set[int]:
        """Clients that hold a session."""
        return set(self._token)

    def join(self, who: int | None, request: bytes) -> pb.JoinReply:
        """`DeviceLink.Join`: compare versions and terms; a new session, which ends the client's older one."""
        if who is not None:
            self._limiter.pay(who)
        asked = parsed(pb.JoinRequest(), request, FRAME)
        client = claimed(who, asked, self.coordinator.info.n_clients)
        if who is None:
            self._limiter.pay(client)
        check_version(asked.protocol)
        agreed = asked.HasField("terms")
        if agreed:
            self._compare(asked.terms)
        token = self._boot + secrets.token_bytes(16)
        self._sessions.pop(self._token.get(client, b""), None)
        self._sessions[token], self._token[client] = _Session(client, agreed), token
        self.coordinator.arrived(client)
        return pb.JoinReply(
            run=self.coordinator.info.run,
            client=client,
            n_clients=self.coordinator.info.n_clients,
            terms=terms_message(self.coordinator.info.terms),
            manifest_sha256=self._bundle(client).digest,
            session=token,
        )

    def file(self, who: int | None, request: bytes) -> tuple[Path, int]:
        """`DeviceLink.GetBundle`: the file asked for, and where to begin."""
        asked = parsed(pb.BundleRequest(), request, FRAME)
        bundle = self._bundle(self._session(who, asked.session).client)
        size = bundle.sizes.get(asked.file)  # the request is compared with names, it is never a path
        if size is None:
            raise Refusal(Code.NOT_FOUND, "file", f"the bundle has no file {asked.file!r}")
        if asked.offset > size:
            raise Refusal(Code.OUT_OF_RANGE, "file", f"{asked.file} has {size} bytes, not {asked.offset}")
        return bundle.folder / asked.file, asked.offset

    def asks(self, who: int | None, request: bytes) -> tuple[int, int]:
        """`DeviceLink.NextTask`: which client asks, and after which round. One that has had the end says so."""
        asked = parsed(pb.TaskRequest(), request, FRAME)
        client = self._agreed(who, asked.session)
        if asked.told and self.coordinator.ended is not None:
            self.coordinator.told(client)
        return client, asked.after

    def task(self, client: int, after: int) -> bytes | None:
        """What there is to do after that round, a serialised TaskReply; None: nothing yet."""
        if (ended := self.coordinator.ended) is not None:
            return pb.TaskReply(end=pb.End(reason=ended)).SerializeToString()
        opened = self.coordinator.task(client, after)
        if opened is None:
            return None
        if self._task is None or self._task[0] is not opened:
            task = pb.Task(plan=wire.encode_plan(opened.plan), teacher=opened.teacher)
            self._task = opened, pb.TaskReply(task=task).SerializeToString()
        return self._task[1]

    def submit(self, who: int | None, request: bytes) -> tuple[int, int, bool]:
        """`DeviceLink.SubmitReport`: hand in the report: whose it is, for which round, whether it was there already."""
        asked = parsed(pb.SubmitRequest(), request, FRAME + self.limit)
        client = self._agreed(who, asked.session)
        info = self.coordinator.info
        if asked.run != info.run:
            raise Refusal(Code.FAILED_PRECONDITION, "run", f"this is run {info.run}, not {asked.run!r}")
        try:
            return client, asked.round, self.coordinator.submit(client, asked.round, asked.report)
        except Refused as refused:
            raise refusal_of(refused) from refused

    def contribute(self, who: int | None) -> NoReturn:
        """`DeviceLink.ContributeProxy`: not in a run."""
        if who is not None:
            self._limiter.pay(who)
        raise refusal_of(Refused("closed", "no samples are collected here any more: the run has its proxy set"))

    @property
    def limit(self) -> int:
        """Bytes that no honest report exceeds now."""
        opened = self.coordinator.round
        return self.largest if opened is None else largest_report(opened.plan, self.coordinator.info.terms.n_classes)

    def _compare(self, message: pb.Terms) -> None:
        try:
            different = self.coordinator.info.terms.differences(read_terms(message))
        except ValueError as error:
            raise Refusal(Code.INVALID_ARGUMENT, "malformed", str(error)) from error
        if different:
            raise Refusal(
                Code.FAILED_PRECONDITION,
                "terms",
                f"the bundle is not of this federation ({', '.join(different)} differ): "
                "fetch it from this coordinator, or export it from the config that it runs",
            )

    def _agreed(self, who: int | None, token: bytes) -> int:
        session = self._session(who, token)
        if not session.agreed:
            raise Refusal(Code.FAILED_PRECONDITION, "session", "join with the terms of the bundle first")
        return session.client

    def _session(self, who: int | None, token: bytes) -> _Session:
        session = self._sessions.get(token)
        if who is not None:
            self._limiter.pay(who)
        if session is None and token.startswith(self._boot):
            line = "another connection has joined as this client since: two devices use one certificate or number"
            raise Refusal(Code.ABORTED, "superseded", line)
        if session is None:
            raise Refusal(Code.FAILED_PRECONDITION, "session", "the coordinator does not know this session: join again")
        if who is not None and session.client != who:
            line = f"the session is that of client {session.client}, the certificate that of client {who}"
            raise Refusal(Code.PERMISSION_DENIED, "client", line)
        if who is None:
            self._limiter.pay(session.client)
        return session

    def _bundle(self, client: int) -> BundleFiles:
        return self.bundles[client % len(self.bundles)]
