"""Facts that a device states about itself when it joins, for the event log and the status page."""

from __future__ import annotations

import math

from edgefd_proto import edgefd_pb2 as pb

from edgefd.core.text import shown

MAX_VERSION = 60
"""most characters of a version that are kept"""


def device_facts(message: pb.DeviceFacts, now: float) -> dict[str, str | int | float]:
    """Return what a device states about itself, by name; nothing depends on it, so nothing is refused.

    Args:
        message: of the device.
        now: time of the coordinator in seconds since 1970, with which the clock of the device is compared.
    """
    facts: dict[str, str | int | float] = {}
    if message.version:
        facts["version"] = shown(message.version, MAX_VERSION)
    for name in ("free_memory_mib", "free_disk_mib"):
        if message.HasField(name):
            facts[name] = int(getattr(message, name))
    if message.clock and math.isfinite(message.clock):
        facts["clock_offset"] = round(message.clock - now, 1)
    return facts
