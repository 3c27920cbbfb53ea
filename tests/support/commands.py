"""Run the `edgefd` command as a user does, in a separate process."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


QUICKSTART = str(ROOT / "simulations" / "quickstart.yaml")


def edgefd(*arguments: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run `edgefd` with the arguments in `cwd`; `environment` adds variables."""
    return subprocess.run(
        command(*arguments), capture_output=True, text=True, timeout=280, cwd=cwd, env=env(environment)
    )


def command(*arguments: str) -> list[str]:
    """Return the command line of `edgefd` with the arguments."""
    return [sys.executable, "-c", "from edgefd.cli.main import main; main()", *arguments]


def env(extra: dict[str, str]) -> dict[str, str]:
    """Return the environment of a command: that of the tests without EDGEFD_DATA, with `extra` variables."""
    inherited = {k: v for k, v in os.environ.items() if k != "EDGEFD_DATA"}
    return inherited | {"PYTHONPATH": f"{ROOT}:{ROOT / 'proto'}", "COLUMNS": "100"} | extra


def audit(run: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run `edgefd audit` on a run folder."""
    return edgefd("audit", run.name, *arguments, cwd=run.parent)
