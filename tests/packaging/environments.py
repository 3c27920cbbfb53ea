"""Virtual environments outside the checkout, with a wheel that was built from the checkout."""

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]
HERE = Path(sys.executable).parent  # the commands of the environment that runs the tests
SECONDS = 900


@dataclass(frozen=True)
class Environment:
    """A virtual environment in a folder."""

    folder: Path

    def run(self, command: str, *arguments: str | Path, cwd: Path) -> str:
        """Return what a command of the environment prints; the checkout is not on its path."""
        return run(self.folder / "bin" / command, *arguments, cwd=cwd)

    def install(self, *requirements: str) -> None:
        """Install packages in the versions of constraints.txt."""
        ignore_line = ["--disable-pip-version-check", "--quiet", "--no-compile"]
        pinned = ["--constraint", REPOSITORY / "constraints.txt"]
        self.run("python", "-m", "pip", "install", *ignore_line, *pinned, *requirements, cwd=self.folder)

    def has(self, *modules: str) -> list[str]:
        """Return those of the modules that can be imported."""
        program = "import importlib.util, sys; print(*filter(importlib.util.find_spec, sys.argv[1:]))"
        return self.run("python", "-c", program, *modules, cwd=self.folder).split()

    def place(self, module: str) -> Path:
        """Return the file that a module is imported from."""
        program = f"import {module}; print({module}.__file__)"
        return Path(self.run("python", "-c", program, cwd=self.folder).strip())


def make_environment(python: str | Path, folder: Path) -> Environment:
    """Make a virtual environment with nothing but pip in it."""
    run(python, "-m", "venv", folder, cwd=folder.parent)
    return Environment(folder)


def build_wheel(folder: Path) -> Path:
    """Build the wheel from a copy of the files that git tracks, or would track."""
    source = folder / "source"
    listed = run("git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", cwd=REPOSITORY)
    for name in filter(None, listed.split("\0")):
        if (REPOSITORY / name).is_file():  # a file that was removed, but not yet from the index, is not
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(REPOSITORY / name, source / name)
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "wheel", "--quiet", "--no-deps"]
    run(*pip, "--wheel-dir", folder, source, cwd=folder)
    return next(folder.glob("edgefd-*.whl"))


def interpreter(version: str) -> Path | None:
    """Return Python of that version, of pyenv or on PATH, or None where there is none."""
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    candidates = [*sorted(pyenv.glob(f"{version}.*/bin/python")), shutil.which(f"python{version}")]
    program = "import ensurepip, sys; print(*sys.version_info[:2], sep='.')"
    for python in filter(None, candidates):
        done = subprocess.run([python, "-c", program], capture_output=True, text=True, timeout=60)
        if done.stdout.strip() == version:  # a shim of pyenv may exist for a version that it does not run
            return Path(python)
    return None


def run(*command: str | Path, cwd: Path) -> str:
    """Return what a command prints, without the variables that could put the checkout on Python's path."""
    variables = {
        name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "EDGEFD_", "VIRTUAL_"))
    }
    done = subprocess.run(
        [str(c) for c in command], cwd=cwd, env=variables, capture_output=True, text=True, timeout=SECONDS
    )
    assert done.returncode == 0, f"{command}: {done.stderr[-2000:]}"
    return done.stdout
