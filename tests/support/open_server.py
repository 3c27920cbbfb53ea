"""What tests ask of an open gRPC server, whichever service it has."""

from typing import Any

from edgefd_server.monitoring.prometheus import LinkMetrics


class OpenServer:
    """Address and refused calls of an open server."""

    grpc_server: Any
    metrics: LinkMetrics

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.grpc_server.port}"

    def refused(self, call: str, reason: str) -> float:
        """Return how many calls were refused for that reason."""
        return self.metrics.registry.get_sample_value("edgefd_refused_total", {"call": call, "reason": reason}) or 0.0
