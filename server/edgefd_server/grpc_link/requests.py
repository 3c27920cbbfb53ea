"""Parse and check requests of devices."""

from __future__ import annotations

from typing import TypeVar

from edgefd_proto import edgefd_pb2 as pb
from google.protobuf.message import Message

from edgefd.wire import messages as wire
from edgefd.wire.device_link import PROTOCOL
from edgefd_server.grpc_link.refusals import Code, Refusal

FRAME = 4 * 2**10
"""bytes of a request in addition to the report in it"""

AnyMessage = TypeVar("AnyMessage", bound=Message)


def identify_client(certified: int | None, request: pb.JoinRequest | pb.ContributeRequest, n_clients: int) -> int:
    """Return the calling client: the certificate's, or without certificates the one that the request names.

    Args:
        certified: the client of the device's certificate; None without certificates.
        request: may name the client too.
        n_clients: number of clients of the federation.

    Raises:
        Refusal: if neither names a client, they differ, or there is no such client.
    """
    client = request.client if request.HasField("client") else certified
    if client is None:
        raise Refusal(Code.INVALID_ARGUMENT, "client", "without a certificate a device must say which client it is")
    if certified is not None and client != certified:
        line = f"the certificate is that of client {certified}, not {client}"
        raise Refusal(Code.PERMISSION_DENIED, "client", line)
    if client >= n_clients:
        line = f"there is no client {client}: the federation has 0 to {n_clients - 1}"
        raise Refusal(Code.INVALID_ARGUMENT, "client", line)
    return client


def check_version(protocol: int) -> None:
    """Check that device and coordinator use the same version of the link.

    Raises:
        Refusal: if they do not.
    """
    if protocol != PROTOCOL:
        raise Refusal(
            Code.FAILED_PRECONDITION,
            "protocol",
            f"the device speaks version {protocol} of the link, the coordinator {PROTOCOL}: update the older one",
        )


def parse_request(message: AnyMessage, data: bytes, limit: int) -> AnyMessage:
    """Fill a message from the bytes of a request. A request longer than `limit` bytes is not parsed.

    Raises:
        Refusal: if it is longer, or not such a message.
    """
    if len(data) > limit:
        line = f"the request has {len(data)} bytes; the limit is {limit}"
        raise Refusal(Code.RESOURCE_EXHAUSTED, "size", line)
    try:
        return wire.parsed(message, data)
    except ValueError as error:
        raise Refusal(Code.INVALID_ARGUMENT, "malformed", str(error)) from error
