"""Proxies of the environment: the device link on this machine goes through none, other links name the one they use."""

import logging
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from edgefd_client.grpc_link import GrpcLink, _proxy_options, connect
from grpc_health.v1 import health_pb2, health_pb2_grpc

from edgefd.core.errors import UserError
from tests.support.device_links import OpenLink, open_device_link
from tests.support.federations import ExportedFederation, ignore_line
from tests.support.proxy import Proxy, proxy

ELSEWHERE = "192.0.2.7:50051"  # an address for documentation, which nobody has


@pytest.fixture
def link(federation: ExportedFederation) -> Iterator[OpenLink]:
    with open_device_link(federation) as link:
        yield link


@pytest.fixture
def used(link: OpenLink, monkeypatch: pytest.MonkeyPatch) -> Iterator[Proxy]:
    """Return a proxy that all variables name, and whose tunnels all end at the link."""
    for name in [name for name in os.environ if name.lower().endswith("_proxy")]:
        monkeypatch.delenv(name)
    with proxy(link.grpc_server.port) as running:
        for name, value in running.variables.items():
            monkeypatch.setenv(name, value)
        yield running


def join(address: str, federation: ExportedFederation) -> None:
    with connect(address, None, insecure=True) as channel:
        GrpcLink(channel, 0, ignore_line, give_up=10).join(federation.read().manifest.terms)


def test_a_device_on_this_machine_uses_no_proxy(
    link: OpenLink, used: Proxy, federation: ExportedFederation, caplog: pytest.LogCaptureFixture
) -> None:
    for host in ("127.0.0.1", "localhost"):
        with caplog.at_level(logging.INFO, "edgefd_client"):
            join(f"{host}:{link.grpc_server.port}", federation)
    assert used.calls == []
    assert "proxy" not in caplog.text


def test_a_device_names_the_proxy_that_it_uses_without_its_password(
    used: Proxy, federation: ExportedFederation, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "edgefd_client"):
        join(ELSEWHERE, federation)
    assert set(used.calls) == {f"CONNECT {ELSEWHERE} HTTP/1.1"}
    lines = [record.getMessage() for record in caplog.records if "proxy" in record.getMessage()]
    shown = used.url.replace("me:secret@", "")
    assert lines == [f"calls to 192.0.2.7 go through the proxy {shown}: set no_proxy=192.0.2.7 to call it directly"]


@pytest.mark.parametrize("exempt", ["192.0.2.7", "192.0.2.0/24", "*"])
def test_the_channel_to_an_address_that_no_proxy_lists_has_no_proxy(
    used: Proxy, monkeypatch: pytest.MonkeyPatch, exempt: str
) -> None:
    assert _proxy_options("192.0.2.7") == [("grpc.http_proxy", used.url)]
    monkeypatch.setenv("no_proxy", exempt)
    assert _proxy_options("192.0.2.7") == [("grpc.enable_http_proxy", 0)]


def test_a_proxy_that_a_device_cannot_use_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("grpc_proxy", "socks5://127.0.0.1:1")
    with pytest.raises(UserError, match=r"grpc_proxy=socks5://127\.0\.0\.1:1 is not an http:// proxy"):
        connect(ELSEWHERE, None, insecure=True)


def test_the_health_service_answers_without_a_proxy(link: OpenLink) -> None:
    with connect(link.address, None, insecure=False) as channel:
        reply = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest())
    assert reply.status == health_pb2.HealthCheckResponse.SERVING


@pytest.mark.parametrize("address", ["127.0.0.1:70000", "127.0.0.1:-1", "127.0.0.1:http", "127.0.0.1:0", "[::1]"])
def test_a_malformed_address_of_the_coordinator_is_refused(address: str) -> None:
    with pytest.raises(UserError, match="--server must be HOST:PORT with a PORT from 1 to 65535"):
        connect(address, Path("nowhere"), insecure=False)
