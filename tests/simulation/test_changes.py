"""Simulations that send only changes: the results of all rows, fewer bytes, for any number of workers."""

from typing import Any

import pytest

from edgefd.config.load import parse_config
from edgefd.config.schema import Config
from edgefd.core.errors import UserError
from edgefd.runs.prepare import prepare
from edgefd.runs.round_metrics import RoundMetrics
from edgefd.simulation.engine import open_transport, simulate


def config(workers: int = 0, above: float | None = None, **sections: Any) -> Config:
    return parse_config(
        {
            "data": {"name": "mnist_mini", "limit": 600},
            "partition": {"name": "weak", "n_clients": 4},
            "model": {"name": "mlp"},
            "method": {"name": "edgefd", "n_clusters": 4},
            "train": {"rounds": 5},
            "codec": {"name": "simplex15", "changes_above": above},
            "run": {"workers": workers},
            **sections,
        }
    )


def rounds_of(c: Config) -> list[RoundMetrics]:
    return list(simulate(open_transport(c, prepare(c).federation)))


def bytes_of(metrics: list[RoundMetrics]) -> tuple[int, int]:
    return sum(m.bytes_up for m in metrics), sum(m.bytes_down for m in metrics)


ABSENT = {"coordinator": {"fraction": 0.75, "min_reports": 1, "dropout": 0.1, "lateness": 0.2, "stale_reports": "use"}}


@pytest.mark.parametrize("sections", [{}, ABSENT], ids=["all", "some absent"])
def test_rows_that_are_exactly_equal_need_not_be_sent(sections: dict[str, Any]) -> None:
    whole, changes = (rounds_of(config(above=above, **sections)) for above in (None, 0.0))
    assert [m.accuracy_mean for m in whole] == [m.accuracy_mean for m in changes]
    for some, all_rows in zip(bytes_of(changes), bytes_of(whole), strict=True):
        assert some < all_rows


def test_a_threshold_sends_fewer_rows() -> None:
    sizes = [bytes_of(rounds_of(config(above=above))) for above in (0.0, 0.3)]
    assert sizes[1][0] < sizes[0][0]
    assert sizes[1][1] < sizes[0][1]


def test_any_number_of_workers_sends_the_same_changes() -> None:
    serial, forked = (
        [{**vars(m), "seconds": 0} for m in rounds_of(config(workers, 0.1, **ABSENT))] for workers in (0, 2)
    )
    assert serial == forked


@pytest.mark.parametrize(
    ("sections", "error"),
    [
        ({"above": 1.0}, "changes_above must be at least 0 and below 1, not 1"),
        ({"above": -0.1}, "changes_above"),
        ({"codec": {"name": "int8", "changes_above": 0.0}}, "the rows of codec int8 share scales"),
        (
            {"method": {"name": "fedavg"}, "codec": {"name": "float16", "changes_above": 0.0}},
            "changed rows of soft labels",
        ),
    ],
)
def test_settings_that_cannot_work_are_refused(sections: dict[str, Any], error: str) -> None:
    with pytest.raises(UserError, match=error):
        prepare(config(**sections))
