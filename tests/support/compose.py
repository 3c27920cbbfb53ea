"""Read compose.yaml as Compose does, and run its services without a container engine.

Each service runs in a root file system from `dockerfile.build`, with its own mount and process namespaces, its user,
its volumes and a read-only root. All services share one network.
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
    """Resolve `${NAME:-default}` and `$$` in a text. Any other use of a dollar sign is an error."""

    def value(match: re.Match[str]) -> str:
        if match[0] == "$$":
            return "$"
        assert match[1], f"unsupported use of $: {text[match.start() :][:40]!r}"
        return environment.get(match[1]) or match[2]

    return re.sub(r"\$\$|\$(?:\{(\w+):-([^}]*)\})?", value, text)


def read(path: Path, environment: Mapping[str, str]) -> dict[str, Any]:
    """Read the whole file, with merge keys and variables resolved."""
    resolved: dict[str, Any] = _interpolate_all(yaml.safe_load(path.read_text()), environment)
    return resolved


def _interpolate_all(node: Any, environment: Mapping[str, str]) -> Any:
    if isinstance(node, dict):
        return {key: _interpolate_all(value, environment) for key, value in node.items()}
    if isinstance(node, list):
        return [_interpolate_all(value, environment) for value in node]
    return interpolated(node, environment) if isinstance(node, str) else node


@dataclass(frozen=True)
class Mount:
    """A mount of a folder or file of the host at a path in the container."""

    source: str
    target: str
    read_only: bool
    subpath: str = ""

    @property
    def is_volume(self) -> bool:
        """Return whether the source is a named volume."""
        return not self.source.startswith((".", "/"))


def mounts(service: Mapping[str, Any]) -> list[Mount]:
    """Return the mounts of a service, in either notation."""
    result = []
    for volume in service.get("volumes", []):
        if isinstance(volume, str):
            source, target, *mode = volume.split(":")
            result.append(Mount(source, target, mode == ["ro"]))
        else:
            subpath = volume.get("volume", {}).get("subpath", "")
            result.append(Mount(volume["source"], volume["target"], volume["read_only"], subpath))
    return result


def command(service: Mapping[str, Any], stage: Stage) -> list[str]:
    """Return the entrypoint and the command of a service. Without an entrypoint, use that of the image."""
    return [*service.get("entrypoint", [stage.entrypoint]), *service["command"]]


@dataclass(frozen=True)
class Engine:
    """Folders and network that the containers use."""

    folder: Path
    """folder of compose.yaml, to which paths are relative"""
    volumes: Path
    """folder with a subfolder for each named volume"""
    network: list[str]
    """arguments before a command that run it in the containers' network"""

    def start(self, service: Mapping[str, Any], stage: Stage, log: Path) -> subprocess.Popen[bytes]:
        """Start a container of a service. Its root is a bind mount of the image's root that only the container sees."""
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
            _copy_owner(source, stage, mount.target)
        else:
            source = (self.folder / mount.source).resolve()
        inside = stage.root / mount.target.lstrip("/")
        if source.is_dir():
            inside.mkdir(exist_ok=True)
        else:
            inside.touch()
        mode = ["mount", "-o", "remount,ro,bind", str(inside)] if mount.read_only else ["true"]
        return [shlex.join(["mount", "--bind", str(source), str(inside)]), shlex.join(mode)]


def _copy_owner(volume: Path, stage: Stage, target: str) -> None:
    """Give an empty volume the owner and mode of the image's folder that it covers, as Docker does."""
    covered = stage.root / target.lstrip("/")
    if covered.is_dir() and not any(volume.iterdir()):
        stat = covered.stat()
        os.chown(volume, stat.st_uid, stat.st_gid)
        volume.chmod(stat.st_mode & 0o7777)
