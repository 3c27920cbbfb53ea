"""Proxies from the environment: which of them a call goes through. Calls to this machine never go through one."""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Mapping, Sequence
from urllib.parse import urlsplit

from edgefd.core.addresses import ip_address, is_loopback
from edgefd.core.errors import UserError

GRPC_VARIABLES = ("grpc_proxy", "https_proxy", "http_proxy")
"""variables that gRPC reads; the first one that is set counts"""
_EXEMPT = ("localhost", "127.0.0.1", "::1")


def proxy_of(host: str, variables: Sequence[str], environment: Mapping[str, str] = os.environ) -> str | None:
    """Return the URL of the proxy for calls to a host; None = they are direct.

    Calls to this machine are direct, and calls to hosts that `no_proxy` lists: names with their subdomains, IP
    addresses, networks such as 192.168.0.0/16, or `*` for all.

    Args:
        host: name or IP address, without brackets.
        variables: names of the variables that can hold the proxy, in lower case; those in upper case are not read.
        environment: the environment variables.

    Raises:
        UserError: if it is not a proxy that speaks HTTP.
    """
    address = ip_address(host)
    if is_loopback(host) or (address is not None and address.is_unspecified) or _is_exempt(host, environment):
        return None
    for name in variables:
        if proxy := environment.get(name):
            if not proxy.startswith("http://"):
                raise UserError(
                    f"{name}={without_password(proxy)} is not an http:// proxy, which calls to {host} need: correct or "
                    f"unset it, or set no_proxy={host}"
                )
            return proxy
    return None


def without_password(proxy: str) -> str:
    """Return the URL of a proxy without a user name and a password.

    >>> without_password("http://me:secret@proxy.example.org:3128/")
    'http://proxy.example.org:3128'
    """
    url = urlsplit(proxy)
    return f"{url.scheme}://{url.netloc.rpartition('@')[2]}"


def direct_to_this_machine(environment: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Return the variables that let other programs call this machine directly, for the environment of a process."""
    both = ("no_proxy", "NO_PROXY")
    listed = [entry for name in both for entry in environment.get(name, "").split(",") if entry.strip()]
    return dict.fromkeys(both, ",".join(dict.fromkeys([*map(str.strip, listed), *_EXEMPT])))


def _is_exempt(host: str, environment: Mapping[str, str]) -> bool:
    names = ("no_grpc_proxy", "no_proxy", "NO_PROXY")
    entries = [entry.strip().lower() for name in names for entry in environment.get(name, "").split(",")]
    return any(_matches(host.lower(), entry) for entry in entries if entry)


def _matches(host: str, entry: str) -> bool:
    name = entry.removeprefix("*").removeprefix(".").strip("[]")
    if entry == "*" or host == name or host.endswith(f".{name}"):
        return True
    address = ip_address(host)
    try:
        return address is not None and address in ipaddress.ip_network(name, strict=False)
    except ValueError:
        return False
