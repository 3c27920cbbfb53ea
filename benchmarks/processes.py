"""Processes of a benchmark: starting and ending them, and reading what they used."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any


def start(started: ExitStack, command: Sequence[str], log: Path, **options: Any) -> subprocess.Popen[Any]:
    """Start a process in a new session, which is ended with the stack. It prints to `log`, unless redirected."""
    file = started.enter_context(log.open("wb"))
    process = subprocess.Popen(command, **({"stdout": file, "stderr": file} | options), start_new_session=True)
    started.callback(_end, process)
    return process


def _end(process: subprocess.Popen[Any]) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def memory(pid: int | str = "self", field: str = "VmHWM") -> float:
    """Return the memory of a process in MB: the peak, or another field of /proc/PID/status."""
    match = re.search(rf"{field}:\s+(\d+)", Path(f"/proc/{pid}/status").read_text())
    return int(match[1]) / 1024 if match else 0.0
