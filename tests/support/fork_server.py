"""Processes that start fast and are killed at points that a test chooses.

A fork server has imported all modules that a program needs, and forks once for each run of it. A run is killed from
outside after some time, or kills itself before or after its n-th durable write, so that every phase is reached on any
machine.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO

ROOT = Path(__file__).parents[2]

_PROGRAM = """
import json, os, signal, sys
{imports}

rename, writes = os.rename, 0

def counted_rename(source, target, **folders):
    global writes
    if 2 * writes == point:
        os.kill(os.getpid(), signal.SIGKILL)
    rename(source, target, **folders)
    if 2 * writes + 1 == point:
        os.kill(os.getpid(), signal.SIGKILL)
    writes += 1

for line in sys.stdin:
    arguments, point = json.loads(line)
    pid = os.fork()
    if pid == 0:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        os.rename = counted_rename
        sys.argv = ["program", *arguments]
        try:
            main()
        except SystemExit as stop:
            os._exit(stop.code or 0)
        except BaseException as error:
            print(error, file=sys.stderr, flush=True)
            os._exit(99)
        os._exit(0)
    print(pid, flush=True)
    print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)
"""


def environment(*parts: str) -> dict[str, str]:
    """Return an environment that imports from these folders of the repository, with one thread for each process."""
    path = os.pathsep.join(str(ROOT / part) for part in ("", *parts))
    return {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}


class ForkServer:
    """A process that forks to run a program. Use `fork_server`."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process

    def start(self, arguments: Sequence[str], point: int | None = None) -> int:
        """Start a run and return its pid. With `point` 2n or 2n + 1 it dies before or after its write number n."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps([list(arguments), point]) + "\n")
        self.process.stdin.flush()
        return int(self.process.stdout.readline())

    def ended(self) -> int:
        """Wait until the started run has ended, and return its exit code."""
        assert self.process.stdout is not None
        return int(self.process.stdout.readline())

    def killed(self, arguments: Sequence[str], seconds: float) -> int:
        """Run, kill after so many seconds if the run has not ended by itself, and return the exit code."""
        pid = self.start(arguments)
        time.sleep(seconds)
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        return self.ended()


@contextmanager
def fork_server(imports: str, env: dict[str, str], log: IO[bytes]) -> Iterator[ForkServer]:
    """Keep a fork server while the context lasts. `imports` must define `main`, which reads sys.argv."""
    program = _PROGRAM.replace("{imports}", imports)
    pipe = subprocess.PIPE
    process = subprocess.Popen([sys.executable, "-c", program], stdin=pipe, stdout=pipe, stderr=log, text=True, env=env)
    try:
        yield ForkServer(process)
    finally:
        process.kill()
        process.wait(10)


def fresh(command: Sequence[str], seconds: float, env: dict[str, str], log: IO[bytes]) -> int:
    """Run a new interpreter (`python -m ...`), kill it after so many seconds, and return its exit code."""
    process = subprocess.Popen([sys.executable, "-m", *command], env=env, stdout=subprocess.DEVNULL, stderr=log)
    try:
        return process.wait(seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        return process.wait(10)
