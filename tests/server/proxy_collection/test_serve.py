"""`edgefd collect`, the export of its proxy set, and a run of the devices that contributed, as users run them."""

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
from edgefd_server.proxy_collection.serve import Collecting, collect, wanted_of
from edgefd_server.proxy_collection.store import PROXY, Collection
from typer.testing import CliRunner

from edgefd.cli.main import app
from edgefd.config.load import parse_config
from edgefd.config.schema import Config
from edgefd.core.errors import Stopped, UserError
from edgefd.core.files import put
from edgefd.core.npz import npz_bytes
from edgefd.data.npz import read_npz
from edgefd.federation.clients import Scale
from edgefd.runs.export_bundle import export_config
from edgefd.runs.prepare import prepare
from edgefd.simulation.client_files import export_client_data
from tests.support.device_links import open_device_link
from tests.support.federations import ExportedFederation, coordinate, small
from tests.support.fork_server import environment
from tests.support.waiting import until

ENV = environment("proto", "server", "client")


def with_proxy(config: Config, **proxy: object) -> Config:
    return parse_config(config.to_dict() | {"proxy": proxy})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--least", "1"], "--least goes with it"),
        (["--deadline", "0"], "--deadline must be above 0"),
        (["--deadline", "1", "--least", "11"], "--least must be from 1 to 10"),
        (["method.name=fkd", "baselines=[]"], "no proxy set"),
        (["--certs", "nowhere"], "certs init"),
        (["--clients", "3"], "--clients is 3, but partition.n_clients is 10"),
        (["partition.name=by_group"], "partition by_group does not say how many clients there are: give --clients N"),
        (["--shape", "1,x"], "--shape must be sizes such as 1,28,28, not '1,x'"),
        (["--dtype", "int8"], "--dtype must be uint8 or float32, not 'int8'"),
        (["--dtype", "float32", "--low", "0"], "--dtype float32 needs --low and --high"),
        (["--low", "300"], "--low must be below --high, not 300 and 255"),
        (["--listen", "192.0.2.1:1", "--insecure"], "cannot listen on 192.0.2.1:1"),
    ],
)
def test_bad_input_is_one_error_and_leaves_no_folder(tmp_path: Path, options: list[str], message: str) -> None:
    config = tmp_path / "c.yaml"
    config.write_text("data: {name: mnist_mini, limit: 600}\n")
    command = ["collect", str(config), "--listen", "127.0.0.1:0", "--out", str(tmp_path / "out")]
    command += ["--shape", "1,28,28", "--dtype", "uint8", *options]
    result = CliRunner().invoke(app, command)
    assert isinstance(result.exception, UserError)
    assert message in str(result.exception)
    assert not (tmp_path / "out").exists()


def test_a_stopped_collection_says_how_to_continue_and_a_finished_one_ends_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    wanted = wanted_of(small(n_clients=2), None, "1,28,28", "uint8")
    options = Collecting(ListenAddress("127.0.0.1:0", None))

    def stopped(collection: Collection, least: int, deadline: float) -> None:
        assert (least, deadline) == (2, math.inf)
        raise KeyboardInterrupt

    monkeypatch.setattr(Collection, "wait", stopped)
    with pytest.raises(Stopped, match=r"^0 of 2 clients have contributed$"):
        collect(wanted, options, tmp_path)
    assert not list(tmp_path.iterdir())
    put(tmp_path / "clients" / "001.npz", npz_bytes({"x": np.zeros((5, 1, 28, 28), np.uint8)}))
    with pytest.raises(
        Stopped, match=r"1 of 2 clients have contributed; their samples are in .*: run the same command to continue"
    ):
        collect(wanted, options, tmp_path)
    warning = "connections are unencrypted and unauthenticated (no --certs): raw samples are sent in plaintext"
    assert warning in caplog.text
    assert (tmp_path / "clients").stat().st_mode & 0o077 == 0
    np.savez(tmp_path / PROXY, x=np.zeros((5, 1, 28, 28), np.uint8), contributors=2)
    collected = collect(wanted, options, tmp_path)  # it waits for no client
    assert (collected.samples, collected.clients) == (5, 2)


