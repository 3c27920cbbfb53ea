"""Each attack on fixed numbers, against the published formula in plain Python."""

import math

import numpy as np
import pytest

from edgefd.auditing.measures import membership_formulas as formulas

P = np.array([[0.7, 0.2, 0.1], [0.1, 0.3, 0.6], [0.2, 0.5, 0.3]])
Y = np.array([0, 1, 1])
OTHERS = np.array(
    [
        [[0.5, 0.3, 0.2], [0.2, 0.6, 0.2], [0.3, 0.4, 0.3]],
        [[0.4, 0.4, 0.2], [0.3, 0.5, 0.2], [0.5, 0.3, 0.2]],
        [[0.6, 0.2, 0.2], [0.1, 0.7, 0.2], [0.1, 0.6, 0.3]],
    ]
)
P_Z = np.array([[0.3, 0.6, 0.1], [0.2, 0.7, 0.1], [0.2, 0.4, 0.4], [0.9, 0.05, 0.05]])
Y_Z = np.array([0, 2, 0, 1])
OTHERS_Z = np.random.default_rng(0).dirichlet(np.ones(3), (3, 4))


def test_loss_entropies_and_labels_follow_their_formulas() -> None:
    np.testing.assert_allclose(formulas.loss(P, Y), np.log([0.7, 0.3, 0.5]))
    np.testing.assert_allclose(formulas.entropy(P, Y), [sum(p * math.log(p) for p in row) for row in P])
    modified = [
        (1 - row[y]) * math.log(row[y]) + sum(row[c] * math.log(1 - row[c]) for c in range(3) if c != y)
        for row, y in zip(P, Y, strict=True)
    ]
    np.testing.assert_allclose(formulas.modified_entropy(P, Y), modified)
    np.testing.assert_array_equal(formulas.label_only(P, Y), [1, 0, 1])


def test_offline_lira_follows_the_formula_of_the_paper() -> None:
    phi = [math.log(0.7 / 0.3), math.log(0.3 / 0.7), 0.0]
    null = [[math.log(o[i][y] / (1 - o[i][y])) for o in OTHERS] for i, y in enumerate(Y)]
    means = [sum(n) / 3 for n in null]
    variance = sum(sum((v - m) ** 2 for v in n) / 2 for n, m in zip(null, means, strict=True)) / 3
    expected = [(f - m) / math.sqrt(variance) for f, m in zip(phi, means, strict=True)]
    np.testing.assert_allclose(formulas.lira(P, Y, OTHERS), expected, atol=1e-6)


def test_with_many_references_each_record_has_its_own_spread() -> None:
    others = np.random.default_rng(1).dirichlet(np.ones(3), (16, 3))
    phi = np.log(others[:, np.arange(3), Y] / (1 - others[:, np.arange(3), Y]))
    expected = (np.log([0.7 / 0.3, 0.3 / 0.7, 1.0]) - phi.mean(0)) / phi.std(0, ddof=1)
    np.testing.assert_allclose(formulas.lira(P, Y, others), expected, atol=1e-6)
    with pytest.raises(ValueError, match="two reference models"):
        formulas.lira(P, Y, others[:1])


def shadow_outputs(n: int, records: int = 5) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return phi of a target and of n shadows, and their members: each record is in n / 2 shadows, drawn at random."""
    r = np.random.default_rng(n)
    inside = np.stack([r.permutation(np.arange(n) < n // 2) for _ in range(records)], axis=1)
    return r.normal(0, 2, records), r.normal(0, 2, (n, records)) + inside, inside


def test_lira_of_many_shadows_is_a_ratio_of_two_normal_densities() -> None:
    from scipy.stats import norm

    phi, others, inside = shadow_outputs(40)
    online, offline = [], []
    for i, value in enumerate(phi):
        seen, unseen = others[inside[:, i], i], others[~inside[:, i], i]
        with_it, without = norm(seen.mean(), seen.std(ddof=1)), norm(unseen.mean(), unseen.std(ddof=1))
        online.append(math.log(with_it.pdf(value) / without.pdf(value)))
        offline.append(without.cdf(value))
    np.testing.assert_allclose(formulas.shadow_lira(phi, others, inside), online, atol=1e-6)
    np.testing.assert_allclose(norm.cdf(formulas.shadow_lira(phi, others, inside, online=False)), offline, atol=1e-6)


def test_lira_of_few_shadows_has_one_spread_for_all_records() -> None:
    from scipy.stats import norm

    phi, others, inside = shadow_outputs(8)
    sides = [[others[inside[:, i] == seen, i] for i in range(5)] for seen in (True, False)]
    spreads = [math.sqrt(sum(((x - x.mean()) ** 2).sum() for x in side) / (5 * 3)) for side in sides]
    expected = [
        norm(sides[0][i].mean(), spreads[0]).logpdf(v) - norm(sides[1][i].mean(), spreads[1]).logpdf(v)
        for i, v in enumerate(phi)
    ]
    np.testing.assert_allclose(formulas.shadow_lira(phi, others, inside), expected, atol=1e-6)
    with pytest.raises(ValueError, match="two shadows with each record"):
        formulas.shadow_lira(phi, others[:3], inside[:3])


@pytest.mark.parametrize("gamma", [1.0, 1.5])
def test_rmia_follows_the_formula_of_the_paper(gamma: float) -> None:
    scale = 0.3
    expected = []
    for i, y in enumerate(Y):
        usual = ((1 + scale) * sum(o[i, y] for o in OTHERS) / 3 + 1 - scale) / 2
        beaten = [
            (P[i, y] / usual) / (P_Z[j, z] / (sum(o[j, z] for o in OTHERS_Z) / 3)) >= gamma for j, z in enumerate(Y_Z)
        ]
        expected.append(sum(beaten) / len(Y_Z))
    scores = formulas.rmia(formulas.Outputs(P, Y, OTHERS), formulas.Outputs(P_Z, Y_Z, OTHERS_Z), gamma, scale)
    np.testing.assert_allclose(scores, expected, atol=1e-6)
    assert len(set(scores)) > 1


def test_probabilities_of_zero_and_one_stay_finite() -> None:
    certain = np.eye(3)
    for attack in (formulas.loss, formulas.entropy, formulas.modified_entropy, formulas.confidence):
        assert np.isfinite(attack(certain, Y)).all()
