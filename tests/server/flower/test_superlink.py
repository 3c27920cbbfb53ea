"""What a SuperLink of ours refuses, without starting one."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("flwr")
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_ssh_private_key
from edgefd_server import certs
from edgefd_server.flower.superlink import APP, SuperLinkAddress, checked
from edgefd_server.flower.superlink_process import BEGIN, OPEN, Gate

from edgefd.core.errors import UserError


def answered(*calls: tuple[str, str, str]) -> list[int]:
    """Statuses of calls: from, to, path. What passes is answered 200."""
    found: list[int] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200})

    async def send(message: Any) -> None:
        if message["type"] == "http.response.start":
            found.append(message["status"])

    async def receive() -> Any:
        return {}

    async def act() -> None:
        gate = Gate(app)
        for source, target, path in calls:
            scope = {"type": "http", "path": path, "client": (source, 5), "server": (target, 9)}
            await gate(scope, receive, send)

    asyncio.run(act())
    return found


@pytest.mark.parametrize("source", ["127.0.0.1", "::1", "::ffff:127.0.0.1", "192.0.2.1"])
def test_what_is_not_for_supernodes_is_answered_here_only(source: str) -> None:
    there = "192.0.2.1"
    paths = [BEGIN, "/v1/control/register-node", "/v1/runtime/pull-messages", "/docs", "/health"]
    assert answered(*((source, there, path) for path in paths)) == [200] * 5
    assert answered(*(("192.0.2.9", there, path) for path in paths)) == [403] * 5


def test_supernodes_may_call_from_anywhere_once_a_run_is_submitted(monkeypatch: pytest.MonkeyPatch) -> None:
    fleet = ("192.0.2.9", "192.0.2.1", OPEN + "pull-messages")
    assert answered(("127.0.0.1", "127.0.0.1", BEGIN), fleet) == [200, 200]
    monkeypatch.setattr("edgefd_server.flower.superlink_process._HOLD", 0.1)
    assert answered(fleet) == [503]


@pytest.mark.parametrize(
    ("fleet", "says"),
    [
        (SuperLinkAddress("nonsense", None), "must be HOST:PORT"),
        (SuperLinkAddress("127.0.0.1:99999", None), "must be HOST:PORT"),
        (SuperLinkAddress("0.0.0.0:0", None), "--insecure to have it so"),
        (SuperLinkAddress("127.0.0.1:0", Path("nowhere")), "certs init"),
        (SuperLinkAddress("192.0.2.1:1", None, insecure=True), "cannot listen on 192.0.2.1:1"),
    ],
)
def test_where_it_cannot_listen_is_said(fleet: SuperLinkAddress, says: str) -> None:
    with pytest.raises(UserError, match=says):
        checked(fleet)


def test_port_0_is_a_free_one() -> None:
    found = checked(SuperLinkAddress("0.0.0.0:0", None, insecure=True))
    assert int(found.address.rpartition(":")[2]) > 0
    assert found.near == found.address.replace("0.0.0.0", "127.0.0.1")


def test_a_supernodes_key_is_a_client_of_the_allow_list(tmp_path: Path) -> None:
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


def test_the_app_is_only_a_description() -> None:
    assert [path.name for path in APP.iterdir()] == ["pyproject.toml"]