def collector(folder: Path, port: str = "0") -> tuple[subprocess.Popen[str], str]:
    """Start `edgefd collect`, and return the process and its port."""
    command = [sys.executable, "-m", "edgefd", "collect", str(folder / "config.yaml"), "--listen", f"127.0.0.1:{port}"]
    command += ["--certs", str(folder / "certs"), "--out", str(folder / "collected")]
    command += ["--shape", "1,28,28", "--dtype", "uint8"]
    with (folder / "collect.log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, text=True, env=ENV)

    def listens() -> str:
        output = (folder / "collect.log").read_text()
        assert process.poll() is None, output
        match = re.search(r"on port (\d+)", output)
        return match[1] if match else ""

    return process, until(listens)


@pytest.mark.slow
def test_contributed_samples_become_the_proxy_set_of_a_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plain = with_proxy(small(n_clients=2, rounds=1), source="public")  # no client has contributed any sample yet
    data = export_client_data(prepare(plain), tmp_path / "data")
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(with_proxy(plain, source="contributed").to_dict()))
    certs.init(tmp_path / "certs", ["127.0.0.1"], 365)
    keys = [certs.add_device(tmp_path / "certs", f"device-{i}", i, 365) for i in range(2)]

    def contribute(i: int, port: str) -> str:
        command = ["contribute", "--server", f"127.0.0.1:{port}", "--certs", str(keys[i]), "--data", str(data[i])]
        main([*command, "--state", str(tmp_path / f"state{i}"), "--fraction", "0.1", "--give-up", "60", "--yes"])
        return capsys.readouterr().out

    first, port = collector(tmp_path)
    assert "the coordinator has them" in contribute(0, port)
    os.kill(first.pid, signal.SIGKILL)
    first.wait(10)
    second, port = collector(tmp_path)
    assert "the coordinator had them already" in contribute(0, port)
    assert "the coordinator has them" in contribute(1, port)
    assert second.wait(60) == 0
    contributions = [load_contribution(tmp_path / f"state{i}") for i in range(2)]
    sent = sum(len(c.rows) for c in contributions if c is not None)
    output = (tmp_path / "collect.log").read_text()
    assert "1 of them contributed already" in output
    assert f"{sent} raw private samples of 2 clients are in " in output

    config = with_proxy(plain, source="contributed", path=str(tmp_path / "collected" / "proxy.npz"))
    federation = ExportedFederation(prepare(config), tmp_path / "bundle", tuple(data))
    assert federation.prepared.federation.raw_samples_disclosed == len(federation.prepared.federation.proxy) == sent
    export_config(config, None, federation.bundle)
    with open_device_link(federation, tmp_path / "certs") as link:
        devices = [device(link.address, keys[i], data[i], tmp_path / f"state{i}") for i in range(2)]
        try:
            assert len(coordinate(federation, link.coordinator)) == 2
            outputs = [d.communicate(timeout=60) for d in devices]
        finally:
            for d in devices:
                d.kill()
    for i, (out, err) in enumerate(outputs):
        record, whole = contributions[i], read_npz(data[i], ("x",))["x"]
        assert record is not None
        assert (devices[i].returncode, err) == (0, "")
        assert f"{len(record.rows)} rows of the proxy set are its own" in out
        assert f"client {i}: {len(whole) - len(record.rows)} samples" in out
        saved = load_state(tmp_path / f"state{i}", federation.read().digest)
        ids, _ = contributed_proxy_rows(
            Scale(*federation.read().manifest.scale)(whole[record.rows]), federation.read().proxy
        )
        assert saved is not None
        assert (saved.acceptance[ids] == 1).all()  # own rows are in-distribution with full weight
        assert (saved.acceptance[np.setdiff1d(np.arange(sent), ids)] < 1).all()


def device(address: str, keys: Path, data: Path, state: Path) -> subprocess.Popen[str]:
    """Start `edgefd-client run`."""
    command = ["run", "--server", address, "--certs", str(keys), "--data", str(data), "--state", str(state)]
    pipe = subprocess.PIPE
    return subprocess.Popen(
        [sys.executable, "-m", "edgefd_client", *command], stdout=pipe, stderr=pipe, text=True, env=ENV
    )
