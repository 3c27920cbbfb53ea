"""docker/compose.yaml without a container engine: its form, its sandboxing, and its commands as a federation."""

import json
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from edgefd.config.load import load_config
from tests.support.compose import Engine, mounts, read
from tests.support.debian_roots import REPOSITORY, Roots
from tests.support.docker_build import OFFLINE, context_of, download, with_wheels
from tests.support.dockerfile import Stage, build, in_memory, instructions

COMPOSE = REPOSITORY / "docker" / "compose.yaml"
SERVER, CLIENT = (REPOSITORY / "docker" / f"{name}.Dockerfile" for name in ("server", "client"))
DEVICES = [f"device-{i}" for i in range(5)]
SECONDS = 300.0


@pytest.fixture(scope="module")
def services() -> dict[str, dict[str, Any]]:
    result: dict[str, dict[str, Any]] = read(COMPOSE, {})["services"]
    return result


def test_the_file_conforms_to_the_compose_specification() -> None:
    from compose_spec import PyCompose

    whole = read(COMPOSE, {})
    PyCompose.from_yaml(yaml.safe_dump(whole)).validate()
    whole["services"]["coordinator"]["read-only"] = True
    with pytest.raises(ValueError, match="read-only"):
        PyCompose.from_yaml(yaml.safe_dump(whole))


def test_every_container_is_sandboxed(services: dict[str, dict[str, Any]]) -> None:
    assert list(services) == ["setup", "coordinator", *DEVICES]
    for service in services.values():
        assert service["user"] == "10001:10001"
        assert service["read_only"] is True
        assert service["cap_drop"] == ["ALL"]
        assert service["security_opt"] == ["no-new-privileges:true"]
        assert not {"privileged", "ports", "cap_add"} & set(service)


def test_all_named_files_volumes_and_services_exist(services: dict[str, dict[str, Any]]) -> None:
    used = {m.source for service in services.values() for m in mounts(service) if m.is_volume}
    assert used == set(read(COMPOSE, {})["volumes"])
    for service in services.values():
        assert (COMPOSE.parent / service["build"]["context"] / service["build"]["dockerfile"]).is_file()
        assert all((COMPOSE.parent / m.source).exists() for m in mounts(service) if not m.is_volume)
        for name, condition in service.get("depends_on", {}).items():
            assert condition["condition"] != "service_healthy" or "healthcheck" in services[name]
    assert load_config(COMPOSE.parent / "fleet.yaml", []).to_dict()["partition"]["n_clients"] == len(DEVICES)


def test_each_container_sees_only_its_own_keys(services: dict[str, dict[str, Any]]) -> None:
    seen = {
        name: {(m.source, m.subpath): m.read_only for m in mounts(s) if m.is_volume} for name, s in services.items()
    }
    assert [name for name in seen if ("authority", "") in seen[name]] == ["setup"]
    assert [name for name in seen if ("devices", "") in seen[name]] == ["setup"]
    for i, name in enumerate(DEVICES):
        assert seen[name] == {("devices", str(i)): True, (f"state-{i}", ""): False}
    assert seen["coordinator"] == {("bundle", ""): True, ("certs", ""): True, ("runs", ""): False}


def test_no_secret_is_copied_into_an_image() -> None:
    ignored = (REPOSITORY / ".dockerignore").read_text().split()
    assert {"**/*.key", "**/*.pem", "**/devices.json"} <= set(ignored)
    settings = dict(instructions(SERVER.read_text()))
    assert settings["USER"] == "10001"


@pytest.mark.slow
def test_the_commands_run_a_federation(
    debian: Roots, networks: None, services: dict[str, dict[str, Any]], tmp_path: Path
) -> None:
    """Build both images, then run every service with its own command, user, volumes and read-only root."""
    with in_memory(tmp_path / "images") as work:
        images = {"edgefd-server": image(SERVER, ["export", "server"], debian, work / "server")}
        images["edgefd-client"] = image(CLIENT, ["client"], debian, work / "client")
        run_federation(images, services, tmp_path)
    assert not (tmp_path / "volumes/certs/ca.key").exists()
    assert (tmp_path / "volumes/authority/fleet/ca.key").stat().st_mode & 0o077 == 0


