"""A command that fails before its first result removes exactly what it made, whatever the reason."""

import os
import shutil
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from edgefd_client import cli as client
from edgefd_server import certs
from edgefd_server.serve import grpc
from typer.testing import CliRunner

from edgefd.cli.main import app
from edgefd.core import files
from edgefd.core.errors import RunError, Stopped, UserError
from edgefd.simulation import engine, run
from tests.support.commands import QUICKSTART
from tests.support.federations import ExportedFederation, export_federation, small

SMALL = ["data.limit=300", "train.rounds=1", "model.name=linear", "partition.n_clients=3", "method.n_clusters=3"]
SIMULATE = ["simulate", QUICKSTART, *SMALL, "run.workers=0", "train.augment_shift=0"]


@pytest.fixture(scope="module")
def federation(tmp_path_factory: pytest.TempPathFactory) -> ExportedFederation:
    return export_federation(small(), tmp_path_factory.mktemp("federation"))


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, federation: ExportedFederation) -> Path:
    """A working directory with files that existed before: `config.yaml`, `bundle`, `client.npz`, `x.npy`."""
    folder = tmp_path / "work"
    folder.mkdir()
    (folder / "config.yaml").write_text(yaml.safe_dump(federation.prepared.config.to_dict()))
    shutil.copytree(federation.bundle, folder / "bundle")
    shutil.copy(federation.data[0], folder / "client.npz")
    np.save(folder / "x.npy", np.zeros((2, 1, 28, 28), np.uint8))
    monkeypatch.chdir(folder)
    return folder


def tree(folder: Path) -> dict[str, tuple[float, bytes]]:
    """Return time and content of everything in a folder."""
    return {
        str(path.relative_to(folder)): (path.lstat().st_mtime_ns if path.is_file() else 0, content(path))
        for path in folder.rglob("*")
    }


def content(path: Path) -> bytes:
    return path.read_bytes() if path.is_file() else b""


def fails(work: Path, arguments: list[str], kind: type[BaseException], message: str = "") -> None:
    """Run `edgefd` or `edgefd-client`, and check that it fails and leaves the folder as it was."""
    before = tree(work)
    if arguments[0] == "edgefd-client":
        with pytest.raises((SystemExit, kind)) as stop:
            client.main(arguments[1:])
        assert not isinstance(stop.value, SystemExit) or stop.value.code in (1, 2, 130)
    else:
        result = CliRunner().invoke(app, arguments)
        error = result.exception
        if not (kind is KeyboardInterrupt and result.exit_code == 130):  # typer turns Ctrl-C into an exit code
            assert isinstance(error, kind), repr(error)
            assert message in str(error)
    assert tree(work) == before


SERVE = ["--bundle", "bundle", "--out", "runs/r"]
COLLECT = ["collect", "config.yaml", "--out", "c/d", "--shape", "1,28,28", "--dtype", "uint8"]
BAD: list[tuple[list[str], str]] = [
    ([*SIMULATE, "data.name=absent.npz", "--out", "runs/r"], "there is no file absent.npz"),
    ([*SIMULATE, "model.name=absent:Net", "--out", "runs/r"], "absent"),
    ([*SIMULATE, "model.name=absent:Net"], "absent"),
    (["partition", QUICKSTART, *SMALL, "data.name=absent.npz", "--out", "d/e"], "there is no file"),
    (["export", QUICKSTART, *SMALL, "data.name=absent.npz", "--out", "b/c"], "there is no file"),
    (["export", QUICKSTART, *SMALL, "--out", "b/c", "--proxy-labels", "x.npy"], "x.npy exists already"),
    (["export", QUICKSTART, *SMALL, "--out", "b/c", "--proxy-labels", "x.npy/y"], "cannot write x.npy/y"),
    (["audit", "absent"], "absent is not the folder of a run"),
    (["report", "absent", "--out", "p/report.html"], "absent holds no run"),
    (["compare", "absent"], "absent holds no run"),
    (["certs", "init", "x.npy/certs"], "cannot write x.npy/certs"),
    (["certs", "device", "a", "--client", "0", "--certs", "absent"], "cannot read absent/devices.json"),
    (["serve", "grpc", "config.yaml", "--listen", "127.0.0.1:TAKEN", *SERVE], "cannot listen on"),
    (["serve", "grpc", "config.yaml", "--listen", "127.0.0.1:0", *SERVE, "train.lr=7"], ""),
    (["serve", "folder", "config.yaml", "x.npy/exchange", *SERVE], "cannot write x.npy/exchange"),
    (["serve", "folder", "config.yaml", "e/x", *SERVE, "--status", "127.0.0.1:TAKEN"], "cannot serve the status page"),
    (["serve", "folder", "config.yaml", "e/x", *SERVE, "--status", "192.0.2.1:1"], "cannot serve the status page"),
    (
        [
            "collect",
            "config.yaml",
            "--listen",
            "127.0.0.1:TAKEN",
            "--out",
            "c/d",
            "--shape",
            "1,28,28",
            "--dtype",
            "uint8",
        ],
        "",
    ),
]


