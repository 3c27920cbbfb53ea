"""Addresses that a user gives: their forms, and whether they are of this machine only."""

import hypothesis.strategies as st
import pytest
from hypothesis import given

from edgefd.core.addresses import Address, check_port, is_loopback, parse_address
from edgefd.core.errors import UserError

HOSTS = st.sampled_from(["localhost", "device-1.lan", "a_b", "192.0.2.7"]) | st.ip_addresses().map(str)


@given(HOSTS, st.integers(0, 65535))
def test_an_address_is_read_back(host: str, port: int) -> None:
    assert parse_address(str(Address(host, port)), "--listen") == Address(host, port)


@pytest.mark.parametrize(
    "text",
    [
        *("", "x", ":1", "host:", "host:-1", "host:65536", "host:70000", "host:+1", "host:1e3", "host:http", "host: 1"),
        *("::1:50051", "[::1]", "[::1]50051", "[x]:1", "[127.0.0.1]:1", "127.1:1", "1:1", "999.0.0.1:1", "host:²"),
        *("http://host:1", "host:1/path", "unix:/tmp/x:1", "dns:///host:1", "a b:1", "-host:1", "bücher:1", "8080"),
        *("host:50051\n", "host:\u0661"),
    ],
)
def test_what_is_not_a_host_and_a_port_is_refused_in_one_line(text: str) -> None:
    with pytest.raises(UserError, match=r"^--listen must be HOST:PORT with a PORT from 0 to 65535, such as") as caught:
        parse_address(text, "--listen")
    assert "\n" not in str(caught.value)


def test_an_address_to_call_has_no_port_0_and_a_default_host_needs_no_host() -> None:
    with pytest.raises(UserError, match="a PORT from 1 to 65535"):
        parse_address("127.0.0.1:0", "--server", least_port=1)
    assert parse_address("8080", "--status", default_host="127.0.0.1") == Address("127.0.0.1", 8080)
    with pytest.raises(UserError, match=r"--status must be \[HOST:\]PORT"):
        parse_address(":8080", "--status", default_host="127.0.0.1")


@pytest.mark.parametrize("host", ["127.0.0.1", "127.9.9.9", "::1", "localhost", "LocalHost", "::ffff:127.0.0.1"])
def test_addresses_of_this_machine(host: str) -> None:
    assert is_loopback(host)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.7", "127.0.0.1.example.org", "localhost.example.org", ""])
def test_other_addresses(host: str) -> None:
    assert not is_loopback(host)


def test_a_port_out_of_range_is_refused() -> None:
    for port in (-1, 65536):
        with pytest.raises(UserError, match="--metrics must be a port from 0 to 65535"):
            check_port(port, "--metrics")
    check_port(None, "--metrics")
