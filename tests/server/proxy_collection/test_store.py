"""Raw samples that devices contribute for a proxy set, over real gRPC: what is taken, what is refused, what lasts."""

import json
import math
import threading
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from edgefd_client.cli import main
from edgefd_client.contribution import RECORD, load_contribution
from edgefd_server import certs
from edgefd_server.grpc_link.rate_limit import Rate
from edgefd_server.proxy_collection.serve import wanted_of
from edgefd_server.proxy_collection.store import PROXY, Collection, Offer, open_folder

from edgefd.config.load import parse_config
from edgefd.core.errors import RunError, UserError
from edgefd.data.npz import read_npz
from edgefd.wire.device_link import PIECE
from tests.support.collecting import SHAPE, WANTED, collecting, gives, offer, private
from tests.support.device_links import Raw, refusal, unlogged

Code = grpc.StatusCode
X = np.random.default_rng(9).uniform(-5, 5, (6, *SHAPE)).astype(np.float32)


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("keys") / "certs"
    certs.init(folder, ["127.0.0.1"], 10)
    for i in range(2):
        certs.add_device(folder, f"device-{i}", i, 10)
    return folder


def proxy_of(collection: Collection, least: int = 2) -> dict[str, np.ndarray]:
    collection.wait(least, 0.0)
    return read_npz(collection.finish(), ("x", "contributors"))


def rows(x: np.ndarray) -> set[bytes]:
    return {row.tobytes() for row in x}


def test_two_devices_contribute_and_a_new_collector_goes_on(keys: Path, tmp_path: Path) -> None:
    said: list[str] = []
    data, states = [private(tmp_path, i) for i in range(2)], [tmp_path / f"state{i}" for i in range(2)]
    devices = [keys / "devices" / f"device-{i}" for i in range(2)]
    with collecting(tmp_path / "c", keys) as first:
        gives(first.address, data[0], states[0], devices[0], say=said.append)
        assert first.collection.contributors == {0: 10}
        assert first.lines == [{"event": "contribution", "client": 0, "samples": 10, "bytes": 640}]
    with collecting(tmp_path / "c", keys) as second:
        assert second.collection.contributors == {0: 10}
        gives(second.address, data[0], states[0], devices[0], say=said.append)
        gives(second.address, data[1], states[1], devices[1], say=said.append)
        assert second.metrics.registry.get_sample_value("edgefd_contributions") == 2
        found = proxy_of(second.collection)
    assert set(found) == {"x", "contributors"}  # no label, nothing that says whose a row is
    assert found["contributors"] == 2
    given = []
    for i in range(2):
        record, whole = load_contribution(states[i]), read_npz(data[i], ("x", "y"))
        assert record is not None
        assert np.bincount(whole["y"][record.rows]).tolist() == [5, 5]
        given.append(whole["x"][record.rows])
    assert rows(found["x"]) == rows(np.concatenate(given))
    assert len(found["x"]) == 20
    mine = np.array([row.tobytes() in rows(given[0]) for row in found["x"]])
    assert 0 < np.count_nonzero(mine[:10]) < 10  # they are mixed
    assert "sending 10 of 40 RAW private samples, without labels, to the coordinator" in said[0]
    assert said[1::2] == ["the coordinator has them", "the coordinator had them already", "the coordinator has them"]


def test_nothing_is_sent_without_yes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with collecting(tmp_path / "c") as there:
        command = ["contribute", "--server", there.address, "--data", str(private(tmp_path, 0)), "--client", "0"]
        command += ["--state", str(tmp_path / "s"), "--fraction", "0.25"]
        with pytest.raises(SystemExit) as stop:
            main(command)
        assert stop.value.code == 2
        err = capsys.readouterr().err
        assert err.count("\n") == 1
        for says in ("10 of 40 RAW", there.address, "every client", "they cannot be taken back", "--yes to send them"):
            assert says in err
        assert there.metrics.registry.get_sample_value("edgefd_bytes_total", {"direction": "up"}) in (None, 0)
        assert not (tmp_path / "s").exists()
        main([*command, "--yes"])
        assert there.collection.contributors == {0: 10}
        record = json.loads((tmp_path / "s" / RECORD).read_text())
        assert (len(record["rows"]), record["keep"]) == (10, False)


