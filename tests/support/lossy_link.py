"""Two places on a cable: network namespaces, joined by a relay of IP packets that may lose, delay or drop them all.

The kernel at each end does its own TCP over a tun device, so what is lost is really sent again. This is what `tc netem`
would do, without the kernel module for it, which many machines lack.
"""

from __future__ import annotations

import fcntl
import heapq
import os
import random
import select
import struct
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

_TUNSETIFF, _IFF_TUN, _IFF_NO_PI = 0x400454CA, 0x0001, 0x1000
_LARGEST = 2**16


@dataclass(eq=False)
class Cable:
    """What happens to packets now. Change it while they pass."""

    near: str
    far: str
    """names of the two namespaces"""
    loss: float = 0.0
    """share of the packets that is lost, in each direction"""
    delay: float = 0.0
    """seconds that a packet takes, in each direction"""
    cut: bool = False
    passed: int = 0
    lost: int = 0
    dropped: int = 0
    """while it was cut"""

    address = "10.77.0.1"
    """of the near end; the far end has the next one"""

    def at(self, place: str) -> list[str]:
        """Words before a command that is to run there."""
        return ["ip", "netns", "exec", place]


@contextmanager
def cable(name: str) -> Iterator[Cable]:
    """Both places and the cable between them; `name` is of up to ten letters and nobody else's."""
    between = Cable(f"{name}-near", f"{name}-far")
    ends: list[int] = []
    stop = threading.Event()
    relay = threading.Thread(target=_relay, args=(between, ends, stop), daemon=True)
    try:
        for place, address in ((between.near, "10.77.0.1"), (between.far, "10.77.0.2")):
            _ip("netns", "add", place)
            _ip("-n", place, "link", "set", "lo", "up")
            ends.append(_tun(f"{place[-4:]}{os.getpid()}"[:15], place, address))
        relay.start()
        yield between
    finally:
        stop.set()
        if relay.ident is not None:
            relay.join(10)
        for end in ends:
            os.close(end)
        for place in (between.near, between.far):
            subprocess.run(["ip", "netns", "delete", place], capture_output=True, timeout=10)


def _tun(device: str, place: str, address: str) -> int:
    """The relay's end of a tun device whose other end is the network interface of `place`."""
    end = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(end, _TUNSETIFF, struct.pack("16sH22x", device.encode(), _IFF_TUN | _IFF_NO_PI))
    _ip("link", "set", device, "netns", place)
    _ip("-n", place, "addr", "add", f"{address}/30", "dev", device)
    _ip("-n", place, "link", "set", device, "up")
    return end


def _relay(between: Cable, ends: list[int], stop: threading.Event) -> None:
    rng, count = random.Random(0), 0
    waiting: list[tuple[float, int, int, bytes]] = []  # when, which, to which end, what
    while not stop.is_set():
        left = waiting[0][0] - time.monotonic() if waiting else 0.1
        for end in select.select(ends, [], [], min(max(left, 0.0), 0.1))[0]:
            packet = os.read(end, _LARGEST)
            if between.cut:
                between.dropped += 1
            elif rng.random() < between.loss:
                between.lost += 1
            else:
                count += 1
                other = ends[1] if end == ends[0] else ends[0]
                heapq.heappush(waiting, (time.monotonic() + between.delay, count, other, packet))
        while waiting and waiting[0][0] <= time.monotonic():
            _, _, end, packet = heapq.heappop(waiting)
            if between.cut:
                between.dropped += 1
            else:
                os.write(end, packet)
                between.passed += 1


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, timeout=10)
