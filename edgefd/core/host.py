"""How many cores there are to use."""

import os


def cores() -> int:
    """Cores that this process may use; where the system cannot tell (macOS), all that the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
