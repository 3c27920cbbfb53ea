"""Selective-FD: the selectors of client and server."""

from typing import Any

import numpy as np
import pytest

from edgefd.core.errors import UserError
from edgefd.federation.clients import ClientData, ProxySet
from edgefd.filters.acceptance import AcceptanceRule, acceptance_weights
from edgefd.filters.kulsif import KuLSIF
from edgefd.methods import selective_fd
from edgefd.methods.selective_fd import METHOD, Config
from edgefd.poisoning.robust_aggregation import Aggregator, aggregate_of
from edgefd.rounds.client import client_filter
from tests.support.votes import TERMS, Fixed, holder, report, server

RNG = np.random.default_rng(0)


ROWS = [[0.7, 0.3], [0.76, 0.24], [0.5, 0.5]]


def test_the_server_keeps_rows_above_its_threshold() -> None:
    reports = [report(0, [0, 1, 2], ROWS)]
    kept = METHOD.aggregate(server(reports, Config(server_threshold=0.5)))
    assert kept.ids.tolist() == [1]  # 1 - 0.5 / 2 = 0.75
    np.testing.assert_allclose(kept.values, ROWS[1:2], rtol=1e-6)
    assert len(METHOD.aggregate(server(reports, Config()))) == 3


def test_hard_labels_are_sent_in_both_directions() -> None:
    hard = Config(labels="hard")
    sent = METHOD.upload(holder(0, Fixed(logits=[[1.0, 3.0], [2.0, 0.0], [0.0, 1.0]]), hard))
    assert sent.values.tolist() == [[0, 1], [1, 0], [0, 1]]
    assert METHOD.aggregate(server([report(0, [0], ROWS[:1])], hard)).values.tolist() == [[1, 0]]


def test_the_server_filter_follows_a_robust_aggregator() -> None:
    """The mean of row 0 is 0.6, so only the median passes the threshold of 0.75; row 1 passes neither."""
    reports = [report(c, [0, 1], [[p, 1 - p], [0.6, 0.4]]) for c, p in enumerate((0.9, 0.9, 0.0))]
    config = Config(server_threshold=0.5)
    assert len(METHOD.aggregate(server(reports, config))) == 0
    teacher = METHOD.aggregate(server(reports, config, combine=aggregate_of(Aggregator("median"))))
    assert teacher.ids.tolist() == [0]
    np.testing.assert_allclose(teacher.values, [[0.9, 0.1]], atol=1e-6)


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
        client_filter(METHOD, config, data, proxy, TERMS)
    np.testing.assert_array_equal(scores[0], scores[1])
    assert np.abs(scores[2] - scores[0]).max() > 1e-4


@pytest.mark.parametrize("n", [10**9, 10**20])
def test_more_samples_than_fit_in_memory_are_refused_before_they_are_drawn(n: int) -> None:
    data, proxy = client()
    with pytest.raises(UserError, match=f"KuLSIF on {n} auxiliary and 40 private samples needs about"):
        client_filter(METHOD, Config(n_auxiliary=n), data, proxy, TERMS)


def test_a_client_accepts_rows_near_its_own_data() -> None:
    near, far = RNG.normal(0, 1, (100, 2)), RNG.normal(8, 1, (50, 2))
    x = np.concatenate([near, far]).astype(np.float32)
    data = ClientData(0, x[:40], np.zeros(40, int), x[40:60], np.zeros(20, int), np.array([149]))
    acceptance = client_filter(METHOD, Config(quantile=0.9), data, ProxySet(x[60:], np.full(90, -1)), TERMS)
    assert acceptance[:40].mean() > 0.7
    assert acceptance[40:].max() == 0  # the row that it contributed is not accepted either


def test_a_kernel_that_is_too_narrow_for_the_samples_is_refused() -> None:
    data, proxy = client()
    with pytest.raises(UserError, match=r"width 0\.01 is too narrow for samples of 4 values: set method\.width=0"):
        client_filter(METHOD, Config(width=0.01), data, proxy, TERMS)
