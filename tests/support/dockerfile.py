"""Run the steps of a Dockerfile without a container engine: each stage in a copy of a Debian root, with chroot."""

from __future__ import annotations

import fnmatch
import os
import re
import shlex
import shutil
import stat
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

SECONDS = 600.0


@dataclass
class Stage:
    """A root file system and the settings from its instructions."""

    root: Path
    user: str = "0"
    folder: str = "/"
    entrypoint: str = ""
    volumes: list[str] = field(default_factory=list)


def instructions(text: str) -> Iterator[tuple[str, str]]:
    """Yield each instruction and its arguments, without comments and line breaks."""
    lines = "\n".join(line for line in text.splitlines() if not line.lstrip().startswith("#"))
    for line in re.sub(r"\\\n", " ", lines).splitlines():
        if line.strip():
            word, _, rest = line.strip().partition(" ")
            yield word, rest.strip()


@contextmanager
def in_memory(folder: Path) -> Iterator[Path]:
    """Create a folder in memory that is deleted with the context.

    It can hold gigabytes in a hundred thousand files, which a disk would need minutes to write and longer to delete.
    """
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8g,mode=755", "tmpfs", str(folder)], check=True, timeout=10)
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True, timeout=60)


def build(dockerfile: Path, context: Path, debian: Path, work: Path, environment: dict[str, str]) -> Stage:
    """Run all stages, and return the last one.

    `debian` replaces every base image. `environment` is added to the environment of RUN steps.
    """
    stages: dict[str, Stage] = {}
    stage = Stage(work)
    for word, rest in instructions(dockerfile.read_text()):
        if word == "FROM":
            base, _, name = rest.partition(" AS ")
            assert base == "debian:bookworm-slim", base
            stage = Stage(work / f"stage{len(stages)}")
            shutil.copytree(debian, stage.root, symlinks=True, ignore=shutil.ignore_patterns("dev", "proc", "wheels"))
            if (debian / "wheels").exists():  # hard links, because the files are large and only read
                shutil.copytree(debian / "wheels", stage.root / "wheels", copy_function=os.link)
            _copy_host_settings(stage.root)
            stages[name or str(len(stages))] = stage
        elif word == "RUN":
            _inside(stage, ["/bin/sh", "-ec", rest], environment)
        elif word == "COPY":
            _copy(rest, stage, stages, context)
        elif word == "USER":
            stage.user = rest
        elif word == "WORKDIR":
            stage.folder = rest
        elif word == "VOLUME":
            stage.volumes.append(rest)
        elif word == "ENTRYPOINT":
            stage.entrypoint = shlex.split(rest.strip("[]").replace(",", " "))[0]
        else:
            assert word in ("ARG", "CMD"), word  # ARG: an argument without a default is not set
    return stage


def run_read_only(stage: Stage, *arguments: str, mounts: dict[Path, str]) -> subprocess.CompletedProcess[str]:
    """Run the entrypoint as the image's user on a read-only root. `mounts` are read-only; volumes are new tmpfs."""
    root = stage.root
    steps = [f"mount --bind {root} {root}"]
    for outside, inside in mounts.items():
        (root / inside.lstrip("/")).mkdir(exist_ok=True)
        steps.append(f"mount --bind -o ro {outside} {root}{inside}")
    steps += [f"mount -t tmpfs -o uid={stage.user} tmpfs {root}{volume}" for volume in stage.volumes]
    steps += [f"mkdir -p {root}/proc {root}/dev", f"mount -t proc proc {root}/proc", f"mount -o remount,ro,bind {root}"]
    user = f"--userspec={stage.user}:{stage.user}"
    inside = shlex.join(["cd", stage.folder]) + " && exec " + shlex.join([stage.entrypoint, *arguments])
    steps.append(f"exec chroot {user} {root} /bin/sh -c {shlex.quote(inside)}")
    return subprocess.run(
        ["unshare", "--mount", "--pid", "--fork", "sh", "-ec", "\n".join(steps)],
        capture_output=True,
        text=True,
        timeout=SECONDS,
        env={"PATH": os.environ["PATH"]},
    )


def _inside(stage: Stage, command: list[str], environment: dict[str, str]) -> None:
    done = subprocess.run(
        ["chroot", str(stage.root), *command],
        env={"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=SECONDS,
    )
    assert done.returncode == 0, done.stdout[-3000:]


def _copy(rest: str, stage: Stage, stages: dict[str, Stage], context: Path) -> None:
    words = rest.split()
    source = stages[words.pop(0).removeprefix("--from=")].root if words[0].startswith("--from=") else context
    origin, target = source / words[0].lstrip("/"), stage.root / words[1].lstrip("/")
    if source != context:  # hard links, because the source stage is not used again
        shutil.copytree(origin, target, symlinks=True, dirs_exist_ok=True, copy_function=os.link)
        return
    patterns = (context / ".dockerignore").read_text().split()

    def ignored(folder: str, names: list[str]) -> set[str]:
        """Return the names that .dockerignore excludes: `**/` matches at any depth, other patterns from the top."""
        place = Path(folder).relative_to(context)
        excluded = set()
        for pattern in patterns:
            anywhere = pattern.startswith("**/")
            for name in names:
                path = name if anywhere else str(place / name)
                if fnmatch.fnmatch(path, pattern.removeprefix("**/")):
                    excluded.add(name)
        return excluded

    shutil.copytree(origin, target, symlinks=True, dirs_exist_ok=True, ignore=ignored)


def _copy_host_settings(root: Path) -> None:
    """Copy the settings with which this machine reaches package registries, and create the needed devices."""
    for path in [Path("/etc/resolv.conf"), Path("/etc/hosts"), *Path("/etc/apt/apt.conf.d").glob("*")]:
        if path.is_file():
            shutil.copy(path, root / str(path).lstrip("/"))
    certificates = Path("/etc/ssl/certs/ca-certificates.crt")
    if certificates.is_file():
        (root / "etc/ssl/certs").mkdir(parents=True, exist_ok=True)
        shutil.copy(certificates, root / "etc/ssl/certs")
    (root / "dev").mkdir(exist_ok=True)
    for name, minor in (("null", 3), ("random", 8), ("urandom", 9)):
        os.mknod(root / "dev" / name, 0o666 | stat.S_IFCHR, os.makedev(1, minor))
        (root / "dev" / name).chmod(0o666)