def test_a_device_gives_its_samples_once(tmp_path: Path) -> None:
    data, state = private(tmp_path, 0), tmp_path / "s"
    with collecting(tmp_path / "c") as there:
        gives(there.address, data, state, client=0)
        for changed in ({"fraction": 0.5}, {"seed": 1}, {"keep": True}):
            with pytest.raises(UserError, match="has offered 10 other samples already"):
                gives(there.address, data, state, client=0, **changed)
        with pytest.raises(RunError, match="client 0 has contributed 10 other samples already"):
            gives(there.address, data, tmp_path / "elsewhere", client=0, seed=1)
        assert not (tmp_path / "elsewhere" / RECORD).exists()  # it was refused before a sample left
        assert there.collection.contributors == {0: 10}


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"fraction": 1.0}, "--fraction is the share"),
        ({"fraction": 0.98}, "would leave 0 private ones"),
        ({"seed": -1}, "--seed must be 0 or more"),
        ({"client": None}, "--client must be given"),
        ({"client": -1}, "--client must be 0, 1"),
        ({"give_up": 0}, "--give-up"),
        ({"data": Path("x.csv")}, "from an .npz"),
    ],
)
def test_what_cannot_be_given(tmp_path: Path, settings: dict[str, Any], says: str) -> None:
    usual = {"data": private(tmp_path, 0), "client": 0}
    with pytest.raises(UserError, match=says):
        gives("127.0.0.1:1", state=tmp_path / "s", **(usual | settings))


BAD = [
    ("shape", offer(X[..., :2]), Code.INVALID_ARGUMENT, "content", "samples are float32 of shape [1, 4, 4]"),
    ("kind", offer(X.astype(np.uint8)), Code.INVALID_ARGUMENT, "content", "not uint8"),
    ("NaN", offer(X * np.float32(np.nan)), Code.INVALID_ARGUMENT, "content", "NaN or infinite"),
    ("far off", offer(X * np.float32(9)), Code.INVALID_ARGUMENT, "content", "must be from -10 to 10"),
    ("too many", offer(np.repeat(X, 4, 0)), Code.INVALID_ARGUMENT, "content", "may contribute 1 to 20 samples, not 24"),
    ("none", offer(X[:0]), Code.INVALID_ARGUMENT, "content", "not 0"),
    ("more than offered", offer(X, rows=5), Code.INVALID_ARGUMENT, "content", "more than the 5 samples"),
    ("half a sample", offer(X, samples=b"123"), Code.INVALID_ARGUMENT, "content", "3 bytes are not whole samples"),
    ("others than offered", offer(X, sha256=bytes(32)), Code.INVALID_ARGUMENT, "content", "another sha256"),
    ("no sha256", offer(X, sha256=b"1"), Code.INVALID_ARGUMENT, "content", "32 bytes, not 1"),
    ("version", offer(X, protocol=2), Code.FAILED_PRECONDITION, "protocol", "speaks version 2"),
    ("somebody else", offer(X, client=1), Code.PERMISSION_DENIED, "client", "the certificate is that of client 0"),
    ("oversize", offer(X, samples=bytes(PIECE + 8192)), Code.RESOURCE_EXHAUSTED, "size", "at most"),
]


@pytest.mark.parametrize(("request_", "status", "reason", "line"), [b[1:] for b in BAD], ids=[b[0] for b in BAD])
def test_what_is_not_wanted_is_refused_and_counted(
    keys: Path, tmp_path: Path, request_: Any, status: Code, reason: str, line: str
) -> None:
    with collecting(tmp_path, keys, most=20) as there:
        device = Raw(there.address, keys / "devices" / "device-0")
        found = refusal(lambda: device.stub.ContributeProxy(request_, timeout=10))
        assert found[:2] == (status, reason)
        assert line in found[2]
        assert there.refused("ContributeProxy", reason) == 1
        assert there.collection.contributors == {}
        assert device.stub.ContributeProxy(offer(X), timeout=10).have == len(X)  # a good one is taken


