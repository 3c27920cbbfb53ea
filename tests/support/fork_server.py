"""Processes that start fast, and die when a test says so.

A zygote has imported all that a program needs, and forks once for each run of it. A run is killed from outside after a
while, or kills itself before or after its n-th durable write: so every phase is hit, however fast the machine is.
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

replace, writes = os.replace, 0

def watched(source, target):
    global writes
    if 2 * writes == point:
        os.kill(os.getpid(), signal.SIGKILL)
    replace(source, target)
    if 2 * writes + 1 == point:
        os.kill(os.getpid(), signal.SIGKILL)
    writes += 1

for line in sys.stdin:
    arguments, point = json.loads(line)
    pid = os.fork()
    if pid == 0:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        os.replace = watched
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
    """With these source folders of the repository to import from; one thread for each process."""
    path = os.pathsep.join(str(ROOT / part) for part in ("", *parts))
    return {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}


class ForkServer:
    """Use `fork_server`."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process

    def start(self, arguments: Sequence[str], point: int | None = None) -> int:
        """The pid of a run; with `point` 2n or 2n + 1 it dies before or after its write number n."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps([list(arguments), point]) + "\n")
        self.process.stdin.flush()
        return int(self.process.stdout.readline())

    def ended(self) -> int:
        """The exit code of the run that was started, when it has ended."""
        assert self.process.stdout is not None
        return int(self.process.stdout.readline())

    def killed(self, arguments: Sequence[str], seconds: float) -> int:
        """The exit code of a run that is killed after so many seconds, if it has not ended by itself."""
        pid = self.start(arguments)
        time.sleep(seconds)
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        return self.ended()


@contextmanager
def fork_server(imports: str, where: dict[str, str], log: IO[bytes]) -> Iterator[ForkServer]:
    """A zygote while the context lasts. `imports` must define `main`, which reads sys.argv."""
    program = _PROGRAM.replace("{imports}", imports)
    pipe = subprocess.PIPE
    process = subprocess.Popen(
        [sys.executable, "-c", program], stdin=pipe, stdout=pipe, stderr=log, text=True, env=where
    )
    try:
        yield ForkServer(process)
    finally:
        process.kill()
        process.wait(10)


def fresh(command: Sequence[str], seconds: float, where: dict[str, str], log: IO[bytes]) -> int:
    """The exit code of a new interpreter (`python -m ...`) that is killed after so many seconds."""
    process = subprocess.Popen([sys.executable, "-m", *command], env=where, stdout=subprocess.DEVNULL, stderr=log)
    try:
        return process.wait(seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        return process.wait(10)
