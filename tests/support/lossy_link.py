"""A lossy link between two network namespaces: a relay of IP packets that can lose, delay or drop them.

The kernel at each end runs its own TCP over a tun device, so a lost packet is really sent again. `tc netem` would do
the same, but needs a kernel module that many machines do not have.
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
_MAX_PACKET = 2**16


@dataclass(eq=False)
class LossyLink:
    """Settings and counters of a link. The settings may be changed while packets pass."""

    near: str
    far: str
    """names of the two namespaces"""
    loss: float = 0.0
    """share of packets that are lost, in each direction"""
    delay: float = 0.0
    """seconds by which a packet is delayed, in each direction"""
    interrupted: bool = False
    """True = all packets are dropped"""
    passed: int = 0
    """packets that arrived"""
    lost: int = 0
    """packets that were lost according to `loss`"""
    dropped: int = 0
    """packets that were dropped during interruptions"""

    address = "10.77.0.1"
    """address of the near end; the far end has the next address"""

    def inside(self, namespace: str) -> list[str]:
        """Return the words that must precede a command to run it inside a namespace."""
        return ["ip", "netns", "exec", namespace]


@contextmanager
def lossy_link(name: str) -> Iterator[LossyLink]:
    """Create two namespaces and the link between them. `name` must be unique and have at most ten letters."""
    link = LossyLink(f"{name}-near", f"{name}-far")
    ends: list[int] = []
    stop = threading.Event()
    relay = threading.Thread(target=_relay, args=(link, ends, stop), daemon=True)
    try:
        for namespace, address in ((link.near, "10.77.0.1"), (link.far, "10.77.0.2")):
            _ip("netns", "add", namespace)
            _ip("-n", namespace, "link", "set", "lo", "up")
            ends.append(_tun(f"{namespace[-4:]}{os.getpid()}"[:15], namespace, address))
        relay.start()
        yield link
    finally:
        stop.set()
        if relay.ident is not None:
            relay.join(10)
        for end in ends:
            os.close(end)
        for namespace in (link.near, link.far):
            subprocess.run(["ip", "netns", "delete", namespace], capture_output=True, timeout=10)


def _tun(device: str, namespace: str, address: str) -> int:
    """Create a tun device whose network interface is in the namespace, and return the relay's end of it."""
    end = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(end, _TUNSETIFF, struct.pack("16sH22x", device.encode(), _IFF_TUN | _IFF_NO_PI))
    _ip("link", "set", device, "netns", namespace)
    _ip("-n", namespace, "addr", "add", f"{address}/30", "dev", device)
    _ip("-n", namespace, "link", "set", device, "up")
    return end


def _relay(link: LossyLink, ends: list[int], stop: threading.Event) -> None:
    rng, count = random.Random(0), 0
    waiting: list[tuple[float, int, int, bytes]] = []  # time of delivery, number, receiving end, packet
    while not stop.is_set():
        remaining = waiting[0][0] - time.monotonic() if waiting else 0.1
        for end in select.select(ends, [], [], min(max(remaining, 0.0), 0.1))[0]:
            packet = os.read(end, _MAX_PACKET)
            if link.interrupted:
                link.dropped += 1
            elif rng.random() < link.loss:
                link.lost += 1
            else:
                count += 1
                receiver = ends[1] if end == ends[0] else ends[0]
                heapq.heappush(waiting, (time.monotonic() + link.delay, count, receiver, packet))
        while waiting and waiting[0][0] <= time.monotonic():
            _, _, end, packet = heapq.heappop(waiting)
            if link.interrupted:
                link.dropped += 1
            else:
                os.write(end, packet)
                link.passed += 1


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, timeout=10)
