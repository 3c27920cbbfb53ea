"""Which proxy of the environment a call goes through."""

import pytest

from edgefd.core.errors import UserError
from edgefd.core.proxies import GRPC_VARIABLES, direct_to_this_machine, proxy_of

PROXY = "http://me:secret@proxy.example.org:3128"


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "::1", "127.0.0.9", "0.0.0.0", "::ffff:127.0.0.1"])
def test_calls_to_this_machine_are_direct(host: str) -> None:
    assert proxy_of(host, GRPC_VARIABLES, dict.fromkeys(GRPC_VARIABLES, PROXY)) is None


@pytest.mark.parametrize("variable", GRPC_VARIABLES)
def test_other_calls_go_through_the_first_proxy(variable: str) -> None:
    assert proxy_of("192.0.2.7", GRPC_VARIABLES, {variable: PROXY, "no_proxy": "localhost"}) == PROXY
    assert proxy_of("192.0.2.7", GRPC_VARIABLES, {}) is None


@pytest.mark.parametrize(
    ("host", "no_proxy", "direct"),
    [
        *(("a.lan", "a.lan", True), ("a.lan", ".lan", True), ("a.lan", "lan", True), ("A.LAN", "x, a.lan", True)),
        *(("a.lan", "*", True), ("a.lan", "*.lan", True), ("aXlan", ".lan", False), ("b.lan", "a.lan", False)),
        *(
            ("192.168.1.5", "192.168.0.0/16", True),
            ("10.0.0.1", "192.168.0.0/16", False),
            ("2001:db8::7", "[2001:db8::7]", True),
        ),
    ],
)
def test_no_proxy_lists_names_domains_addresses_and_networks(host: str, no_proxy: str, direct: bool) -> None:
    for name in ("no_proxy", "NO_PROXY", "no_grpc_proxy"):
        assert (proxy_of(host, GRPC_VARIABLES, {"http_proxy": PROXY, name: no_proxy}) is None) == direct


def test_a_proxy_of_another_kind_is_refused_and_its_password_is_not_shown() -> None:
    with pytest.raises(UserError, match=r"grpc_proxy=socks5://p:1 is not an http:// proxy.*set no_proxy=a\.lan"):
        proxy_of("a.lan", GRPC_VARIABLES, {"grpc_proxy": "socks5://me:secret@p:1"})


def test_the_environment_of_other_programs_exempts_this_machine_and_what_was_exempt_before() -> None:
    variables = direct_to_this_machine({"no_proxy": "a.lan", "NO_PROXY": "b.lan,a.lan"})
    assert variables["no_proxy"] == variables["NO_PROXY"] == "a.lan,b.lan,localhost,127.0.0.1,::1"