def test_without_certificates_a_device_must_say_who_it_is(tmp_path: Path) -> None:
    with collecting(tmp_path) as there:
        device = Raw(there.address)
        for client, line in ((None, "must say which client"), (2, "there is no client 2")):
            found = refusal(lambda c=client: device.stub.ContributeProxy(offer(X, client=c), timeout=10))
            assert found[:2] == (Code.INVALID_ARGUMENT, "client")
            assert line in found[2]
        broken = refusal(
            lambda: device.channel.unary_unary("/edgefd.v1.DeviceLink/ContributeProxy")(b"\xff\xff", timeout=10)
        )
        assert broken[:2] == (Code.INVALID_ARGUMENT, "malformed")


def test_strangers_get_nowhere(keys: Path, tmp_path: Path) -> None:
    certs.init(tmp_path / "foreign", ["127.0.0.1"], 10)
    foreign = certs.add_device(tmp_path / "foreign", "device-0", 0, 10)
    (foreign / "ca.pem").write_bytes((keys / "ca.pem").read_bytes())
    with collecting(tmp_path / "c", keys) as there:
        for device in (Raw(there.address), Raw(there.address, foreign)):
            assert refusal(lambda d=device: d.stub.ContributeProxy(offer(X), timeout=10))[0] is Code.UNAVAILABLE
        assert not there.lines
        assert there.collection.contributors == {}


def test_who_calls_too_often_must_wait(tmp_path: Path) -> None:
    with collecting(tmp_path, rate=Rate(5, 3)) as there:
        device = Raw(there.address)
        calls = [refusal(lambda: device.stub.ContributeProxy(offer(X[:0]), timeout=10))[1] for _ in range(6)]
        assert calls == ["content"] * 3 + ["rate"] * 3
        assert device.stub.ContributeProxy(offer(X, client=1), timeout=10).have == len(X)


def test_samples_come_in_pieces_and_begin_again_after_a_restart(tmp_path: Path) -> None:
    x = np.random.default_rng(0).uniform(-5, 5, (10_000, *SHAPE)).astype(np.float32)
    device = offer(x, samples=b"")
    with collecting(tmp_path, most=20_000) as there:
        stub = Raw(there.address).stub
        assert stub.ContributeProxy(device, timeout=10).have == 0
        piece = offer(x, samples=x[:4000].tobytes())
        assert stub.ContributeProxy(piece, timeout=10).have == 4000
        assert stub.ContributeProxy(piece, timeout=10).have == 4000  # its reply was lost
        assert stub.ContributeProxy(device, timeout=10).have == 4000
        ahead = offer(x, offset=8000, samples=x[8000:].tobytes())
        assert stub.ContributeProxy(ahead, timeout=10).have == 4000
    with collecting(tmp_path, most=20_000) as there:
        data = private(tmp_path, 0, x=np.tile(x, (2, 1, 1, 1)), y=np.zeros(20_000))
        gives(there.address, data, tmp_path / "s", client=0, fraction=0.5)
        assert there.collection.contributors == {0: 10_000}
        read = read_npz(tmp_path / "clients" / "000.npz", ("x",))["x"]
        record = load_contribution(tmp_path / "s")
        assert record is not None
        assert np.array_equal(read, read_npz(data, ("x",))["x"][record.rows])