@pytest.mark.parametrize(("arguments", "message"), BAD, ids=[" ".join(case[0])[:60] for case in BAD])
def test_bad_input_leaves_nothing(work: Path, arguments: list[str], message: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        arguments = [each.replace("TAKEN", port) for each in arguments]
        if "train.lr=7" in arguments:
            shutil.rmtree(work / "bundle")
        fails(work, arguments, UserError, message)


@pytest.mark.parametrize(
    "arguments",
    [
        ["run", "--bundle", "bundle", "--client", "0", "--state", "s/t", "--exchange", "x", "--data", "absent.npz"],
        ["run", "--client", "0", "--state", "s/t", "--server", "192.0.2.1:1", "--data", "client.npz"],
        ["run", "--client", "0", "--state", "x.npy/t", "--exchange", "x", "--bundle", "bundle", "--data", "client.npz"],
        ["contribute", "--client", "0", "--state", "s/t", "--server", "127.0.0.1:TAKEN", "--data", "client.npz",
         "--fraction", "0.1", "--yes", "--give-up", "1"],
        ["infer", "--bundle", "bundle", "--input", "absent.npy", "--out", "o/logits.npy"],
        ["infer", "--bundle", "bundle", "--input", "x.npy", "--out", "x.npy/logits.npy"],
        ["infer", "--bundle", "bundle", "--input", "x.npy", "--state", "s", "--out", "logits.npy"],
    ],
    ids=lambda arguments: " ".join(arguments)[:60],
)  # fmt: skip
def test_a_device_that_cannot_begin_leaves_nothing(work: Path, arguments: list[str]) -> None:
    (work / "x").mkdir()
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = str(silent.getsockname()[1])
        fails(work, ["edgefd-client", *(each.replace("TAKEN", port) for each in arguments)], UserError)


def full_disk(monkeypatch: pytest.MonkeyPatch, at: int) -> None:
    """Let the disk be full from the write of this number on."""
    calls, original = count(1), files.replacing

    @contextmanager
    def replacing(path: Path, *arguments: Any) -> Iterator[Any]:
        with original(path, *arguments) as file:
            yield file
            if next(calls) >= at:
                raise OSError(28, "No space left on device")

    monkeypatch.setattr(files, "replacing", replacing)


@pytest.mark.parametrize("at", [1, 2, 3])
@pytest.mark.parametrize(
    "arguments",
    [
        [*SIMULATE, "--out", "runs/r"],
        ["partition", QUICKSTART, *SMALL, "--out", "d/e"],
        ["export", QUICKSTART, *SMALL, "--out", "b/c", "--proxy-labels", "labels/y.npz"],
        ["certs", "init", "certs"],
        ["serve", "grpc", "config.yaml", "--listen", "127.0.0.1:0", *SERVE],
        ["serve", "folder", "config.yaml", "e/x", *SERVE],
        [*COLLECT, "--listen", "127.0.0.1:0"],
    ],
    ids=lambda arguments: " ".join(arguments)[:20],
)
def test_a_full_disk_at_the_start_leaves_nothing(
    work: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], at: int
) -> None:
    if arguments[0] == "collect" and at > 1:
        pytest.skip("a collector writes one file before it waits")
    if arguments[:2] == ["certs", "init"] and at == 1:
        monkeypatch.setattr(os, "rename", lambda *_, **__: (_ for _ in ()).throw(OSError(28, "No space left")))
    full_disk(monkeypatch, at)
    fails(work, arguments, (UserError, RunError))  # type: ignore[arg-type]


def interrupted(*_: object, **__: object) -> Any:
    raise KeyboardInterrupt


@pytest.mark.parametrize(
    ("owner", "name", "arguments"),
    [
        (engine, "record_round", [*SIMULATE, "run.record_knowledge=true", "--out", "runs/r"]),
        (run, "open_transport", [*SIMULATE]),
        (grpc, "open_link", ["serve", "grpc", "config.yaml", "--listen", "127.0.0.1:0", *SERVE]),
    ],
    ids=["simulate, in round 0", "simulate, at the start", "serve"],
)
def test_ctrl_c_before_the_first_round_leaves_nothing(
    work: Path, monkeypatch: pytest.MonkeyPatch, owner: object, name: str, arguments: list[str]
) -> None:
    monkeypatch.setattr(owner, name, interrupted)
    fails(work, arguments, Stopped, "not one round was done")


def test_a_sweep_whose_runs_all_fail_leaves_nothing_and_keeps_what_was_there(work: Path) -> None:
    sweep = {"base": yaml.safe_load(Path(QUICKSTART).read_text()), "grid": {"seed": [0]}}
    sweep["base"] |= {"data": {"name": "mnist_mini", "limit": 300}, "baselines": []}
    (work / "failing.py").write_text("def Net(*a, **k):\n    raise ValueError('no model')\n")
    (work / "sweep.yaml").write_text(yaml.safe_dump(sweep))
    fails(work, ["sweep", "sweep.yaml", "base.data.name=absent.npz", "--out", "s"], UserError)
    fails(work, ["sweep", "sweep.yaml", "model.name=failing:Net", "--out", "s"], (RunError, UserError))  # type: ignore[arg-type]


def test_a_served_run_that_has_begun_is_kept(
    work: Path, monkeypatch: pytest.MonkeyPatch, federation: ExportedFederation
) -> None:
    """Devices may have received messages of it: it can be resumed."""
    result = CliRunner().invoke(app, ["serve", "folder", "config.yaml", "x", *SERVE, "--timeout", "0.3"])
    assert isinstance(result.exception, RunError)
    assert {"config.yaml", "checkpoint.bin"} <= {path.name for path in (work / "runs" / "r").iterdir()}
    assert (work / "x" / "rounds" / "0000" / "plan.bin").exists()
    again = CliRunner().invoke(app, ["serve", "folder", "config.yaml", "x", *SERVE, "--timeout", "0.3", "--resume"])
    assert isinstance(again.exception, RunError)
    assert "0 of 3 reports" in str(again.exception)


def test_a_failed_certificate_keeps_the_files_of_the_revoked_one(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    certs.init(work / "certs", ["localhost"], 1)
    certs.add_device(work / "certs", "a", 0, 1)
    certs.revoke(work / "certs", "a")
    (work / "certs" / "devices" / "a" / "device.pem").chmod(0o600)
    full_disk(monkeypatch, 1)
    fails(work, ["certs", "device", "a", "--client", "0"], UserError, "No space left")
