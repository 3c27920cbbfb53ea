"""Small inputs of the status page for tests: a configuration, a run's description, metrics and an empty fleet."""

from edgefd_server.monitoring.status import FleetSnapshot, RunDescription

from edgefd.config.load import parse_config
from edgefd.config.schema import Config
from edgefd.runs.round_metrics import RoundMetrics

DESCRIPTION = RunDescription("edgefd", "digits", "mlp", 3, 5)
"""three clients, five rounds"""


def small_config() -> Config:
    """Return the configuration of a run with three clients and five rounds."""
    return parse_config({"partition": {"name": "weak", "n_clients": 3}, "train": {"rounds": 5}})


def round_metrics(round: int) -> RoundMetrics:
    """Return metrics with 1.5 s, held-out accuracy 0.5, accepted fraction 0.25, 10 bytes up and 20 bytes down."""
    return RoundMetrics(round, False, 1.5, None, None, None, 0.5, 0.25, [], None, 1.0, 0.75, None, None, 10, 20)


def empty_fleet() -> FleetSnapshot:
    """Return a snapshot without devices."""
    return FleetSnapshot(None, (), ())
