"""Properties of the machine that a process runs on."""

import os


def cores() -> int:
    """Return the number of cores that this process may use, or all cores if the system cannot tell (macOS)."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
