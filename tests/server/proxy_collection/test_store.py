"""Raw samples that devices contribute for a proxy set, over real gRPC: accepted and refused samples, and restarts."""

import dataclasses
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
from edgefd_server.coordinator.round_coordinator import Refused
from edgefd_server.grpc_link.rate_limit import Rate
from edgefd_server.proxy_collection.serve import wanted_of
from edgefd_server.proxy_collection.store import PROXY, Collection, Offer, open_folder

from edgefd.config.load import parse_config
from edgefd.core.errors import RunError, UserError
from edgefd.data.build_federation import OWNERS
from edgefd.data.npz import read_npz
from edgefd.wire.device_link import PIECE
from tests.support.collecting import SHAPE, WANTED, collecting, contribute_request, contribute_samples, private_data
from tests.support.device_links import RawDevice, refusal
from tests.support.federations import ignore_event

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
    """Finish the collection, and return the arrays of its proxy set."""
    collection.wait(least, 0.0)
    return read_npz(collection.finish(), ("x", "contributors"))


def rows(x: np.ndarray) -> set[bytes]:
    """Return the bytes of each row."""
    return {row.tobytes() for row in x}


def test_two_devices_contribute_and_a_new_collector_continues(keys: Path, tmp_path: Path) -> None:
    messages: list[str] = []
    data, states = [private_data(tmp_path, i) for i in range(2)], [tmp_path / f"state{i}" for i in range(2)]
    devices = [keys / "devices" / f"device-{i}" for i in range(2)]
    with collecting(tmp_path / "c", keys) as first:
        contribute_samples(first.address, data[0], states[0], devices[0], say=messages.append)
        assert first.collection.contributors == {0: 10}
        assert first.lines == [{"event": "contribution", "client": 0, "samples": 10, "bytes": 640}]
    with collecting(tmp_path / "c", keys) as second:
        assert second.collection.contributors == {0: 10}
        contribute_samples(second.address, data[0], states[0], devices[0], say=messages.append)
        contribute_samples(second.address, data[1], states[1], devices[1], say=messages.append)
        assert second.metrics.registry.get_sample_value("edgefd_contributions") == 2
        proxy = proxy_of(second.collection)
    assert set(proxy) == {"x", "contributors"}  # neither labels nor owners of rows
    assert proxy["contributors"] == 2
    contributions = []
    for i in range(2):
        record, whole = load_contribution(states[i]), read_npz(data[i], ("x", "y"))
        assert record is not None
        assert np.bincount(whole["y"][record.rows]).tolist() == [5, 5]
        contributions.append(whole["x"][record.rows])
    assert rows(proxy["x"]) == rows(np.concatenate(contributions))
    assert len(proxy["x"]) == 20
    first_client = np.array([row.tobytes() in rows(contributions[0]) for row in proxy["x"]])
    assert 0 < np.count_nonzero(first_client[:10]) < 10  # the clients' rows are mixed
    assert "sending 10 of 40 RAW private samples, without labels, to the coordinator" in messages[0]
    assert messages[1::2] == [
        "the coordinator has them",
        "the coordinator had them already",
        "the coordinator has them",
    ]


def test_nothing_is_sent_without_yes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with collecting(tmp_path / "c") as collector:
        command = ["contribute", "--server", collector.address, "--data", str(private_data(tmp_path, 0))]
        command += ["--client", "0", "--state", str(tmp_path / "s"), "--fraction", "0.25"]
        main(command)
        printed = capsys.readouterr()
        assert printed.err == ""
        for part in (
            "10 of 40 RAW",
            collector.address,
            "every client",
            "they cannot be taken back",
            "nothing was sent",
            "--yes to send them",
        ):
            assert part in printed.out
        assert collector.metrics.registry.get_sample_value("edgefd_bytes_total", {"direction": "up"}) in (None, 0)
        assert not (tmp_path / "s").exists()
        main([*command, "--yes"])
        assert collector.collection.contributors == {0: 10}
        record = json.loads((tmp_path / "s" / RECORD).read_text())
        assert (len(record["rows"]), record["keep"]) == (10, False)


@pytest.mark.parametrize(("factor", "message"), [(10, "are from -49.* to 49.*, but the coordinator accepts -10 to 10")])
def test_samples_out_of_range_are_not_sent(tmp_path: Path, factor: float, message: str) -> None:
    data, state = private_data(tmp_path, 0), tmp_path / "s"
    x = np.load(data)["x"]
    np.savez(data, x=x * np.float32(factor), y=np.arange(40) % 2)
    with collecting(tmp_path / "c") as collector:
        with pytest.raises(UserError, match=message):
            contribute_samples(collector.address, data, state, client=0)
        assert collector.metrics.registry.get_sample_value("edgefd_bytes_total", {"direction": "up"}) < 1000
        np.savez(data, x=x.astype(np.uint8), y=np.arange(40) % 2)
        with pytest.raises(RunError, match=r"samples are float32 of shape .*, not uint8 of shape .*: convert them"):
            contribute_samples(collector.address, data, state, client=0)
        assert not (state / RECORD).exists()
        assert collector.collection.contributors == {}


