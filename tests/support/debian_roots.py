"""Create the root file systems of the arm64 and Docker tests once, in a cache outside the repository.

Run as root on Debian to create them and print the cache folder: python -m tests.support.debian_roots

They are: Debian's arm64 Python with the real aarch64 wheels of the client's dependencies, which qemu-user runs without
a chroot; and a minimal amd64 Debian, in which the steps of docker/client.Dockerfile run.
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
EMULATED = "cortex-a72"  # the processor of a Raspberry Pi 4: newer instructions must not be used
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
    """The machine cannot be set up; the message is one line."""


@dataclass(frozen=True)
class Roots:
    """Folders in the cache. Their names contain a hash of their inputs, so an outdated folder is never used."""

    arm64: Path
    wheels: Path
    amd64: Path

    def missing(self) -> list[str]:
        """Return the tools and folders that `make arm64` still has to install or create."""
        tools = [tool for tool in TOOLS if shutil.which(tool) is None]
        return tools + [str(folder) for folder in (self.arm64, self.wheels, self.amd64) if not folder.is_dir()]

    def command(self, *arguments: str) -> list[str]:
        """Return a command that runs Python for arm64 under emulation."""
        python = self.arm64 / f"usr/bin/python{PYTHON}"
        return ["qemu-aarch64-static", "-cpu", EMULATED, "-L", str(self.arm64), str(python), *arguments]

    def environment(self) -> dict[str, str]:
        """Return the environment for `command`: it has this checkout's client and the wheels, and nothing else."""
        sources = [REPOSITORY, REPOSITORY / "client", REPOSITORY / "proto"]
        path = ":".join(str(folder) for folder in [self.wheels, *sources])
        threads = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
        return {"PATH": os.environ["PATH"], "PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": "1", **threads}


def roots() -> Roots:
    """Return the paths of the folders, which may not exist yet."""
    cache = Path(os.environ.get("EDGEFD_ARM64_ROOT", "~/.cache/edgefd/arm64")).expanduser()
    pins = (REPOSITORY / "constraints.txt").read_text()
    return Roots(
        cache / f"root-arm64-{_key(SUITE, *_packages('arm64'), CPUINFO, str(os.cpu_count()))}",
        cache / f"wheels-{_key(PYTHON, *PLATFORMS, *requirements(), pins)}",
        cache / f"root-amd64-{_key(SUITE, *_packages('amd64'))}",
    )


def requirements(*extras: str) -> list[str]:
    """Return the dependencies of edgefd with these extras; without arguments, those of the client."""
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    result, todo = list(project["dependencies"]), list(extras or ["client"])
    while todo:
        for requirement in project["optional-dependencies"][todo.pop()]:
            if nested := re.fullmatch(r"edgefd\[(.*)\]", requirement):
                todo += nested[1].split(",")
            else:
                result.append(requirement)
    return result


def set_up() -> Roots:
    """Install the tools and create the folders that are missing.

    Raises:
        SetupError: if this machine cannot be set up.
    """
    folders = roots()
    if not folders.missing():
        return folders
    if os.geteuid() != 0 or shutil.which("apt-get") is None or platform.machine() != "x86_64":
        raise SetupError("the arm64 tests need root on an x86-64 Debian system: run this command there")
    install({tool: package for tool, package in TOOLS.items() if shutil.which(tool) is None})
    _create(folders.arm64, _arm64_root)
    _create(folders.wheels, _wheels)
    _create(folders.amd64, _amd64_root)
    return folders


def install(tools: Mapping[str, str]) -> None:
    """Install the Debian packages of the given tools.

    Args:
        tools: package of each tool.

    Raises:
        SetupError: if this machine cannot install them.
    """
    if not tools:
        return
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        raise SetupError(f"{', '.join(tools)} must be installed as root on a Debian system: run this command there")
    _run("apt-get", "-qq", "update")
    _run("apt-get", "-qq", "install", "--no-install-recommends", "--yes", *tools.values())


def _arm64_root(folder: Path) -> None:
    """Unpack the packages without configuring them: qemu's -L needs only files, so no arm64 program has to run."""
    include = f"--include={','.join(_packages('arm64'))}"
    _run("debootstrap", "--arch=arm64", "--foreign", "--variant=minbase", include, SUITE, str(folder))
    archives = folder / "var/cache/apt/archives"
    for package in sorted(archives.glob("*.deb")):
        _run("dpkg", "--extract", str(package), str(folder))
    shutil.rmtree(archives)
    # ONNX Runtime reads /proc/cpuinfo, and crashes with that of the x86 host.
    (folder / "proc").mkdir(exist_ok=True)
    (folder / "proc/cpuinfo").write_text("".join(CPUINFO.format(core=core) for core in range(os.cpu_count() or 1)))


def _wheels(folder: Path) -> None:
    """Install the wheels for aarch64. Only wheels are used: a source package would be built for this machine."""
    platforms = [argument for name in PLATFORMS for argument in ("--platform", name)]
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "install", "--quiet", "--no-compile"]
    target = ["--target", str(folder), "--python-version", PYTHON, "--implementation", "cp", "--only-binary=:all:"]
    _run(*pip, *target, *platforms, "--constraint", str(REPOSITORY / "constraints.txt"), *requirements())


def _amd64_root(folder: Path) -> None:
    _run("debootstrap", "--arch=amd64", "--variant=minbase", SUITE, str(folder))


def _packages(architecture: str) -> list[str]:
    return [f"python{PYTHON}", "libgomp1", "libstdc++6"] if architecture == "arm64" else []


def _create(folder: Path, fill: Callable[[Path], None]) -> None:
    """Create a folder completely or not at all: fill a temporary folder, then rename it. An existing folder is kept."""
    if folder.is_dir():
        return
    print(f"creating {folder}", file=sys.stderr, flush=True)
    folder.parent.mkdir(parents=True, exist_ok=True)
    part = Path(tempfile.mkdtemp(dir=folder.parent, prefix="part-"))
    part.chmod(0o755)  # an unprivileged user works in this folder
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
