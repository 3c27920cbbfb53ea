"""The open calls of a gRPC front end: how many there may be, in all and of one device, and how one is ended.

A call occupies memory and a slot until it is answered. A device that sends half messages, or never reads what it asked
for, must occupy little and must not keep the slots of others.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from edgefd_server.coordinator.round_coordinator import Refused
from edgefd_server.grpc_link.refusals import Code, Refusal


@dataclass(eq=False)
class OpenCall:
    """A call that is not answered yet. Use `OpenCalls.opened` to make one."""

    device: Hashable
    """who calls: the client of its certificate or, without certificates, the connection"""
    check: Callable[[], object]
    """raises the refusal if the device may no longer call"""
    task: asyncio.Task[object]
    ended: Refused | None = None
    """the reason why the call was ended before its answer; None = it was not"""

    def end(self, refused: Refused) -> None:
        """End the call with a refusal."""
        if self.ended is None:
            self.ended = refused
            self.task.cancel()


class Slots:
    """The calls that are in one phase: at most `in_all`, and at most `per_device` of one device.

    A newer call does not end an older one: gRPC keeps what was written for a device that does not read it.
    """

    def __init__(self, in_all: int, per_device: int) -> None:
        self._in_all, self._per_device = in_all, per_device
        self._of_device = Counter[Hashable]()

    @contextmanager
    def taken(self, call: OpenCall) -> Iterator[None]:
        """Keep a slot for the call while the context lasts.

        Raises:
            Refusal: if all slots are taken.
        """
        if self._of_device[call.device] >= self._per_device:
            line = f"this device has {self._per_device} such calls that are not finished: try again later"
            raise Refusal(Code.UNAVAILABLE, "busy", line)
        if self._of_device.total() >= self._in_all:
            line = f"devices have {self._in_all} such calls that are not finished: try again later"
            raise Refusal(Code.UNAVAILABLE, "busy", line)
        self._of_device[call.device] += 1
        try:
            yield
        finally:
            self._of_device[call.device] -= 1
            self._of_device += Counter()  # forgets devices without a call


class OpenCalls:
    """All open calls. Used from one event loop."""

    def __init__(self) -> None:
        self._calls: set[OpenCall] = set()

    @contextmanager
    def opened(self, device: Hashable, check: Callable[[], object]) -> Iterator[OpenCall]:
        """Record a call of the present task while the context lasts.

        Raises:
            Refused: if the call is ended.
        """
        task = asyncio.current_task()
        assert task is not None
        call = OpenCall(device, check, task)
        self._calls.add(call)
        try:
            yield call
        except asyncio.CancelledError:
            if call.ended is None:
                raise  # the device has given the call up
            task.uncancel()
            raise call.ended from None
        finally:
            self._calls.discard(call)

    def end_forbidden(self) -> None:
        """End the calls of devices whose certificate was revoked or replaced, or has expired, since they called."""
        for call in list(self._calls):
            try:
                call.check()
            except Refused as refused:
                if refused.reason == "certificate":  # not while the list of certificates cannot be read
                    call.end(refused)
