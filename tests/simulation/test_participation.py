"""What memory and catching up bring if clients are often absent: accuracies on a validation part."""

from functools import cache
from typing import Any

import pytest

from edgefd.config.load import parse_config
from tests.support.small_runs import rounds


@cache
def accuracy(n_rounds: int, fraction: float = 1.0, memory_discount: float = 0.9, catch_up: int = 10) -> float:
    """Return the final mean accuracy of EdgeFD under strong non-IID with a public proxy set."""
    sections: dict[str, Any] = {
        "seed": 100,
        "data": {"name": "mnist_mini", "validation": 0.2, "evaluate_on": "validation"},
        "partition": {"name": "strong", "n_clients": 10},
        "proxy": {"source": "public"},
        "model": {"name": "mlp"},
        "train": {"rounds": n_rounds, "catch_up": catch_up},
        "run": {"workers": 0, "evaluate_every": 1000},
        "coordinator": {"fraction": fraction, "memory_discount": memory_discount},
    }
    return float(rounds(parse_config(sections))[-1].accuracy_mean or 0)


@pytest.mark.slow
def test_with_memory_three_times_the_rounds_make_up_for_30_percent_of_the_clients() -> None:
    full, partial, forgetful = accuracy(20), accuracy(60, 0.3), accuracy(60, 0.3, memory_discount=0)
    print(f"all clients {full:.4f}, 30 % {partial:.4f}, 30 % without memory {forgetful:.4f}")
    assert partial > full - 0.03
    assert forgetful < partial - 0.05


@pytest.mark.slow
def test_catching_up_makes_up_for_missed_rounds_and_costs_nothing_where_few_are_missed() -> None:
    rare, caught_up = accuracy(60, 0.1, catch_up=1), accuracy(60, 0.1)
    often, also_caught_up = accuracy(60, 0.3, catch_up=1), accuracy(60, 0.3)
    print(f"10 % {rare:.4f}, with catch_up {caught_up:.4f}; 30 % {often:.4f}, with catch_up {also_caught_up:.4f}")
    assert caught_up > rare + 0.1
    assert caught_up > accuracy(20) - 0.03
    assert also_caught_up > often - 0.01
