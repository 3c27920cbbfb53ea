"""Parse and check requests of devices."""

from __future__ import annotations

from typing import TypeVar

from edgefd_proto import edgefd_pb2 as pb
from google.protobuf.message import Message

from edgefd.wire import messages as wire
from edgefd.wire.device_link import PROTOCOL
from edgefd_server.grpc_link.refusals import Code, Refusal

FRAME = 4 * 2**10
"""bytes of a request beside the report in it"""

AnyMessage = TypeVar("AnyMessage", bound=Message)


def claimed(who: int | None, asked: pb.JoinRequest | pb.ContributeRequest, n_clients: int) -> int:
    """Which client calls: as its certificate says, or where there are none as it says itself.

    Raises:
        Refusal: if neither says it, they differ, or there is no such client.
    """
    client = asked.client if asked.HasField("client") else who
    if client is None:
        raise Refusal(Code.INVALID_ARGUMENT, "client", "without a certificate a device must say which client it is")
    if who is not None and client != who:
        raise Refusal(Code.PERMISSION_DENIED, "client", f"the certificate is that of client {who}, not {client}")
    if client >= n_clients:
        line = f"there is no client {client}: the federation has 0 to {n_clients - 1}"
        raise Refusal(Code.INVALID_ARGUMENT, "client", line)
    return client


def check_version(protocol: int) -> None:
    """Whether device and coordinator speak the same version of the link.

    Raises:
        Refusal: if not.
    """
    if protocol != PROTOCOL:
        raise Refusal(
            Code.FAILED_PRECONDITION,
            "protocol",
            f"the device speaks version {protocol} of the link, the coordinator {PROTOCOL}: update the older",
        )


def parsed(message: AnyMessage, request: bytes, limit: int) -> AnyMessage:
    """The message, filled from a request that is no longer than `limit`; a longer one is not read.

    Raises:
        Refusal: if it is longer, or no such message.
    """
    if len(request) > limit:
        line = f"the request has {len(request)} bytes; at most {limit} are read here"
        raise Refusal(Code.RESOURCE_EXHAUSTED, "size", line)
    try:
        return wire.parsed(message, request)
    except ValueError as error:
        raise Refusal(Code.INVALID_ARGUMENT, "malformed", str(error)) from error
