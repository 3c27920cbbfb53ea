"""The Dockerfiles and the systemd unit, tested without a container engine or a running systemd."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from edgefd.runs.export_bundle import export_config
from tests.support.debian_roots import REPOSITORY, Roots
from tests.support.docker_build import OFFLINE, context_of, download, with_wheels
from tests.support.dockerfile import build, instructions, run_read_only
from tests.support.federations import small

DOCKERFILE, SERVER = (REPOSITORY / "docker" / f"{name}.Dockerfile" for name in ("client", "server"))
UNIT = REPOSITORY / "docker" / "edgefd-client.service"
MAX_SIZE = 200 * 2**20  # bytes of the client's dependencies


@pytest.mark.parametrize("dockerfile", [DOCKERFILE, SERVER], ids=lambda path: path.name)
def test_the_linter_accepts_the_dockerfile(dockerfile: Path) -> None:
    linter = Path(sys.executable).parent / "hadolint"
    command = [str(linter), "--config", str(REPOSITORY / ".hadolint.yaml"), "--no-color", str(dockerfile)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (0, "")


def test_the_image_runs_as_an_unprivileged_user() -> None:
    settings = dict(instructions(DOCKERFILE.read_text()))
    assert int(settings["USER"]) > 999
    assert "torch" not in DOCKERFILE.read_text().replace("without torch", "")


@pytest.mark.slow
def test_the_dockerfile_builds_an_image_that_works_on_a_read_only_root(debian: Roots, tmp_path: Path) -> None:
    wheels = tmp_path / "wheels"
    download(wheels, ["client"])
    context = context_of(tmp_path / "context")
    stage = build(DOCKERFILE, context, with_wheels(debian.amd64, wheels, tmp_path), tmp_path, OFFLINE)
    export_config(small(), None, tmp_path / "bundle")
    done = run_read_only(stage, "doctor", "--bundle", "/bundle", mounts={tmp_path / "bundle": "/bundle"})
    assert done.returncode == 0, done.stderr
    assert "self-test" in done.stdout
    packages = next((stage.root / "opt/edgefd/lib").glob("python3*")) / "site-packages"
    assert not (packages / "torch").exists()
    size = sum(f.stat().st_size for f in packages.rglob("*") if f.is_file() and not f.is_symlink())
    print(f"installed: {size / 2**20:.0f} MiB")
    assert size <= MAX_SIZE


@pytest.mark.slow
def test_systemd_accepts_the_unit_and_rates_it_as_sandboxed(debian: Roots, tmp_path: Path) -> None:
    unit = tmp_path / UNIT.name
    unit.write_text(re.sub(r"(?m)^ExecStart=\S+", "ExecStart=/bin/true", UNIT.read_text()))
    verify = subprocess.run(["systemd-analyze", "verify", str(unit)], capture_output=True, text=True, timeout=60)
    assert (verify.returncode, verify.stderr) == (0, "")
    security = ["systemd-analyze", "security", "--offline=true", "--threshold=15", str(unit)]
    done = subprocess.run(security, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout
