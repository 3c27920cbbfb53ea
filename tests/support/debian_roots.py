"""Makes what the arm64 and Docker tests run in, once, in a cache outside the repository.

python -m tests.support.debian_roots          # prints the cache folder

Debian's arm64 Python and the real aarch64 wheels of the client's dependencies, to be run by qemu-user without a chroot;
and a minimal amd64 Debian, in which the steps of docker/client.Dockerfile run. Needs root on a Debian system.
"""

from __future__ import annotations

import hashlib
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]
SUITE, PYTHON = "bookworm", "3.11"
TOOLS = {
    "qemu-aarch64-static": "qemu-user-static",
    "debootstrap": "debootstrap",
    "ip": "iproute2",
    "systemd-analyze": "systemd",
}
PLATFORMS = [f"manylinux{glibc}_aarch64" for glibc in ("_2_28", "_2_27", "2014", "_2_17")]
EMULATED = "cortex-a72"  # a Raspberry Pi 4: no instruction newer than its may be used
CPUINFO = """processor\t: {core}
BogoMIPS\t: 108.00
Features\t: fp asimd evtstrm crc32 cpuid
CPU implementer\t: 0x41
CPU architecture: 8
CPU variant\t: 0x0
CPU part\t: 0xd08
CPU revision\t: 3

"""


class SetupError(Exception):
    """What is missing, in one line."""


@dataclass(frozen=True)
class Roots:
    """Folders in the cache. Their names hold a hash of what they were made from, so a stale one is never used."""

    arm64: Path
    wheels: Path
    amd64: Path

    def missing(self) -> list[str]:
        """What `make arm64` has yet to make or install."""
        tools = [tool for tool in TOOLS if shutil.which(tool) is None]
        return tools + [str(folder) for folder in (self.arm64, self.wheels, self.amd64) if not folder.is_dir()]

    def command(self, *arguments: str) -> list[str]:
        """Python for arm64 under emulation."""
        python = self.arm64 / f"usr/bin/python{PYTHON}"
        return ["qemu-aarch64-static", "-cpu", EMULATED, "-L", str(self.arm64), str(python), *arguments]

    def environment(self) -> dict[str, str]:
        """For `command`: this checkout's client and the wheels, and nothing else."""
        sources = [REPOSITORY, REPOSITORY / "client", REPOSITORY / "proto"]
        path = ":".join(str(folder) for folder in [self.wheels, *sources])
        threads = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
        return {"PATH": os.environ["PATH"], "PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": "1", **threads}


def roots() -> Roots:
    """Where they are, or will be."""
    cache = Path(os.environ.get("EDGEFD_ARM64_ROOT", "~/.cache/edgefd/arm64")).expanduser()
    pins = (REPOSITORY / "constraints.txt").read_text()
    return Roots(
        cache / f"root-arm64-{_key(SUITE, *_packages('arm64'), CPUINFO, str(os.cpu_count()))}",
        cache / f"wheels-{_key(PYTHON, *PLATFORMS, *requirements(), pins)}",
        cache / f"root-amd64-{_key(SUITE, *_packages('amd64'))}",
    )


def requirements(*extras: str) -> list[str]:
    """What edgefd with those extras depends on; without any, the client's own set."""
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    found, todo = list(project["dependencies"]), list(extras or ["client"])
    while todo:
        for requirement in project["optional-dependencies"][todo.pop()]:
            if own := re.fullmatch(r"edgefd\[(.*)\]", requirement):
                todo += own[1].split(",")
            else:
                found.append(requirement)
    return found


def set_up() -> Roots:
    """Install the tools and make the folders that are not there yet.

    Raises:
        SetupError: if this machine cannot.
    """
    found = roots()
    if not found.missing():
        return found
    if os.geteuid() != 0 or shutil.which("apt-get") is None or platform.machine() != "x86_64":
        raise SetupError("the arm64 tests are set up by root on an x86-64 Debian system: run this there")
    install({tool: package for tool, package in TOOLS.items() if shutil.which(tool) is None})
    _make(found.arm64, _arm64_root)
    _make(found.wheels, _wheels)
    _make(found.amd64, _amd64_root)
    return found


def install(tools: Mapping[str, str]) -> None:
    """Install Debian packages, given by the tools that are wanted of them.

    Raises:
        SetupError: if this machine cannot.
    """
    if not tools:
        return
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        raise SetupError(f"{', '.join(tools)} must be installed by root on a Debian system: run this there")
    _run("apt-get", "-qq", "update")
    _run("apt-get", "-qq", "install", "--no-install-recommends", "--yes", *tools.values())


def _arm64_root(folder: Path) -> None:
    """Unpacked, not configured: qemu's -L needs files, and nothing of arm64 has to run to make it."""
    include = f"--include={','.join(_packages('arm64'))}"
    _run("debootstrap", "--arch=arm64", "--foreign", "--variant=minbase", include, SUITE, str(folder))
    archives = folder / "var/cache/apt/archives"
    for package in sorted(archives.glob("*.deb")):
        _run("dpkg", "--extract", str(package), str(folder))
    shutil.rmtree(archives)
    # ONNX Runtime reads /proc/cpuinfo, and that of the x86 host crashes it.
    (folder / "proc").mkdir(exist_ok=True)
    (folder / "proc/cpuinfo").write_text("".join(CPUINFO.format(core=core) for core in range(os.cpu_count() or 1)))


def _wheels(folder: Path) -> None:
    """For another machine than this one, so without installing anything that is not a wheel."""
    platforms = [argument for name in PLATFORMS for argument in ("--platform", name)]
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "install", "--quiet", "--no-compile"]
    target = ["--target", str(folder), "--python-version", PYTHON, "--implementation", "cp", "--only-binary=:all:"]
    _run(*pip, *target, *platforms, "--constraint", str(REPOSITORY / "constraints.txt"), *requirements())


def _amd64_root(folder: Path) -> None:
    _run("debootstrap", "--arch=amd64", "--variant=minbase", SUITE, str(folder))


def _packages(architecture: str) -> list[str]:
    return [f"python{PYTHON}", "libgomp1", "libstdc++6"] if architecture == "arm64" else []


def _make(folder: Path, fill: Callable[[Path], None]) -> None:
    """Whole or not at all: made beside its place, then renamed. What exists is kept."""
    if folder.is_dir():
        return
    print(f"making {folder}", file=sys.stderr, flush=True)
    folder.parent.mkdir(parents=True, exist_ok=True)
    part = Path(tempfile.mkdtemp(dir=folder.parent, prefix="part-"))
    part.chmod(0o755)  # an unprivileged user works in it
    try:
        fill(part)
        part.rename(folder)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _run(*command: str) -> None:
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=900)
    if done.returncode:
        last = done.stdout.strip().splitlines()[-1:] or ["no output"]
        raise SetupError(f"{' '.join(command[:2])} failed: {last[0]}")


def _key(*inputs: str) -> str:
    return hashlib.sha256("\n".join(inputs).encode()).hexdigest()[:12]


if __name__ == "__main__":
    try:
        print(set_up().arm64.parent)
    except (SetupError, OSError, subprocess.TimeoutExpired) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)