def test_a_deadline_with_enough_and_with_too_few(tmp_path: Path) -> None:
    with collecting(tmp_path) as there:
        device = Raw(there.address)
        with pytest.raises(
            RunError, match=r"0 of 2 clients contributed within 0 s, 1 are needed: nothing of client 0, 1"
        ):
            there.collection.wait(1, 0.0)
        device.stub.ContributeProxy(offer(X), timeout=10)
        with pytest.raises(RunError, match="nothing of client 1"):
            there.collection.wait(2, 0.0)
        there.collection.wait(1, 0.0)
        late = refusal(lambda: device.stub.ContributeProxy(offer(X, client=1), timeout=10))
        assert late[:2] == (Code.FAILED_PRECONDITION, "closed")
        assert device.stub.ContributeProxy(offer(X), timeout=10).known
        assert proxy_of(there.collection, 1)["contributors"] == 1


def test_all_are_waited_for(tmp_path: Path) -> None:
    with collecting(tmp_path) as there:
        waiting = threading.Thread(target=lambda: there.collection.wait(2, math.inf), daemon=True)
        waiting.start()
        device = Raw(there.address)
        device.stub.ContributeProxy(offer(X), timeout=10)
        assert waiting.is_alive()
        device.stub.ContributeProxy(offer(X, client=1), timeout=10)
        waiting.join(10)
        assert not waiting.is_alive()


def test_a_collector_that_was_killed_waits_for_who_was_not_answered(tmp_path: Path) -> None:
    with collecting(tmp_path) as there:
        for client in (0, 1):
            Raw(there.address).stub.ContributeProxy(offer(X, client=client), timeout=10)
        there.collection.linger()  # both were answered: at once
    with collecting(tmp_path) as again:
        again.collection.wait(2, math.inf)
        waiting = threading.Thread(target=again.collection.linger, daemon=True)
        waiting.start()
        for client in (0, 1):
            assert waiting.is_alive()
            assert Raw(again.address).stub.ContributeProxy(offer(X, client=client), timeout=10).known
        waiting.join(5)
        assert not waiting.is_alive()


def test_a_full_disk_ends_it_and_the_device_comes_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(handle: int) -> None:
        raise OSError(28, "No space left on device")

    with collecting(tmp_path) as there:
        device = Raw(there.address)
        with monkeypatch.context() as patched:
            patched.setattr("edgefd.core.files.os.fsync", full)
            found = refusal(lambda: device.stub.ContributeProxy(offer(X), timeout=10))
            assert found[:2] == (Code.UNAVAILABLE, "early")
        with pytest.raises(RunError, match=r"cannot write .*000\.npz: No space left"):
            there.collection.wait(2, math.inf)
    with collecting(tmp_path) as there:
        assert there.collection.contributors == {}
        assert Raw(there.address).stub.ContributeProxy(offer(X), timeout=10).have == len(X)


def test_the_order_is_the_seeds_and_not_the_arrivals(tmp_path: Path) -> None:
    found = []
    for name, order in (("a", (0, 1)), ("b", (1, 0))):
        (tmp_path / name).mkdir()
        collection = Collection(tmp_path / name, WANTED, 100, unlogged)
        for client in order:
            request = offer(X + client, client=client)
            what = Offer(request.rows, request.dtype, tuple(request.shape), request.sha256)
            assert collection.take(client, what, 0, request.samples) == (len(X), False)
        found.append((collection.finish()).read_bytes())
    assert found[0] == found[1]


def test_a_folder_is_of_one_config(tmp_path: Path) -> None:
    open_folder(tmp_path, WANTED)
    open_folder(tmp_path, WANTED)
    other = parse_config({"data": {"name": "mnist_mini"}, "partition": {"name": "iid", "n_clients": 3}})
    with pytest.raises(UserError, match="collects for another config"):
        open_folder(tmp_path, wanted_of(other))
    wanted = wanted_of(other)
    assert (wanted.n_clients, wanted.dtype, wanted.shape) == (3, "uint8", (1, 28, 28))
    for section, says in (
        ({"method": {"name": "indlearn"}}, "no proxy set"),
        ({"data": {"name": "cifar10", "extractor": "efficientnet_lite0"}}, "devices contribute raw samples"),
    ):
        with pytest.raises(UserError, match=says):
            wanted_of(parse_config(section))
    assert PROXY not in {path.name for path in tmp_path.iterdir()}