def run_federation(images: dict[str, Stage], services: dict[str, dict[str, Any]], tmp_path: Path) -> None:
    """Run the services as `docker compose up` would, with fewer rounds."""
    shutil.copytree(COMPOSE.parent, tmp_path / "docker")
    fleet = tmp_path / "docker" / "fleet.yaml"
    fleet.write_text(fleet.read_text().replace("rounds: 10,", "rounds: 2,"))
    (tmp_path / "volumes").mkdir()
    network = f"edgefd-{tmp_path.name[-8:]}-{time.monotonic_ns() % 10**6}"
    subprocess.run(["ip", "netns", "add", network], check=True, timeout=10)
    subprocess.run(["ip", "-n", network, "link", "set", "lo", "up"], check=True, timeout=10)
    inside = ["ip", "netns", "exec", network]
    engine = Engine(tmp_path / "docker", tmp_path / "volumes", inside)
    running: dict[str, subprocess.Popen[bytes]] = {}

    def start(name: str) -> None:
        running[name] = engine.start(services[name], images[services[name]["image"]], tmp_path / f"{name}.log")

    def log(name: str) -> str:
        return f"{name}: {(tmp_path / f'{name}.log').read_text()[-3000:]}"

    try:
        for again in (False, True):
            start("setup")
            assert running["setup"].wait(SECONDS) == 0, log("setup")
            assert bool(log("setup").removeprefix("setup: ")) is not again  # the second run changes nothing
        start("coordinator")
        check = services["coordinator"]["healthcheck"]["test"]
        assert check[0] == "CMD"
        healthy = [*inside, "chroot", str(images["edgefd-server"].root), *check[1:]]
        wait_until(lambda: subprocess.run(healthy, capture_output=True, timeout=30).returncode == 0, log, "coordinator")
        kind, line = services["device-0"]["healthcheck"]["test"]
        assert kind == "CMD-SHELL"

        def saved(i: int) -> bool:
            command = line.replace("/state/", f"{tmp_path}/volumes/state-{i}/", 1)
            return subprocess.run(["sh", "-c", command], capture_output=True, timeout=10).returncode == 0

        assert not saved(0)
        for name in DEVICES:
            start(name)
        for name in [*DEVICES, "coordinator"]:
            assert running[name].wait(SECONDS) == 0, log(name) + log("coordinator")
        assert all(saved(i) for i in range(len(DEVICES)))
    finally:
        for process in running.values():
            if process.poll() is None:
                process.kill()
                process.wait(10)
        subprocess.run(["ip", "netns", "delete", network], check=True, timeout=10)
    summary = json.loads((tmp_path / "volumes/runs/fleet/summary.json").read_text())
    assert summary["complete"]
    assert summary["rounds"] == 2
    events = [json.loads(line) for line in (tmp_path / "volumes/runs/fleet/link.jsonl").read_text().splitlines()]
    assert {line["client"] for line in events if line["event"] == "report"} == set(range(5))


def image(dockerfile: Path, extras: list[str], debian: Roots, work: Path) -> Stage:
    """Build the last stage of a Dockerfile, in which the host name `coordinator` resolves to this machine."""
    work.mkdir()
    download(work / "wheels", extras)
    stage = build(
        dockerfile, context_of(work / "context"), with_wheels(debian.amd64, work / "wheels", work), work, OFFLINE
    )
    with (stage.root / "etc/hosts").open("a") as hosts:
        hosts.write("127.0.0.1 localhost coordinator\n")
    (stage.root / "proc").mkdir(exist_ok=True)
    return stage


def wait_until(condition: Any, log: Any, name: str) -> None:
    deadline = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < deadline, log(name)
        time.sleep(0.5)
