"""`Refusal`: a refused call, with a gRPC status, a reason code and a line of text."""

from __future__ import annotations

import grpc

from edgefd_server.coordinator.round_coordinator import Refused

Code = grpc.StatusCode
_STATUS = {
    "early": Code.UNAVAILABLE,
    "round": Code.FAILED_PRECONDITION,
    "conflict": Code.ALREADY_EXISTS,
    "size": Code.RESOURCE_EXHAUSTED,
    "malformed": Code.INVALID_ARGUMENT,
    "client": Code.PERMISSION_DENIED,
    "content": Code.INVALID_ARGUMENT,
    "closed": Code.FAILED_PRECONDITION,
}
"""gRPC status of each reason for which a `RoundCoordinator` or a `Collection` refuses a message"""


class Refusal(Refused):
    """A refused call, with a gRPC status, a reason code for programs and a line of text for people."""

    def __init__(self, status: grpc.StatusCode, reason: str, line: str) -> None:
        super().__init__(reason, line)
        self.status = status


def status_of(refused: Refused) -> grpc.StatusCode:
    """Return the gRPC status of a refusal."""
    return refused.status if isinstance(refused, Refusal) else _STATUS[refused.reason]
