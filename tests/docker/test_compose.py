"""docker/compose.yaml, held without an engine: its form, what is closed in it, and its commands as a federation."""

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
def said() -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = read(COMPOSE, {})["services"]
    return found


def test_it_is_of_the_specification() -> None:
    from compose_spec import PyCompose

    whole = read(COMPOSE, {})
    PyCompose.from_yaml(yaml.safe_dump(whole)).validate()
    whole["services"]["coordinator"]["read-only"] = True
    with pytest.raises(ValueError, match="read-only"):
        PyCompose.from_yaml(yaml.safe_dump(whole))


def test_every_container_is_closed(said: dict[str, dict[str, Any]]) -> None:
    assert list(said) == ["setup", "coordinator", *DEVICES]
    for service in said.values():
        assert service["user"] == "10001:10001"
        assert service["read_only"] is True
        assert service["cap_drop"] == ["ALL"]
        assert service["security_opt"] == ["no-new-privileges:true"]
        assert not {"privileged", "ports", "cap_add"} & set(service)


def test_what_is_named_is_there(said: dict[str, dict[str, Any]]) -> None:
    used = {m.source for service in said.values() for m in mounts(service) if m.is_volume}
    assert used == set(read(COMPOSE, {})["volumes"])
    for service in said.values():
        assert (COMPOSE.parent / service["build"]["context"] / service["build"]["dockerfile"]).is_file()
        assert all((COMPOSE.parent / m.source).exists() for m in mounts(service) if not m.is_volume)
        for name, condition in service.get("depends_on", {}).items():
            assert condition["condition"] != "service_healthy" or "healthcheck" in said[name]
    assert load_config(COMPOSE.parent / "fleet.yaml", []).to_dict()["partition"]["n_clients"] == len(DEVICES)


def test_nobody_sees_a_key_that_is_not_its_own(said: dict[str, dict[str, Any]]) -> None:
    seen = {name: {(m.source, m.subpath): m.read_only for m in mounts(s) if m.is_volume} for name, s in said.items()}
    assert [name for name in seen if ("authority", "") in seen[name]] == ["setup"]
    assert [name for name in seen if ("devices", "") in seen[name]] == ["setup"]
    for i, name in enumerate(DEVICES):
        assert seen[name] == {("devices", str(i)): True, (f"state-{i}", ""): False}
    assert seen["coordinator"] == {("bundle", ""): True, ("certs", ""): True, ("runs", ""): False}


def test_no_secret_gets_into_an_image() -> None:
    ignored = (REPOSITORY / ".dockerignore").read_text().split()
    assert {"**/*.key", "**/*.pem", "**/devices.json"} <= set(ignored)
    said = dict(instructions(SERVER.read_text()))
    assert said["USER"] == "10001"


@pytest.mark.slow
def test_its_commands_make_a_federation(
    debian: Roots, networks: None, said: dict[str, dict[str, Any]], tmp_path: Path
) -> None:
    """Both images by their steps, then every service with its own command, user, volumes and read-only root."""
    with in_memory(tmp_path / "images") as work:
        images = {"edgefd-server": image(SERVER, ["export", "server"], debian, work / "server")}
        images["edgefd-client"] = image(CLIENT, ["client"], debian, work / "client")
        federation(images, said, tmp_path)
    assert not (tmp_path / "volumes/certs/ca.key").exists()
    assert (tmp_path / "volumes/authority/fleet/ca.key").stat().st_mode & 0o077 == 0


def federation(images: dict[str, Stage], said: dict[str, dict[str, Any]], tmp_path: Path) -> None:
    """What `docker compose up` would do, with fewer rounds."""
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
        running[name] = engine.start(said[name], images[said[name]["image"]], tmp_path / f"{name}.log")

    def log(name: str) -> str:
        return f"{name}: {(tmp_path / f'{name}.log').read_text()[-3000:]}"

    try:
        for again in (False, True):
            start("setup")
            assert running["setup"].wait(SECONDS) == 0, log("setup")
            assert bool(log("setup").removeprefix("setup: ")) is not again  # once made, it is left alone
        start("coordinator")
        check = said["coordinator"]["healthcheck"]["test"]
        assert check[0] == "CMD"
        healthy = [*inside, "chroot", str(images["edgefd-server"].root), *check[1:]]
        wait_until(lambda: subprocess.run(healthy, capture_output=True, timeout=30).returncode == 0, log, "coordinator")
        kind, line = said["device-0"]["healthcheck"]["test"]
        assert kind == "CMD-SHELL"

        def saved(i: int) -> bool:
            there = line.replace("/state/", f"{tmp_path}/volumes/state-{i}/", 1)
            return subprocess.run(["sh", "-c", there], capture_output=True, timeout=10).returncode == 0

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
    joined = [json.loads(line) for line in (tmp_path / "volumes/runs/fleet/link.jsonl").read_text().splitlines()]
    assert {line["client"] for line in joined if line["event"] == "report"} == set(range(5))


def image(dockerfile: Path, extras: list[str], debian: Roots, work: Path) -> Stage:
    """The last stage of a Dockerfile; it finds the coordinator by name."""
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
