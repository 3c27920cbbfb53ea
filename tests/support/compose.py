"""Reads compose.yaml as Compose does, and runs its services without an engine: each in a root of `dockerfile.build`.

A service gets its mount and process namespace, its user, its volumes and a read-only root; all share one network.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from tests.support.dockerfile import Stage


def interpolated(text: str, environment: Mapping[str, str]) -> str:
    """`${NAME:-default}` and `$$` resolved; anything else with a dollar is refused."""

    def value(found: re.Match[str]) -> str:
        if found[0] == "$$":
            return "$"
        assert found[1], f"not understood here: {text[found.start() :][:40]!r}"
        return environment.get(found[1]) or found[2]

    return re.sub(r"\$\$|\$(?:\{(\w+):-([^}]*)\})?", value, text)


def read(path: Path, environment: Mapping[str, str]) -> dict[str, Any]:
    """The whole file, merge keys and variables resolved."""
    resolved: dict[str, Any] = _each(yaml.safe_load(path.read_text()), environment)
    return resolved


def _each(node: Any, environment: Mapping[str, str]) -> Any:
    if isinstance(node, dict):
        return {key: _each(value, environment) for key, value in node.items()}
    if isinstance(node, list):
        return [_each(value, environment) for value in node]
    return interpolated(node, environment) if isinstance(node, str) else node


@dataclass(frozen=True)
class Mount:
    """A folder or file of the host at a path of the container."""

    source: str
    target: str
    read_only: bool
    subpath: str = ""

    @property
    def is_volume(self) -> bool:
        """Whether the source is a named volume."""
        return not self.source.startswith((".", "/"))


def mounts(service: Mapping[str, Any]) -> list[Mount]:
    """Of both notations."""
    found = []
    for volume in service.get("volumes", []):
        if isinstance(volume, str):
            source, target, *mode = volume.split(":")
            found.append(Mount(source, target, mode == ["ro"]))
        else:
            subpath = volume.get("volume", {}).get("subpath", "")
            found.append(Mount(volume["source"], volume["target"], volume["read_only"], subpath))
    return found


def command(service: Mapping[str, Any], stage: Stage) -> list[str]:
    """Entrypoint and command, the image's where the service has none of its own."""
    return [*service.get("entrypoint", [stage.entrypoint]), *service["command"]]


@dataclass(frozen=True)
class Engine:
    """Where containers run."""

    folder: Path
    """of compose.yaml: relative paths begin there"""
    volumes: Path
    """a folder for each named volume"""
    network: list[str]
    """words before a command that put it on the containers' network"""

    def start(self, service: Mapping[str, Any], stage: Stage, log: Path) -> subprocess.Popen[bytes]:
        """A container of that service; its root is a bind mount of the image's, seen by nobody else."""
        root = stage.root
        steps = [f"mount --bind {root} {root}"]
        for path in (m.split(":")[0] for m in service["tmpfs"]):
            steps.append(f"mount -t tmpfs -o mode=1777 tmpfs {root}{path}")
        for mount in mounts(service):
            steps += self._mount(mount, stage)
        steps += [f"mount -t proc proc {root}/proc", f"mount -o remount,ro,bind {root}"]
        variables = {"PATH": "/usr/bin:/bin", "HOME": stage.folder, **service["environment"]}
        act = f"cd {stage.folder} && exec {shlex.join(command(service, stage))}"
        inside = ["/usr/bin/env", "-i", *(f"{name}={value}" for name, value in variables.items()), "/bin/sh", "-c", act]
        steps.append(shlex.join(["exec", "chroot", f"--userspec={service['user']}", str(root), *inside]))
        with log.open("wb") as file:
            return subprocess.Popen(
                [*self.network, "unshare", "--mount", "--pid", "--fork", "--kill-child", "sh", "-ec", "\n".join(steps)],
                stdout=file,
                stderr=subprocess.STDOUT,
                env={"PATH": os.environ["PATH"]},
            )

    def _mount(self, mount: Mount, stage: Stage) -> list[str]:
        if mount.is_volume:
            source = self.volumes / mount.source / mount.subpath
            if not mount.subpath:
                source.mkdir(exist_ok=True)
            assert source.is_dir(), f"no {mount.subpath} in volume {mount.source}"
            _contributed(source, stage, mount.target)
        else:
            source = (self.folder / mount.source).resolve()
        inside = stage.root / mount.target.lstrip("/")
        if source.is_dir():
            inside.mkdir(exist_ok=True)
        else:
            inside.touch()
        mode = ["mount", "-o", "remount,ro,bind", str(inside)] if mount.read_only else ["true"]
        return [shlex.join(["mount", "--bind", str(source), str(inside)]), shlex.join(mode)]


def _contributed(volume: Path, stage: Stage, target: str) -> None:
    """As Docker does: an empty volume takes owner and mode of the image's folder, if there is one."""
    covered = stage.root / target.lstrip("/")
    if covered.is_dir() and not any(volume.iterdir()):
        found = covered.stat()
        os.chown(volume, found.st_uid, found.st_gid)
        volume.chmod(found.st_mode & 0o7777)
