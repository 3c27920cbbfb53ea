"""Helpers for tests that build an image without a container engine: context, wheels and base image."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

from tests.support.debian_roots import REPOSITORY, requirements

OFFLINE = {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": "/wheels"}


def context_of(folder: Path) -> Path:
    """Copy all files that git tracks or would track into a folder, and return the folder."""
    tracked = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=True,
    )
    for name in filter(None, tracked.stdout.split("\0")):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(REPOSITORY / name, folder / name)
    return folder


def download(wheels: Path, extras: list[str]) -> None:
    """Download the wheels that the image's pip will need, with this machine's pip, which has access to packages."""
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "download", "--quiet", "--dest", str(wheels)]
    target = ["--python-version", "3.11", "--only-binary=:all:", "--constraint", str(REPOSITORY / "constraints.txt")]
    subprocess.run([*pip, *target, *requirements(*extras)], check=True, timeout=600)
    subprocess.run([*pip, "setuptools>=77", "wheel"], check=True, timeout=300)


def with_wheels(debian: Path, wheels: Path, work: Path) -> Path:
    """Return a copy of a Debian root that contains the wheels in /wheels."""
    root = work / "debian"
    shutil.copytree(debian, root, symlinks=True, ignore=shutil.ignore_patterns("dev", "proc"))
    shutil.copytree(wheels, root / "wheels", copy_function=os.link)
    return root
