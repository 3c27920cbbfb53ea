"""A headless Chromium for tests, controlled through the HTTP interface of chromedriver (WebDriver), and its set-up.

Run as root on Debian to install the missing tools: python -m tests.support.browser
"""

from __future__ import annotations

import base64
import json
import re
import shutil
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.support.debian_roots import SetupError, install

TOOLS = {"chromium": "chromium", "chromedriver": "chromium-driver"}
FLAGS = [
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
]
SECONDS = 60


def missing() -> list[str]:
    """Return the tools that are not installed on this machine."""
    return [tool for tool in TOOLS if shutil.which(tool) is None]


class Browser:
    """One browser window."""

    def __init__(self, session: str) -> None:
        self._session = session

    def open(self, url: str) -> None:
        _call("POST", f"{self._session}/url", {"url": url})

    def run(self, script: str, *arguments: object) -> Any:
        """Run a script in the page, and return its result."""
        return _call("POST", f"{self._session}/execute/sync", {"script": script, "args": list(arguments)})

    def text(self, selector: str) -> str:
        text: str = self.run("return document.querySelector(arguments[0]).innerText", selector)
        return text

    def complaints(self) -> list[str]:
        """Return the warnings and errors that the console received since the last call."""
        entries = _call("POST", f"{self._session}/se/log", {"type": "browser"})
        return [entry["message"] for entry in entries if entry["level"] in ("WARNING", "SEVERE")]

    def picture(self, path: Path) -> None:
        """Save a screenshot of the whole page, as wide as the window."""
        result = _call(
            "POST", f"{self._session}/goog/cdp/execute", _cdp("captureScreenshot", captureBeyondViewport=True)
        )
        path.write_bytes(base64.b64decode(result["data"]))

    def look(self, width: int, dark: bool = False) -> None:
        """Set the width of the window and the preferred colour scheme."""
        size = {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": width < 500}
        command = {"cmd": "Emulation.setDeviceMetricsOverride", "params": size}
        _call("POST", f"{self._session}/goog/cdp/execute", command)
        scheme = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
        command = {"cmd": "Emulation.setEmulatedMedia", "params": {"media": "screen", "features": scheme}}
        _call("POST", f"{self._session}/goog/cdp/execute", command)

    def print(self) -> None:
        """Show the page as it would be printed, until the next call of `look`."""
        command = {"cmd": "Emulation.setEmulatedMedia", "params": {"media": "print"}}
        _call("POST", f"{self._session}/goog/cdp/execute", command)


@contextmanager
def browser(profile: Path) -> Iterator[Browser]:
    """Start a browser with a new profile. The browser and its driver are ended with the context."""
    driver = subprocess.Popen(["chromedriver", "--port=0"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        assert driver.stdout is not None
        port = next(match[1] for line in driver.stdout if (match := re.search(r"on port (\d+)\.", line)))
        options = {"args": [*FLAGS, f"--user-data-dir={profile}"]}
        capabilities = {"goog:chromeOptions": options, "goog:loggingPrefs": {"browser": "ALL"}}
        root = f"http://127.0.0.1:{port}/session"
        created = _call("POST", root, {"capabilities": {"alwaysMatch": capabilities}})
        session = f"{root}/{created['sessionId']}"
        try:
            yield Browser(session)
        finally:
            _call("DELETE", session)
    finally:
        driver.terminate()
        driver.wait(SECONDS)


def _cdp(name: str, **params: object) -> dict[str, object]:
    return {"cmd": f"Page.{name}", "params": params}


def _call(method: str, url: str, body: dict[str, Any] | None = None) -> Any:
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"Content-Type": "application/json"}, method=method)
    try:
        with urllib.request.urlopen(request, timeout=SECONDS) as reply:
            return json.load(reply)["value"]
    except urllib.error.HTTPError as error:
        raise RuntimeError(f"{url}: {json.load(error)['value']['message']}") from error


if __name__ == "__main__":
    try:
        install({tool: TOOLS[tool] for tool in missing()})
    except (SetupError, OSError, subprocess.TimeoutExpired) as failure:
        print(f"error: {failure}", file=sys.stderr)
        sys.exit(1)
