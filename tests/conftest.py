"""Fixtures that tests in several folders use."""

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
def restore_sigint() -> None:
    """Restore the default handler of SIGINT (Ctrl-C), so that the processes that tests start react to it.

    A process that a shell starts in the background ignores SIGINT, and so do the processes that it starts; a process of
    a user does not. A handler is not inherited, but an ignored signal is, so setting a handler here is enough.

    `preexec_fn` is not an alternative: Popen would then run Python between fork and exec. With gRPC in this process,
    one in 70 of the new processes died of SIGABRT there ("Bad file descriptor").
    """
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session", autouse=True)
def serialise_literal_eval() -> Iterator[None]:
    """Let only one thread at a time parse the header of a numpy array.

    Tests run agents in threads, which read arrays at the same time. Real devices are processes and do not.
    numpy parses the header of an array with `ast`, and CPython 3.11 shares the depth counter of `ast` between threads.
    This sometimes causes `SystemError: AST constructor recursion depth mismatch`.
    """
    literal_eval, lock = ast.literal_eval, threading.Lock()

    def locked_literal_eval(source: Any) -> Any:
        with lock:
            return literal_eval(source)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ast, "literal_eval", locked_literal_eval)
        yield


@pytest.fixture(scope="session")
def debian() -> Roots:
    """Return the Debian roots that `make arm64` creates. Without them, skip the test, or fail it in CI."""
    debian_roots = roots()
    if parts := debian_roots.missing():
        _skip_or_fail(f"not set up (make arm64, as root on Debian): {', '.join(parts)}")
    return debian_roots


@pytest.fixture
def chromium(tmp_path: Path) -> Iterator[Browser]:
    """Return the browser that `make browser` installs. Without it, skip the test, or fail it in CI."""
    if tools := missing():
        _skip_or_fail(f"not installed (make browser, as root on Debian): {', '.join(tools)}")
    with browser(tmp_path / "profile") as opened:
        yield opened


@pytest.fixture(scope="session")
def networks() -> None:
    """Require network namespaces: root, ip(8) and tun devices. Without them, skip the test, or fail it in CI."""
    if reason := _reason_without_networks():
        _skip_or_fail(reason)


def _skip_or_fail(reason: str) -> None:
    """Skip the test; in CI, fail it instead, because CI must run all tests."""
    if os.environ.get("CI"):
        pytest.fail(reason)
    pytest.skip(reason)


def _reason_without_networks() -> str:
    """Return why this machine cannot create network namespaces; "" if it can."""
    if os.geteuid() != 0 or shutil.which("ip") is None or not Path("/dev/net/tun").exists():
        return "needs root on Linux, ip(8) (make arm64 installs it) and /dev/net/tun"
    name = f"edgefd-{os.getpid()}"
    done = subprocess.run(["ip", "netns", "add", name], capture_output=True, text=True, timeout=10)
    if done.returncode:
        return f"cannot create a network namespace: {done.stderr.strip()}"
    subprocess.run(["ip", "netns", "delete", name], check=True, timeout=10)
    return ""
