"""Fixtures of tests in more than one folder."""

import ast
import os
import shutil
import signal
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.browser import Browser, browser, missing
from tests.support.debian_roots import Roots, roots

SET_UP = {"debian", "chromium", "networks"}  # fixtures that need more than .venv


@pytest.hookimpl(tryfirst=True)  # before pytest selects by markers
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests that use such a fixture as `system`."""
    for item in items:
        if SET_UP & set(getattr(item, "fixturenames", ())):
            item.add_marker(pytest.mark.system)


@pytest.fixture(scope="session", autouse=True)
def ctrl_c_is_heard() -> None:
    """What a shell starts in the background is deaf to Ctrl-C, and so is what that starts; a user's process is not.

    Not by `preexec_fn`: Popen then forks with Python between fork and exec, and where gRPC runs in this process, one in
    70 of the new ones died of SIGABRT there ("Bad file descriptor"). A handler is not inherited, so this does it.
    """
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session", autouse=True)
def one_header_at_a_time() -> Iterator[None]:
    """Agents in threads read arrays at the same time, as devices, which are processes, do not.

    numpy parses an array's header with `ast`, whose depth counter CPython 3.11 shares between threads: now and then
    `SystemError: AST constructor recursion depth mismatch`.
    """
    parse, lock = ast.literal_eval, threading.Lock()

    def parse_alone(source: Any) -> Any:
        with lock:
            return parse(source)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ast, "literal_eval", parse_alone)
        yield


@pytest.fixture(scope="session")
def debian() -> Roots:
    """What `make arm64` sets up; a machine that has not is skipped, but not in CI."""
    found = roots()
    if parts := found.missing():
        _cannot(f"not set up (make arm64, as root on Debian): {', '.join(parts)}")
    return found


@pytest.fixture
def chromium(tmp_path: Path) -> Iterator[Browser]:
    """What `make browser` installs; a machine that has not is skipped, but not in CI."""
    if tools := missing():
        _cannot(f"not installed (make browser, as root on Debian): {', '.join(tools)}")
    with browser(tmp_path / "profile") as opened:
        yield opened


@pytest.fixture(scope="session")
def networks() -> None:
    """Networks of one's own: root, ip(8), namespaces and tun devices; a machine without is skipped, but not in CI."""
    if reason := _no_networks():
        _cannot(reason)


def _cannot(reason: str) -> None:
    if os.environ.get("CI"):
        pytest.fail(reason)
    pytest.skip(reason)


def _no_networks() -> str:
    if os.geteuid() != 0 or shutil.which("ip") is None or not Path("/dev/net/tun").exists():
        return "needs root on Linux, ip(8) (make arm64 installs it) and /dev/net/tun"
    name = f"edgefd-{os.getpid()}"
    done = subprocess.run(["ip", "netns", "add", name], capture_output=True, text=True, timeout=10)
    if done.returncode:
        return f"cannot make a network namespace: {done.stderr.strip()}"
    subprocess.run(["ip", "netns", "delete", name], check=True, timeout=10)
    return ""
