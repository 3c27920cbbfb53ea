"""Network addresses that a user gives: HOST:PORT, and whether they are of this machine only."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass

from edgefd.core.errors import UserError

MAX_PORT = 65535
_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9.])?")


@dataclass(frozen=True)
class Address:
    """A host and a port. Its text is HOST:PORT, with brackets around an IPv6 address."""

    host: str
    """name or IP address, without brackets"""
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine can be reached at the address, or can call it."""
        return is_loopback(self.host)


def parse_address(text: str, option: str, least_port: int = 0, default_host: str | None = None) -> Address:
    """Read HOST:PORT.

    Args:
        text: the address, such as 192.0.2.7:50051, device-1.lan:50051 or [2001:db8::7]:50051.
        option: name of the option in errors.
        least_port: 0 for an address to listen on, where it stands for any free port; 1 for an address to call.
        default_host: host of a text that is only PORT; None = HOST must be given.

    Raises:
        UserError: if it has another form.

    >>> parse_address("[::1]:50051", "--server"), str(parse_address("8080", "--status", default_host="127.0.0.1"))
    (Address(host='::1', port=50051), '127.0.0.1:8080')
    """
    host, colon, port = text.rpartition(":")
    if not colon and default_host is not None:
        host = default_host
    number = int(port) if re.fullmatch("[0-9]{1,5}", port) else -1
    if not (_is_host(host) and least_port <= number <= MAX_PORT):
        form = "HOST:PORT" if default_host is None else "[HOST:]PORT"
        raise UserError(
            f"{option} must be {form} with a PORT from {least_port} to {MAX_PORT}, such as 192.0.2.7:50051 or "
            f"[2001:db8::7]:50051, not {text!r}"
        )
    return Address(host.strip("[]"), number)


def check_port(port: int | None, option: str) -> None:
    """Check a port to listen on; None = no port.

    Raises:
        UserError: if there is no such port.
    """
    if port is not None and not 0 <= port <= MAX_PORT:
        raise UserError(f"{option} must be a port from 0 to {MAX_PORT}, not {port}")


def is_loopback(host: str) -> bool:
    """Return whether a host name or an IP address, without brackets, is of this machine only.

    >>> [is_loopback(host) for host in ("127.0.0.1", "Localhost", "::1", "0.0.0.0", "127.0.0.1.example.org")]
    [True, True, True, False, False]
    """
    address = ip_address(host)
    return host.lower() == "localhost" if address is None else address.is_loopback


def host_of(header: str) -> str:
    """Return the host in the value of a Host header, without its port and brackets.

    >>> [host_of(h) for h in ("localhost", "localhost:80", "[::1]", "[::1]:80")]
    ['localhost', 'localhost', '::1', '::1']
    """
    host, _, port = header.rpartition(":")
    return (host if port.isdigit() else header).strip("[]")


def ip_address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """Return a host as an IP address, IPv4 instead of IPv4 in IPv6; None if it is a name."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address


def _is_host(host: str) -> bool:
    if host.startswith("[") and host.endswith("]"):
        address = ip_address(host[1:-1])
        return address is not None and ":" in host
    digits_only = not set(host) - set("0123456789.")  # libraries read 127.1 and 1 as addresses too
    return bool(_NAME.fullmatch(host)) and (not digits_only or ip_address(host) is not None)
