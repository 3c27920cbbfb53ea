"""Facts about a device for the person who watches the fleet, sent when it joins. They hold nothing of its data."""

from __future__ import annotations

import re
import shutil
import time
from pathlib import Path

from edgefd_proto import edgefd_pb2 as pb

from edgefd.core.version import __version__

MIB = 2**20
_MEMORY = Path("/proc/meminfo")


def device_facts(folder: Path) -> pb.DeviceFacts:
    """Return version, free memory and disk in MiB, and clock of this machine; what it cannot tell is left out.

    `folder` is the folder of the state, on whose disk the device writes.
    """
    facts = pb.DeviceFacts(version=__version__, clock=time.time())
    if _MEMORY.exists() and (available := re.search(r"MemAvailable: +(\d+) kB", _MEMORY.read_text())):
        facts.free_memory_mib = int(available[1]) * 1024 // MIB
    existing = next(p for p in [folder.absolute(), *folder.absolute().parents] if p.exists())
    facts.free_disk_mib = shutil.disk_usage(existing).free // MIB
    return facts
