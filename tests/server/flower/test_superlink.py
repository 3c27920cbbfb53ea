"""The SuperLink: its access gate, its address, its keys and its app, without starting one."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("flwr")
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_ssh_private_key
from edgefd_server import certs
from edgefd_server.flower.superlink import APP, SuperLinkAddress, check_address
from edgefd_server.flower.superlink_process import START_RUN_PATH, SUPERNODE_PATHS, Gate

from edgefd.core.errors import UserError


def statuses(*calls: tuple[str, str, str]) -> list[int]:
    """Return the status of each call (source, target, path). A call that passes the gate has the status 200."""
    results: list[int] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200})

    async def send(message: Any) -> None:
        if message["type"] == "http.response.start":
            results.append(message["status"])

    async def receive() -> Any:
        return {}

    async def call_all() -> None:
        gate = Gate(app)
        for source, target, path in calls:
            scope = {"type": "http", "path": path, "client": (source, 5), "server": (target, 9)}
            await gate(scope, receive, send)

    asyncio.run(call_all())
    return results


@pytest.mark.parametrize("source", ["127.0.0.1", "::1", "::ffff:127.0.0.1", "192.0.2.1"])
def test_calls_other_than_those_of_supernodes_are_allowed_on_this_machine_only(source: str) -> None:
    target = "192.0.2.1"
    paths = [START_RUN_PATH, "/v1/control/register-node", "/v1/runtime/pull-messages", "/docs", "/health"]
    assert statuses(*((source, target, path) for path in paths)) == [200] * 5
    assert statuses(*(("192.0.2.9", target, path) for path in paths)) == [403] * 5


def test_supernodes_may_call_from_anywhere_once_a_run_is_submitted(monkeypatch: pytest.MonkeyPatch) -> None:
    supernode_call = ("192.0.2.9", "192.0.2.1", SUPERNODE_PATHS + "pull-messages")
    assert statuses(("127.0.0.1", "127.0.0.1", START_RUN_PATH), supernode_call) == [200, 200]
    monkeypatch.setattr("edgefd_server.flower.superlink_process._HOLD_SECONDS", 0.1)
    assert statuses(supernode_call) == [503]


@pytest.mark.parametrize(
    ("address", "message"),
    [
        (SuperLinkAddress("0.0.0.0:0", None), "refusing to listen on 0.0.0.0:0 without TLS"),
        (SuperLinkAddress("127.0.0.1:0", Path("nowhere")), "certs init"),
        (SuperLinkAddress("192.0.2.1:1", None, insecure=True), "cannot listen on 192.0.2.1:1"),
    ],
)
def test_an_address_on_which_it_cannot_listen_is_refused(address: SuperLinkAddress, message: str) -> None:
    with pytest.raises(UserError, match=message):
        check_address(address)


def test_port_0_is_replaced_by_a_free_port() -> None:
    address = check_address(SuperLinkAddress("0.0.0.0:0", None, insecure=True))
    assert int(address.address.rpartition(":")[2]) > 0
    assert address.local == address.address.replace("0.0.0.0", "127.0.0.1")


def test_the_key_of_a_supernode_belongs_to_a_client_of_the_allow_list(tmp_path: Path) -> None:
    folder = tmp_path / "c"
    certs.init(folder, ["localhost"], 2)
    out = certs.add_node(folder, "gateway", 3)
    assert {f.name for f in out.iterdir()} == {"node.key", "ca.pem"}
    assert (out / "node.key").stat().st_mode & 0o777 == 0o600
    key = load_ssh_private_key((out / "node.key").read_bytes(), None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    allowed = certs.AllowList(folder)
    (public,) = allowed.node_keys()
    assert allowed.client_of_key(public) == 3
    with pytest.raises(UserError, match="gateway is client 3 already: revoke it first"):
        certs.add_device(folder, "other", 3, 2)
    with pytest.raises(PermissionError, match="unknown"):
        allowed.client_of_key(b"another")
    certs.revoke(folder, "gateway")
    assert allowed.node_keys() == set()
    with pytest.raises(PermissionError, match="revoked"):
        allowed.client_of_key(public)


def test_the_flower_app_holds_no_code() -> None:
    assert [path.name for path in APP.iterdir()] == ["pyproject.toml"]
