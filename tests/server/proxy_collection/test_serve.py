"""`edgefd collect`, export and a run of the devices that contributed, as users run them."""

import math
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from edgefd_client.cli import main
from edgefd_client.contribution import contributed_proxy_rows, load_contribution
from edgefd_client.state import load_state
from edgefd_server import certs
from edgefd_server.grpc_link.server import ListenAddress
from edgefd_server.proxy_collection.serve import Collecting, collect
from edgefd_server.proxy_collection.store import PROXY, Collection
from typer.testing import CliRunner

from edgefd.cli.main import app
from edgefd.config.load import parse_config
from edgefd.config.schema import Config
from edgefd.core.errors import Stopped, UserError
from edgefd.data.npz import read_npz
from edgefd.federation.clients import Scale
from edgefd.runs.export_bundle import export_config
from edgefd.runs.prepare import prepare
from edgefd.simulation.client_files import deal
from tests.support.device_links import opened
from tests.support.federations import Dealt, coordinate, small
from tests.support.fork_server import environment
from tests.support.waiting import until

WHERE = environment("proto", "server", "client")


def changed(config: Config, **proxy: object) -> Config:
    return parse_config(config.to_dict() | {"proxy": proxy})


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--least", "1"], "--least goes with it"),
        (["--deadline", "0"], "--deadline must be above 0"),
        (["--deadline", "1", "--least", "11"], "--least must be from 1 to 10"),
        (["method.name=indlearn", "baselines=[]"], "no proxy set"),
        (["--certs", "nowhere"], "certs init"),
    ],
)
def test_bad_input_is_one_line(tmp_path: Path, options: list[str], says: str) -> None:
    config = tmp_path / "c.yaml"
    config.write_text("data: {name: mnist_mini, limit: 600}\n")
    command = ["collect", str(config), "--listen", "127.0.0.1:0", "--out", str(tmp_path / "out"), *options]
    found = CliRunner().invoke(app, command)
    assert isinstance(found.exception, UserError)
    assert says in str(found.exception)


def test_it_says_what_is_kept_when_it_is_stopped_and_ends_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config, how = small(n_clients=2), Collecting(ListenAddress("127.0.0.1:0", None))

    def stopped(collection: Collection, least: int, deadline: float) -> None:
        assert (least, deadline) == (2, math.inf)
        raise KeyboardInterrupt

    monkeypatch.setattr(Collection, "wait", stopped)
    with pytest.raises(
        Stopped, match=r"0 of 2 clients have contributed, which is kept in .*: the same command goes on"
    ):
        collect(config, how, tmp_path)
    assert (tmp_path / "clients").stat().st_mode & 0o077 == 0
    np.savez(tmp_path / PROXY, x=np.zeros((5, 1, 28, 28), np.uint8), contributors=2)
    found = collect(config, how, tmp_path)  # nobody is waited for any more
    assert (found.samples, found.clients) == (5, 2)


def collector(folder: Path, port: str = "0") -> tuple[subprocess.Popen[str], str]:
    """`edgefd collect`, and the port that it listens on."""
    command = [sys.executable, "-m", "edgefd", "collect", str(folder / "config.yaml"), "--listen", f"127.0.0.1:{port}"]
    command += ["--certs", str(folder / "certs"), "--out", str(folder / "collected")]
    with (folder / "collect.log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, text=True, env=WHERE)

    def listens() -> str:
        said = (folder / "collect.log").read_text()
        assert process.poll() is None, said
        found = re.search(r"on port (\d+)", said)
        return found[1] if found else ""

    return process, until(listens)


@pytest.mark.slow
def test_from_private_samples_to_a_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plain = changed(small(n_clients=2, rounds=1), source="public")  # no client has contributed anything yet
    data = deal(prepare(plain), tmp_path / "data")
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(changed(plain, source="contributed").to_dict()))
    certs.init(tmp_path / "certs", ["127.0.0.1"], 10)
    keys = [certs.add_device(tmp_path / "certs", f"device-{i}", i, 10) for i in range(2)]

    def give(i: int, port: str) -> str:
        command = ["contribute", "--server", f"127.0.0.1:{port}", "--certs", str(keys[i]), "--data", str(data[i])]
        main([*command, "--state", str(tmp_path / f"state{i}"), "--fraction", "0.1", "--give-up", "60", "--yes"])
        return capsys.readouterr().out

    first, port = collector(tmp_path)
    assert "the coordinator has them" in give(0, port)
    os.kill(first.pid, signal.SIGKILL)
    first.wait(10)
    second, port = collector(tmp_path)
    assert "the coordinator had them already" in give(0, port)
    assert "the coordinator has them" in give(1, port)
    assert second.wait(60) == 0
    given = [load_contribution(tmp_path / f"state{i}") for i in range(2)]
    sent = sum(len(g.rows) for g in given if g is not None)
    said = (tmp_path / "collect.log").read_text()
    assert "1 of them contributed already" in said
    assert f"{sent} raw private samples of 2 clients are in " in said

    config = changed(plain, source="contributed", path=str(tmp_path / "collected" / "proxy.npz"))
    made = Dealt(prepare(config), tmp_path / "bundle", tuple(data))
    assert made.prepared.federation.raw_samples_disclosed == len(made.prepared.federation.proxy) == sent
    export_config(config, None, made.bundle)
    with opened(made, tmp_path / "certs") as link:
        devices = [device(link.address, keys[i], data[i], tmp_path / f"state{i}") for i in range(2)]
        try:
            assert len(coordinate(made, link.coordinator)) == 2
            outputs = [d.communicate(timeout=60) for d in devices]
        finally:
            for d in devices:
                d.kill()
    for i, (out, err) in enumerate(outputs):
        record, whole = given[i], read_npz(data[i], ("x",))["x"]
        assert record is not None
        assert (devices[i].returncode, err) == (0, "")
        assert f"{len(record.rows)} rows of the proxy set are its own" in out
        assert f"client {i}: {len(whole) - len(record.rows)} samples" in out
        saved = load_state(tmp_path / f"state{i}", made.read().digest)
        ids, _ = contributed_proxy_rows(Scale(*made.read().manifest.scale)(whole[record.rows]), made.read().proxy)
        assert saved is not None
        assert (saved.acceptance[ids] == 1).all()  # own rows are in-distribution, and surely so
        assert (saved.acceptance[np.setdiff1d(np.arange(sent), ids)] < 1).all()


def device(address: str, keys: Path, data: Path, state: Path) -> subprocess.Popen[str]:
    command = ["run", "--server", address, "--certs", str(keys), "--data", str(data), "--state", str(state)]
    pipe = subprocess.PIPE
    return subprocess.Popen(
        [sys.executable, "-m", "edgefd_client", *command], stdout=pipe, stderr=pipe, text=True, env=WHERE
    )