def test_a_device_contributes_only_once(tmp_path: Path) -> None:
    data, state = private_data(tmp_path, 0), tmp_path / "s"
    with collecting(tmp_path / "c") as collector:
        contribute_samples(collector.address, data, state, client=0)
        for settings in ({"fraction": 0.5}, {"seed": 1}, {"keep": True}):
            with pytest.raises(UserError, match="has offered 10 other samples already"):
                contribute_samples(collector.address, data, state, client=0, **settings)
        with pytest.raises(RunError, match="client 0 has contributed 10 other samples already"):
            contribute_samples(collector.address, data, tmp_path / "elsewhere", client=0, seed=1)
        assert not (tmp_path / "elsewhere" / RECORD).exists()  # it was refused before a sample was sent
        assert collector.collection.contributors == {0: 10}


@pytest.mark.parametrize(
    ("settings", "message"),
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
def test_bad_options_are_one_error(tmp_path: Path, settings: dict[str, Any], message: str) -> None:
    defaults = {"data": private_data(tmp_path, 0), "client": 0}
    with pytest.raises(UserError, match=message):
        contribute_samples("127.0.0.1:1", state=tmp_path / "s", **(defaults | settings))


BAD_REQUESTS = [
    (
        "shape",
        contribute_request(X[..., :2]),
        Code.INVALID_ARGUMENT,
        "content",
        "samples are float32 of shape [1, 4, 4]",
    ),
    ("kind", contribute_request(X.astype(np.uint8)), Code.INVALID_ARGUMENT, "content", "not uint8"),
    ("NaN", contribute_request(X * np.float32(np.nan)), Code.INVALID_ARGUMENT, "content", "NaN or infinite"),
    ("far off", contribute_request(X * np.float32(9)), Code.INVALID_ARGUMENT, "content", "must be from -10 to 10"),
    (
        "too many",
        contribute_request(np.repeat(X, 4, 0)),
        Code.INVALID_ARGUMENT,
        "content",
        "may contribute 1 to 20 samples, not 24",
    ),
    ("none", contribute_request(X[:0]), Code.INVALID_ARGUMENT, "content", "not 0"),
    ("more than offered", contribute_request(X, rows=5), Code.INVALID_ARGUMENT, "content", "more than the 5 samples"),
    (
        "half a sample",
        contribute_request(X, samples=b"123"),
        Code.INVALID_ARGUMENT,
        "content",
        "3 bytes are not whole samples",
    ),
    (
        "other samples than offered",
        contribute_request(X, sha256=bytes(32)),
        Code.INVALID_ARGUMENT,
        "content",
        "another sha256",
    ),
    ("no sha256", contribute_request(X, sha256=b"1"), Code.INVALID_ARGUMENT, "content", "32 bytes, not 1"),
    ("version", contribute_request(X, protocol=1), Code.FAILED_PRECONDITION, "protocol", "speaks version 1"),
    (
        "another client",
        contribute_request(X, client=1),
        Code.PERMISSION_DENIED,
        "client",
        "the certificate is that of client 0",
    ),
    ("oversize", contribute_request(X, samples=bytes(PIECE + 8192)), Code.RESOURCE_EXHAUSTED, "size", "the limit is"),
]


@pytest.mark.parametrize(
    ("request_", "status", "reason", "line"),
    [case[1:] for case in BAD_REQUESTS],
    ids=[case[0] for case in BAD_REQUESTS],
)
def test_a_bad_request_is_refused_and_counted(
    keys: Path, tmp_path: Path, request_: Any, status: Code, reason: str, line: str
) -> None:
    with collecting(tmp_path, keys, most=20) as collector:
        device = RawDevice(collector.address, keys / "devices" / "device-0")
        answer = refusal(lambda: device.stub.ContributeProxy(request_, timeout=10))
        assert answer[:2] == (status, reason)
        assert line in answer[2]
        assert collector.refused("ContributeProxy", reason) == 1
        assert collector.collection.contributors == {}
        assert device.stub.ContributeProxy(contribute_request(X), timeout=10).have == len(X)  # a valid one is accepted


def test_without_certificates_a_device_must_name_its_client(tmp_path: Path) -> None:
    with collecting(tmp_path) as collector:
        device = RawDevice(collector.address)
        for client, line in ((None, "must say which client"), (2, "there is no client 2")):
            answer = refusal(lambda c=client: device.stub.ContributeProxy(contribute_request(X, client=c), timeout=10))
            assert answer[:2] == (Code.INVALID_ARGUMENT, "client")
            assert line in answer[2]
        broken = refusal(
            lambda: device.channel.unary_unary("/edgefd.v1.DeviceLink/ContributeProxy")(b"\xff\xff", timeout=10)
        )
        assert broken[:2] == (Code.INVALID_ARGUMENT, "malformed")


def test_devices_without_a_certificate_of_the_federation_are_refused(keys: Path, tmp_path: Path) -> None:
    certs.init(tmp_path / "foreign", ["127.0.0.1"], 10)
    foreign = certs.add_device(tmp_path / "foreign", "device-0", 0, 10)
    (foreign / "ca.pem").write_bytes((keys / "ca.pem").read_bytes())
    with collecting(tmp_path / "c", keys) as collector:
        for device in (RawDevice(collector.address), RawDevice(collector.address, foreign)):
            assert (
                refusal(lambda d=device: d.stub.ContributeProxy(contribute_request(X), timeout=10))[0]
                is Code.UNAVAILABLE
            )
        assert not collector.lines
        assert collector.collection.contributors == {}


def test_a_device_that_calls_too_often_is_refused(tmp_path: Path) -> None:
    with collecting(tmp_path, rate=Rate(per_second=5, burst=3), clock=lambda: 0.0) as collector:
        device = RawDevice(collector.address)
        empty = contribute_request(X[:0])
        reasons = [refusal(lambda: device.stub.ContributeProxy(empty, timeout=10))[1] for _ in range(6)]
        assert reasons == ["content"] * 3 + ["rate"] * 3
        assert device.stub.ContributeProxy(contribute_request(X, client=1), timeout=10).have == len(X)


def test_samples_come_in_pieces_and_begin_again_after_a_restart(tmp_path: Path) -> None:
    x = np.random.default_rng(0).uniform(-5, 5, (10_000, *SHAPE)).astype(np.float32)
    device = contribute_request(x, samples=b"")
    with collecting(tmp_path, most=20_000) as collector:
        stub = RawDevice(collector.address).stub
        assert stub.ContributeProxy(device, timeout=10).have == 0
        piece = contribute_request(x, samples=x[:4000].tobytes())
        assert stub.ContributeProxy(piece, timeout=10).have == 4000
        assert stub.ContributeProxy(piece, timeout=10).have == 4000  # its reply was lost
        assert stub.ContributeProxy(device, timeout=10).have == 4000
        ahead = contribute_request(x, offset=8000, samples=x[8000:].tobytes())
        assert stub.ContributeProxy(ahead, timeout=10).have == 4000
    with collecting(tmp_path, most=20_000) as collector:
        data = private_data(tmp_path, 0, x=np.tile(x, (2, 1, 1, 1)), y=np.zeros(20_000))
        contribute_samples(collector.address, data, tmp_path / "s", client=0, fraction=0.5)
        assert collector.collection.contributors == {0: 10_000}
        read = read_npz(tmp_path / "clients" / "000.npz", ("x",))["x"]
        record = load_contribution(tmp_path / "s")
        assert record is not None
        assert np.array_equal(read, read_npz(data, ("x",))["x"][record.rows])


def test_at_the_deadline_enough_clients_close_the_collection_and_too_few_end_it(tmp_path: Path) -> None:
    with collecting(tmp_path) as collector:
        device = RawDevice(collector.address)
        with pytest.raises(
            RunError, match=r"0 of 2 clients contributed within 0 s, 1 are needed: nothing of client 0, 1"
        ):
            collector.collection.wait(1, 0.0)
        device.stub.ContributeProxy(contribute_request(X), timeout=10)
        with pytest.raises(RunError, match="nothing of client 1"):
            collector.collection.wait(2, 0.0)
        collector.collection.wait(1, 0.0)
        late = refusal(lambda: device.stub.ContributeProxy(contribute_request(X, client=1), timeout=10))
        assert late[:2] == (Code.FAILED_PRECONDITION, "closed")
        assert device.stub.ContributeProxy(contribute_request(X), timeout=10).known
        assert proxy_of(collector.collection, 1)["contributors"] == 1


def test_without_a_deadline_the_collection_waits_for_all_clients(tmp_path: Path) -> None:
    with collecting(tmp_path) as collector:
        waiting = threading.Thread(target=lambda: collector.collection.wait(2, math.inf), daemon=True)
        waiting.start()
        device = RawDevice(collector.address)
        device.stub.ContributeProxy(contribute_request(X), timeout=10)
        assert waiting.is_alive()
        device.stub.ContributeProxy(contribute_request(X, client=1), timeout=10)
        waiting.join(20)
        assert not waiting.is_alive()


def test_a_restarted_collector_waits_for_clients_whose_answer_was_lost(tmp_path: Path) -> None:
    with collecting(tmp_path) as collector:
        for client in (0, 1):
            RawDevice(collector.address).stub.ContributeProxy(contribute_request(X, client=client), timeout=10)
        collector.collection.linger()  # both were answered, so it returns at once
    with collecting(tmp_path) as restarted:
        restarted.collection.wait(2, math.inf)
        waiting = threading.Thread(target=restarted.collection.linger, daemon=True)
        waiting.start()
        for client in (0, 1):
            assert waiting.is_alive()
            assert (
                RawDevice(restarted.address)
                .stub.ContributeProxy(contribute_request(X, client=client), timeout=10)
                .known
            )
        waiting.join(20)
        assert not waiting.is_alive()


def test_a_full_disk_ends_the_collection_and_the_device_can_try_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(handle: int) -> None:
        raise OSError(28, "No space left on device")

    with collecting(tmp_path) as collector:
        device = RawDevice(collector.address)
        with monkeypatch.context() as patched:
            patched.setattr("edgefd.core.files.os.fsync", full)
            answer = refusal(lambda: device.stub.ContributeProxy(contribute_request(X), timeout=10))
            assert answer[:2] == (Code.UNAVAILABLE, "early")
        with pytest.raises(RunError, match=r"cannot write .*000\.npz: No space left"):
            collector.collection.wait(2, math.inf)
    with collecting(tmp_path) as collector:
        assert collector.collection.contributors == {}
        assert RawDevice(collector.address).stub.ContributeProxy(contribute_request(X), timeout=10).have == len(X)


def test_the_seed_determines_the_order_of_the_proxy_set_and_arrival_does_not(tmp_path: Path) -> None:
    proxy_sets = []
    for name, order in (("a", (0, 1)), ("b", (1, 0))):
        (tmp_path / name).mkdir()
        collection = Collection(tmp_path / name, WANTED, 100, ignore_event)
        for client in order:
            request = contribute_request(X + client, client=client)
            offer = Offer(request.rows, request.dtype, tuple(request.shape), request.sha256)
            assert collection.take(client, offer, 0, request.samples) == (len(X), False)
        proxy_sets.append(collection.finish().read_bytes())
        x, owner = (
            read_npz(tmp_path / name / file, (key,))[key] for file, key in (("proxy.npz", "x"), (OWNERS, "owner"))
        )
        for client in (0, 1):
            assert rows(x[owner == client]) == rows(X + client)
    assert proxy_sets[0] == proxy_sets[1]


IMAGES = ("1,28,28", "uint8")


def test_a_folder_belongs_to_one_config(tmp_path: Path) -> None:
    open_folder(tmp_path, WANTED)
    open_folder(tmp_path, WANTED)
    other = parse_config({"data": {"name": "mnist_mini"}, "partition": {"name": "iid", "n_clients": 3}})
    with pytest.raises(UserError, match="collects for another config"):
        open_folder(tmp_path, wanted_of(other, None, *IMAGES))
    wanted = wanted_of(other, None, *IMAGES)
    assert (wanted.n_clients, wanted.dtype, wanted.shape) == (3, "uint8", (1, 28, 28))
    for section, message in (
        ({"method": {"name": "fkd"}}, "no proxy set"),
        ({"data": {"name": "cifar10", "extractor": "efficientnet_lite0"}}, "devices contribute raw samples"),
    ):
        with pytest.raises(UserError, match=message):
            wanted_of(parse_config(section), 3, *IMAGES)
    assert PROXY not in {path.name for path in tmp_path.iterdir()}


def test_an_offer_that_would_use_up_the_memory_of_the_collector_is_refused(tmp_path: Path) -> None:
    """Incomplete contributions are kept in memory, and 10,000 large images are gigabytes."""
    wanted = dataclasses.replace(WANTED, shape=(3, 1000, 1000))
    collection = Collection(tmp_path, wanted, 10_000, ignore_event)
    with pytest.raises(Refused, match="may contribute 1 to 22 samples, not 10000"):
        collection.take(0, Offer(10_000, wanted.dtype, wanted.shape, bytes(32)), 0, b"")
    assert collection.take(0, Offer(22, wanted.dtype, wanted.shape, bytes(32)), 0, b"") == (0, False)
