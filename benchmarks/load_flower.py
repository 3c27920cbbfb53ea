"""The exchange of `benchmarks.load` through a Flower SuperLink, with as many replies of the same size in each round.

It uses an unmodified `flower-superlink --insecure` with its in-memory store on 127.0.0.1, an app
(`benchmarks.load_flower_app`) that `flwr run` submits, and nodes. The nodes are threads in two processes that call the
SuperLink with flwr's own SuperNode client
(`flwr.supernode.fleet_http_connection`: RegisterNode, ActivateNode, heartbeats, PullMessages, PullObject,
ConfirmMessageReceived, PushMessages, PushObject) and answer with prepared bytes. Nodes poll for messages every 3 s, as
unmodified SuperNodes do, and the ServerApp polls for replies every second. In Flower's favour, these parts are left
out: the new `flwr-clientapp` process that a SuperNode starts for each message, TLS, and the checks and the average of
the reports.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from benchmarks.processes import memory, start

POLL = 3.0  # seconds, the value of flwr
GENERATORS = 2
ENVIRONMENT = {"FLWR_TELEMETRY_ENABLED": "0", "FLWR_DISABLE_UPDATE_CHECK": "1", "FLWR_LOG_LEVEL": "WARNING"}
APP = """
[build-system]
requires = ["hatchling"]
build-backend = "hatchling.build"
[project]
name = "load"
version = "0.1.0"
description = "replies of a given size"
license = "Apache-2.0"
dependencies = ["flwr>=1.42"]
[tool.hatch.build.targets.wheel]
packages = ["."]
[tool.flwr.app]
publisher = "edgefd"
[tool.flwr.app.components]
serverapp = "loadapp.server_app:app"
clientapp = "loadapp.client_app:app"
[tool.flwr.app.config]
devices = {devices}
rounds = {rounds}
down = {down}
out = "{out}"
"""
CONNECTION = """
[superlink]
default = "load"
[superlink.load]
address = "127.0.0.1:{port}"
insecure = true
"""


@dataclass(frozen=True)
class FlowerLoad:
    """The figures of a run."""

    seconds: list[float]
    """duration of each round"""
    replies: int
    """replies without an error, of all rounds"""
    superlink: float
    """peak memory of the SuperLink in MB"""
    serverapp: float
    """peak memory of the ServerApp in MB"""
    processor: float
    """processor seconds of the SuperLink per round, without the first round"""


def measure(devices: int, rounds: int, up: int, down: int, limit: float = 900.0) -> FlowerLoad:
    """Run the rounds with replies of `up` bytes to messages of `down` bytes, and return the figures.

    Raises:
        RuntimeError: if a process fails, or rounds are missing after `limit` seconds; the message holds its output.
    """
    with tempfile.TemporaryDirectory(prefix="edgefd-load-") as name, ExitStack() as started:
        work, port = Path(name), _free_port()
        environment = os.environ | ENVIRONMENT | {"FLWR_HOME": str(work / "home")}
        _write_app(work, devices, rounds, down, port)
        command = [_tool("flower-superlink"), "--insecure", "--disable-runtime-dependency-installation"]
        command += ["--host", "127.0.0.1", "--port", str(port)]
        superlink = start(started, command, work / "superlink.log", env=environment)
        _wait_for_health(superlink, port, work / "superlink.log")
        # Submit the run before the nodes start: a SuperLink that so many nodes poll does not answer `flwr run` in time.
        run = [_tool("flwr"), "run", str(work / "app"), "load"]
        done = subprocess.run(run, env=environment, capture_output=True, text=True, timeout=120)
        if done.returncode:
            raise RuntimeError(f"flwr run: {done.stdout[-1000:]}{done.stderr[-1000:]}")
        for i in range(GENERATORS):
            count = devices // GENERATORS + (i < devices % GENERATORS)
            nodes = ["--address", f"127.0.0.1:{port}", "--count", str(count), "--size", str(up)]
            command = [sys.executable, "-m", "benchmarks.load_flower", *nodes]
            start(started, command, work / f"nodes{i}.log", env=environment)
        out, deadline = work / "rounds.jsonl", time.monotonic() + limit
        marks: list[float] = []  # processor time after each round
        while len(marks) < rounds:
            done_rounds = len(out.read_text().splitlines()) if out.exists() else 0
            marks += [_processor(superlink.pid)] * (done_rounds - len(marks))
            if superlink.poll() is not None or time.monotonic() > deadline:
                last_line = (work / "superlink.log").read_text().splitlines()[-1:]
                raise RuntimeError(
                    f"{len(marks)} of {rounds} rounds after {limit:g} s; the SuperLink's last line: {last_line}"
                )
            time.sleep(0.1)
        peak = memory(superlink.pid)
        lines = [json.loads(line) for line in out.read_text().splitlines()]
    replies = sum(devices - line["failed"] for line in lines)
    if sum(line["bytes"] for line in lines) != replies * up:
        raise RuntimeError("the replies have another size than requested")
    seconds, serverapp = [line["seconds"] for line in lines], max(line["peak"] for line in lines)
    return FlowerLoad(seconds, replies, peak, serverapp, (marks[-1] - marks[0]) / max(rounds - 1, 1))


def _write_app(work: Path, devices: int, rounds: int, down: int, port: int) -> None:
    package = work / "app" / "loadapp"
    package.mkdir(parents=True)
    (work / "home").mkdir()
    (work / "home" / "config.toml").write_text(CONNECTION.format(port=port))
    out = work / "rounds.jsonl"
    (work / "app" / "pyproject.toml").write_text(APP.format(devices=devices, rounds=rounds, down=down, out=out))
    (package / "__init__.py").write_text("")
    (package / "client_app.py").write_text("from flwr.clientapp import ClientApp\n\napp = ClientApp()\n")
    shutil.copy(Path(__file__).with_name("load_flower_app.py"), package / "server_app.py")


def _tool(name: str) -> str:
    return str(Path(sys.executable).parent / name)


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def _wait_for_health(superlink: subprocess.Popen[bytes], port: int, log: Path) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and superlink.poll() is None:
        with contextlib.suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=2):
            return
        time.sleep(0.2)
    raise RuntimeError(f"the SuperLink did not start: {log.read_text()[-2000:]}")


def _processor(pid: int) -> float:
    """Return the processor seconds of a process."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def node(address: str, size: int) -> None:
    """Answer every message with `size` bytes, until the process is killed."""
    from flwr.app import ConfigRecord, Message, RecordDict
    from flwr.supercore.inflatable.inflatable_object import (
        get_all_nested_objects,
        get_object_tree,
        no_object_id_recompute,
    )
    from flwr.supercore.inflatable.inflatable_utils import (
        pull_and_inflate_object_from_tree,
        push_object_contents_from_iterable,
    )
    from flwr.supernode.fleet_http_connection import http_request_response

    with http_request_response(address, insecure=True) as (me, receive, send, _, _, pull, push, confirm):
        number = 0
        while True:
            if (received := receive()) is None:
                time.sleep(POLL)
                continue
            head, tree = received
            run = head.metadata.run_id
            message = pull_and_inflate_object_from_tree(
                tree, partial(pull, run), partial(confirm, run), return_type=Message
            )
            message.metadata.__dict__["_message_id"] = tree.object_id
            number += 1  # replies differ, or Flower would store them once
            body = me.to_bytes(8, "big") + number.to_bytes(8, "big") + bytes(size - 16)
            reply = Message(RecordDict({"load": ConfigRecord({"body": body})}), reply_to=message)
            reply.metadata.__dict__["_message_id"] = reply.object_id
            with no_object_id_recompute():
                missing, session = send(reply, get_object_tree(reply), 0.0)
                objects = get_all_nested_objects(reply)
                push_object_contents_from_iterable(
                    ((o, objects[o].deflate()) for o in objects if o in missing),
                    push_object_fn=partial(push, run, session),
                )


def main() -> None:
    """Run nodes in threads until the process is killed. `measure` starts this process."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--address", required=True)
    options.add_argument("--count", type=int, required=True)
    options.add_argument("--size", type=int, required=True)
    chosen = options.parse_args()
    from flwr.supercore.task_identity import TaskIdentity

    TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = 1, 1, 1  # Message() asks for one
    for _ in range(chosen.count):
        threading.Thread(target=node, args=(chosen.address, chosen.size), daemon=True).start()
        time.sleep(random.uniform(0, 0.04))  # spread the starts and the polls over time
    while True:
        time.sleep(60)


if __name__ == "__main__":
    main()
