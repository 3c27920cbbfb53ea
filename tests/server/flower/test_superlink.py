"""The SuperLink: its access gate, its address, its keys and its app, without starting one."""

import asyncio
import http.client
import socket
import subprocess
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("flwr")
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_ssh_private_key
from edgefd_server import certs
from edgefd_server.flower.superlink import APP, TOKEN_HEADER, SuperLinkAddress, check_address, run_superlink
from edgefd_server.flower.superlink_process import START_RUN_PATH, SUPERNODE_PATHS, Gate

from edgefd.core.errors import UserError
from edgefd.core.processes import alive
from tests.support.floods import idle_connections

TOKEN = "right-token"
OWN = {"host": "127.0.0.1:9092", TOKEN_HEADER: TOKEN}
"""headers of a call of the command"""


def statuses(*calls: tuple[str, str, str], headers: dict[str, str] = OWN, scheme: str = "http") -> list[int]:
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
        gate = Gate(app, TOKEN, "fleet.example.org")
        raw = [(name.encode(), value.encode()) for name, value in headers.items()]
        for source, target, path in calls:
            scope = {"type": "http", "path": path, "client": (source, 5), "server": (target, 9)}
            await gate(scope | {"headers": raw, "scheme": scheme}, receive, send)

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


LOCAL_CALLS = [
    ("127.0.0.1", "127.0.0.1", path) for path in (START_RUN_PATH, SUPERNODE_PATHS + "x", "/v1/runtime/x", "/docs")
]


@pytest.mark.parametrize(
    "of_a_page",
    [
        {"host": "evil.example:9092"},  # its name resolves to this machine
        {"origin": "http://evil.example"},
        {"origin": "null"},
        {"origin": "http://127.0.0.1:9092"},
        {"sec-fetch-site": "cross-site"},
        {"host": ""},
    ],
)
def test_a_web_page_may_make_no_call(of_a_page: dict[str, str]) -> None:
    assert statuses(*LOCAL_CALLS, headers=OWN | of_a_page) == [403] * len(LOCAL_CALLS)


@pytest.mark.parametrize("token", [{}, {TOKEN_HEADER: ""}, {TOKEN_HEADER: "wrong"}, {TOKEN_HEADER: "\xff"}])
def test_control_calls_need_the_token(token: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    headers = {"host": "localhost:9092"} | token
    local = [("127.0.0.1", "127.0.0.1", path) for path in (START_RUN_PATH, "/v1/control/register-node", "/docs")]
    assert statuses(*local, headers=headers) == [403] * 3
    without = [("127.0.0.1", "127.0.0.1", path) for path in ("/v1/runtime/acquire-task", "/health")]
    assert statuses(*without, headers=headers) == [200] * 2  # Flower itself checks the signature of the first one


def test_a_supernode_on_this_machine_may_use_the_name_of_the_certificate() -> None:
    call = ("127.0.0.1", "127.0.0.1", "/v1/runtime/x")
    assert statuses(call, headers={"host": "gateway.example.org"}, scheme="https") == [200]
    assert statuses(call, headers={"host": "fleet.example.org:9092"}) == [200]  # --superlink fleet.example.org:9092


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


def post(port: int, path: str, headers: dict[str, str], body: bytes = b"") -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    try:
        connection.request("POST", path, body, headers)
        reply = connection.getresponse()
        return reply.status, reply.read()
    finally:
        connection.close()


@pytest.mark.slow
def test_a_real_superlink_refuses_web_pages_and_other_users(tmp_path: Path) -> None:
    """Runs the attack: a page whose name resolves to this machine submits a run, which is code."""
    from flwr.proto.control_pb2 import ListNodesRequest
    from flwr.proto.runtime_pb2 import AcquireTaskRequest

    address, family = check_address(SuperLinkAddress("127.0.0.1:0", None)), set[int]()
    port = int(address.address.rpartition(":")[2])
    with run_superlink(address, tmp_path, family) as link:
        kind, list_nodes = {"content-type": "application/protobuf"}, ListNodesRequest().SerializeToString()
        page = {"host": f"evil.example:{port}", "origin": f"http://evil.example:{port}"}
        for headers in (kind | page, kind, kind | {TOKEN_HEADER: "wrong"}):
            for path in (START_RUN_PATH, "/v1/control/list-nodes", "/v1/control/register-node"):
                assert post(port, path, headers, list_nodes)[0] == 403
        assert post(port, "/v1/fleet/register-node", kind | page)[0] == 403
        assert post(port, "/v1/control/list-nodes", kind | {TOKEN_HEADER: link.token}, list_nodes)[0] == 200
        status, _ = post(port, "/v1/runtime/acquire-task", kind, AcquireTaskRequest().SerializeToString())
        assert status in (401, 403)  # another user must not get the task of the ServerApp
        secret = tmp_path / "home" / "superexec.secret"
        assert secret.stat().st_mode & 0o777 == 0o600
        listed = subprocess.run(["ps", "-A", "-ww", "-o", "args="], capture_output=True, text=True, check=True).stdout
        assert link.token not in listed
        with idle_connections(port, 20) as idle:
            assert all(connection.recv(1) == b"" for connection in wait_all(idle, 40))
    assert not [pid for pid in family if alive(pid)]


def wait_all(connections: list[socket.socket], seconds: float) -> list[socket.socket]:
    for connection in connections:
        connection.settimeout(seconds)
    return connections
