"""Selective-FD: the selectors of client and server."""

from typing import Any

import numpy as np
import pytest

from edgefd.core.errors import UserError
from edgefd.core.knowledge import Knowledge
from edgefd.federation.clients import ClientData, ProxySet
from edgefd.filters.acceptance import AcceptanceRule, acceptance_weights
from edgefd.filters.kulsif import KuLSIF
from edgefd.methods import selective_fd
from edgefd.methods.selective_fd import METHOD, Config, client_filter

RNG = np.random.default_rng(0)


def teacher(*rows: list[float]) -> Knowledge:
    return Knowledge(np.arange(len(rows)), np.array(rows, np.float32), np.ones(len(rows), np.float32))


def test_the_server_keeps_rows_above_its_threshold() -> None:
    k = teacher([0.7, 0.3], [0.76, 0.24], [0.5, 0.5])
    assert METHOD.server_filter(k, Config(server_threshold=0.5)).ids.tolist() == [1]  # 1 - 0.5 / 2 = 0.75
    assert len(METHOD.server_filter(k, Config())) == 3


def test_hard_labels_are_sent_in_both_directions() -> None:
    hard = Config(labels="hard")
    assert METHOD.extract(np.array([[1.0, 3.0]], np.float32), hard).tolist() == [[0, 1]]
    assert METHOD.server_filter(teacher([0.7, 0.3]), hard).values.tolist() == [[1, 0]]


def client(n: int = 60, d: int = 4) -> tuple[ClientData, ProxySet]:
    rng = np.random.default_rng(1)
    private, proxy = rng.normal(0, 1, (n, d)), rng.normal(0, 2, (40, d))
    x = np.concatenate([private, proxy]).astype(np.float32)
    data = ClientData(0, x[: n - 20], np.zeros(n - 20, int), x[n - 20 : n], np.zeros(20, int), np.empty(0, np.int64))
    return data, ProxySet(x[n:], np.full(40, -1))


@pytest.mark.parametrize(
    "changed",
    [
        {"variant": "published"},
        {"auxiliary": "proxy"},
        {"n_auxiliary": 7},
        {"n_private": 5},
        {"width": 0.3},
        {"quantile": 0.4},
    ],
)
def test_the_setting_reaches_the_client_selector_and_changes_its_scores(
    changed: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Scores are compared, because thresholds can hide a small change in the acceptance weights."""
    scores: list[np.ndarray] = []

    def recording(
        scorer: KuLSIF, heldout: np.ndarray, x: np.ndarray, contributed: np.ndarray, rule: AcceptanceRule
    ) -> np.ndarray:
        scores.append(np.append(scorer.score_samples(x), rule.quantile))
        return acceptance_weights(scorer, heldout, x, contributed, rule)

    monkeypatch.setattr(selective_fd, "acceptance_weights", recording)
    data, proxy = client()
    for config in (Config(), Config(), Config(**changed)):
        client_filter(data, proxy, config, np.random.default_rng(2))
    np.testing.assert_array_equal(scores[0], scores[1])
    assert np.abs(scores[2] - scores[0]).max() > 1e-4


@pytest.mark.parametrize("n", [10**9, 10**20])
def test_more_samples_than_fit_in_memory_are_refused_before_they_are_drawn(n: int) -> None:
    data, proxy = client()
    with pytest.raises(UserError, match=f"KuLSIF on {n} auxiliary and 40 private samples needs about"):
        client_filter(data, proxy, Config(n_auxiliary=n), np.random.default_rng(0))


def test_a_client_accepts_rows_near_its_own_data() -> None:
    near, far = RNG.normal(0, 1, (100, 2)), RNG.normal(8, 1, (50, 2))
    x = np.concatenate([near, far]).astype(np.float32)
    data = ClientData(0, x[:40], np.zeros(40, int), x[40:60], np.zeros(20, int), np.array([149]))
    acceptance = client_filter(data, ProxySet(x[60:], np.full(90, -1)), Config(quantile=0.9), RNG)
    assert acceptance[:40].mean() > 0.7
    assert acceptance[40:].max() == 0  # the row that it contributed is not accepted either
