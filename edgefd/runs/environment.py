"""Record the software and hardware of a run."""

from __future__ import annotations

import platform
import shlex
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from edgefd.core.host import cores
from edgefd.data.datasets import Dataset
from edgefd.federation.method import Method

_PACKAGES = ("edgefd", "numpy", "torch", "scikit-learn", "protobuf", "onnxruntime", "flwr")


@dataclass(frozen=True)
class Environment:
    """Software and hardware of a run: the content of env.json."""

    command: str
    """command that started the run, or resumed it last"""
    started: str
    """time of that start: ISO 8601, UTC"""
    commit: str | None
    """commit of the checkout that holds the code, with -dirty if files differ; None without a checkout"""
    python: str
    """version of Python"""
    packages: dict[str, str]
    """installed versions of edgefd and of the packages on which results depend"""
    system: str
    """operating system and architecture"""
    processor: str
    """model of the processor"""
    cores: int
    """number of processor cores that the process may use"""
    device: str | None = None
    """processor that trained the models of a simulation, such as cpu or cuda:0 (NVIDIA H200)"""
    objects: dict[str, str] | None = None
    """objects of a Python session that the config names, each with a description; None without objects"""


def command() -> str:
    """Return the command of this process: `edgefd ...`, or that of the Python session that uses edgefd."""
    program = Path(sys.argv[0])
    if "edgefd" in (program.stem, program.parent.name):  # the installed command, or python -m edgefd
        return shlex.join(["edgefd", *sys.argv[1:]])
    return shlex.join([Path(sys.orig_argv[0]).name, *sys.orig_argv[1:]])


def environment(objects: Mapping[str, object] | None = None, device: str | None = None) -> Environment:
    """Return the record of this process: command, start time, versions, machine, and descriptions of `objects`.

    `device` is the processor that trains the models of a simulation; None = not known.
    """
    return Environment(
        command=command(),
        started=datetime.now(UTC).isoformat(timespec="seconds"),
        commit=_commit(),
        python=platform.python_version(),
        packages={name: installed for name in _PACKAGES if (installed := _version(name))},
        system=f"{platform.system()} {platform.machine()}",
        processor=_processor(),
        cores=cores(),
        device=device,
        objects={name: describe_object(value) for name, value in objects.items()} if objects else None,
    )


def describe_object(value: object) -> str:
    """Return one line about an object of a session: its kind, and where it was defined or what it holds."""
    if isinstance(value, Method):
        return f"Method: {value.summary}"
    if isinstance(value, Dataset):
        return f"Dataset from {value.source}: {len(value.x_train)} + {len(value.x_test)} samples, sha256 {value.sha256}"
    code = getattr(value, "__code__", None)
    place = f", line {code.co_firstlineno} of {code.co_filename}" if code else ""
    return f"{type(value).__name__} {getattr(value, '__qualname__', '')} of {value.__module__}{place}"


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _commit() -> str | None:
    """Return the commit of the checkout that holds this code; None without a checkout."""
    folder = Path(__file__).resolve().parent
    command = ["git", "-C", str(folder), "describe", "--always", "--dirty", "--exclude=*"]
    try:
        result = subprocess.run(command, capture_output=True, text=True, timeout=5)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return result.stdout.strip() or None


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor()
