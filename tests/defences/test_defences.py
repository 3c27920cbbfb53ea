"""Each defence against its closed form. All defences keep row ids and return probability rows."""

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgefd.core.arrays import Float32
from edgefd.core.errors import RunError, UserError
from edgefd.core.knowledge import Knowledge
from edgefd.core.seeding import noise_key
from edgefd.defences.accounting import gaussian_delta, gaussian_multiplier
from edgefd.defences.apply import DEFENCES, Defence, NoDefence, Private, claim, covered, defence_of, defended, spend
from edgefd.defences.dp_sgd import DpSgd
from edgefd.defences.label_only import LabelOnly
from edgefd.defences.noise import Noise, clipped, onto_simplex
from edgefd.defences.noise import sigma_of as sigma_of_noise
from edgefd.defences.pate import Pate, votes
from edgefd.defences.pate import sigma_of as sigma_of_votes
from edgefd.defences.swing import Swing
from edgefd.defences.top_k import TEMPERATURES, TopK, fitted_temperature, tempered, top_k
from edgefd.federation.clients import ClientData, ProxySet
from edgefd.federation.context import ClientContext, client_context
from edgefd.federation.method import Method
from edgefd.federation.plan import RoundPlan
from edgefd.federation.terms import FederationTerms
from edgefd.federation.training import Training
from edgefd.learners.batches import Batch, softmax
from edgefd.methods import get_method
from edgefd.selection import selection_of
from edgefd.wire import messages as wire
from tests.support.expectations import sent_and_received

CLASSES, ROWS = 5, 40
ALL = [TopK(k=2), TopK(calibrate=True), LabelOnly(), Swing(), Noise(), Pate(shards=4)]
TERMS = FederationTerms("", {}, "float32", 3, CLASSES, "", training=Training(rounds=4))


class IdentityLearner:
    """A learner whose logits are its inputs."""

    def train(self, batches: Any, lr: float) -> float:
        raise AssertionError("a defence trains nothing")

    def set_noise(self, *keys: int) -> None:
        """Do nothing: the learner draws no random numbers."""

    def predict_logits(self, x: Float32) -> Float32:
        return x

    def state(self) -> dict[str, np.ndarray]:
        return {}

    def load_state(self, state: dict[str, np.ndarray]) -> None: ...


def knowledge_of_a_client(seed: int = 0) -> tuple[Knowledge, ClientContext]:
    rng = np.random.default_rng(seed)
    x, heldout, proxy = (rng.normal(0, 2, (n, CLASSES)).astype(np.float32) for n in (30, 20, ROWS))
    data = ClientData(1, x, x.argmax(1), heldout, heldout.argmax(1), np.empty(0, np.int64))
    ids = np.sort(rng.permutation(ROWS)[:25])
    weights = rng.uniform(0.1, 1, len(ids)).astype(np.float32)
    proxy_set, acceptance = ProxySet(proxy, np.full(ROWS, -1)), np.ones(ROWS, np.float32)
    client = client_context(data, IdentityLearner(), proxy_set, acceptance, TERMS, None)
    return Knowledge(ids, softmax(proxy[ids]), weights), in_round(replace(client, noise_key=noise_key(3)), 1)


def in_round(client: ClientContext, round: int, n_rows: int = ROWS, **training: Any) -> ClientContext:
    terms = replace(TERMS, training=replace(TERMS.training, **training))
    return replace(client, plan=RoundPlan(round, np.arange(n_rows)), terms=terms)


def sending(k: Knowledge) -> Method:
    """Return a method whose clients all send `k`."""
    return replace(get_method("fedmd"), upload=lambda _: k)


def privatised(defence: Defence, seed: int = 0) -> tuple[Knowledge, Knowledge]:
    k, client = knowledge_of_a_client(seed)
    return k, defended(sending(k), defence).upload(client)


def test_a_defence_wraps_what_clients_send_or_replaces_their_local_steps() -> None:
    k, client = knowledge_of_a_client()
    method = sending(k)
    assert defended(method, NoDefence()) is method
    for defence in ALL:
        wrapped = defended(method, defence)
        assert wrapped.upload(client).equals(defence.privatise(client, k))
        assert replace(wrapped, upload=method.upload) == method
    private = defended(method, DpSgd())
    assert private.local_step is not method.local_step
    assert replace(private, local_step=method.local_step) == method
    with pytest.raises(UserError, match="needs gradients of single records"):
        private.local_step(client, [])


@settings(deadline=None)
@given(st.sampled_from(ALL), st.integers(0, 2**32 - 1))
def test_privatised_rows_are_probabilities_with_the_same_ids(defence: Defence, seed: int) -> None:
    before, after = privatised(defence, seed)
    assert np.array_equal(after.ids, before.ids)
    assert after.width == before.width
    assert after.values.min() >= 0
    np.testing.assert_allclose(after.values.sum(1), 1, atol=1e-4)


@pytest.mark.parametrize("defence", ALL, ids=str)
@pytest.mark.parametrize("codec", ["float16", "uint4"])
def test_privatised_knowledge_does_not_change_when_it_is_encoded_again(defence: Defence, codec: str) -> None:
    _, after = privatised(defence)
    once = sent_and_received(after, codec)
    assert sent_and_received(once, codec).equals(once)


def test_top_k_keeps_the_largest_values_and_divides_the_rest_equally() -> None:
    p = np.array([[0.4, 0.1, 0.3, 0.15, 0.05], [0.2, 0.2, 0.2, 0.2, 0.2]], np.float32)
    np.testing.assert_allclose(top_k(p, 2)[0], [0.4, 0.1, 0.3, 0.1, 0.1], atol=1e-7)
    np.testing.assert_allclose(top_k(p, 2)[1], 0.2, atol=1e-7)
    assert np.array_equal(top_k(p, 5), p)
    assert (np.diff(np.sort(top_k(p, 1)[0])) > 1e-6).sum() == 1  # two different numbers per row


def test_calibration_fits_the_heldout_data_of_the_client() -> None:
    """The labels are always the class of the largest logit, so the lowest temperature fits them best."""
    before, after = privatised(TopK(k=2, calibrate=True))
    np.testing.assert_allclose(after.values, top_k(tempered(before.values, TEMPERATURES[0]), 2), atol=1e-6)
    assert np.abs(after.values - top_k(before.values, 2)).max() > 0.1


def test_top_k_and_labels_save_bytes() -> None:
    k, _ = privatised(LabelOnly())
    sizes = [len(wire.encode(privatised(d)[1], "float32")) for d in (TopK(k=1), LabelOnly())]
    assert sizes[1] < sizes[0] < len(wire.encode(k, "float32"))


def test_the_fitted_temperature_maximises_the_likelihood_of_labels() -> None:
    rng = np.random.default_rng(0)
    z = rng.normal(0, 1, (20_000, 4)).astype(np.float32)
    y = (z + rng.gumbel(size=z.shape)).argmax(1)  # drawn from softmax(z)
    overconfident = softmax(3 * z)  # its logits are three times too large
    near = np.abs(TEMPERATURES - 3).argmin()
    assert fitted_temperature(overconfident, y) in TEMPERATURES[near - 1 : near + 2]
    np.testing.assert_allclose(tempered(overconfident, np.float32(3)), softmax(z), atol=1e-5)


def test_label_only_sends_one_hot_rows_with_weight_one() -> None:
    before, after = privatised(LabelOnly())
    assert np.array_equal(after.values, np.eye(CLASSES, dtype=np.float32)[before.values.argmax(1)])
    assert (after.weights == 1).all()


def test_the_temperature_of_swing_rises_with_the_confidence_of_the_model() -> None:
    before, after = privatised(Swing(temperature=2.0, swing=0.0))
    np.testing.assert_allclose(after.values, tempered(before.values, np.float32(2)), atol=1e-6)
    before, after = privatised(Swing(swing=3.0))
    _, client = knowledge_of_a_client()
    confidences = softmax(client.data.x_heldout).max(1)
    share = (confidences[None] < before.values.max(1)[:, None]).mean(1)
    expected = tempered(before.values, (1 + 3 * share)[:, None].astype(np.float32))
    np.testing.assert_allclose(after.values, expected, atol=1e-5)


def test_noise_has_the_sigma_of_the_whole_run() -> None:
    _, client = knowledge_of_a_client()
    one = sigma_of_noise(Noise(epsilon=8, delta=1e-5), in_round(client, 0, n_rows=1, rounds=1))
    assert _delta(8, math.sqrt(2) / one) == pytest.approx(1e-5, rel=1e-3)  # Balle and Wang's exact condition
    many = sigma_of_noise(Noise(epsilon=8, delta=1e-5), in_round(client, 0, n_rows=1000, rounds=100))
    assert many == pytest.approx(one * math.sqrt(100_000))
    assert many == pytest.approx(268, rel=0.01)  # the figure of docs/guides/defences.md
    assert sigma_of_noise(Noise(epsilon=8, clip=0.5), client) == pytest.approx(sigma_of_noise(Noise(), client) / 2)


def _delta(eps: float, mu: float) -> float:
    from scipy.stats import norm

    return float(norm.cdf(mu / 2 - eps / mu) - math.exp(eps) * norm.cdf(-mu / 2 - eps / mu))


def test_noise_differs_between_rounds_and_is_small_for_a_large_epsilon() -> None:
    k, client = knowledge_of_a_client()
    after, later = (Noise(epsilon=8).privatise(in_round(client, r), k) for r in (1, 2))
    assert not np.array_equal(after.values, later.values)
    small_noise = Noise(epsilon=1e7)  # the rows hardly change
    np.testing.assert_allclose(privatised(small_noise)[1].values, privatised(small_noise)[0].values, atol=0.2)
    assert sigma_of_noise(small_noise, client) < 0.02


@pytest.mark.parametrize("defence", [Noise(), Pate(shards=4)], ids=str)
def test_only_the_key_of_the_client_determines_the_noise(defence: Noise | Pate) -> None:
    k, client = knowledge_of_a_client()
    secret, other = replace(client, noise_key=noise_key()), replace(client, noise_key=noise_key())
    of_other_run = replace(secret, terms=replace(secret.terms, seed=99), rng=np.random.default_rng(5))
    sent = defence.privatise(secret, k).values
    assert np.array_equal(defence.privatise(of_other_run, k).values, sent)
    assert not np.array_equal(defence.privatise(other, k).values, sent)
    neighbour = replace(secret, data=replace(secret.data, client=2))
    assert not np.array_equal(defence.privatise(neighbour, k).values, sent)


def test_nothing_is_claimed_with_a_known_seed() -> None:
    for kind in (Noise, Pate, DpSgd):
        assert claim(kind()) == (8.0, 1e-5)
        assert "server" in covered(kind())
        assert (claim(kind(seed=3)), covered(kind(seed=3))) == (None, ())


def test_the_terms_are_private_if_the_defence_has_an_epsilon() -> None:
    for name, kind in DEFENCES.items():
        assert replace(TERMS, defence={**vars(kind()), "name": name}).private == issubclass(kind, Private)


@pytest.mark.parametrize("epsilon", [0.01, 0.5, 8.0, 300.0])
@pytest.mark.parametrize("delta", [1e-9, 1e-5, 0.1])
def test_the_gaussian_mechanism_has_the_noise_of_dp_accounting(epsilon: float, delta: float) -> None:
    from dp_accounting.pld.common import DifferentialPrivacyParameters
    from dp_accounting.pld.privacy_loss_mechanism import GaussianPrivacyLoss

    oracle = GaussianPrivacyLoss.from_privacy_guarantee(DifferentialPrivacyParameters(epsilon, delta), 1.0)
    multiplier = gaussian_multiplier(epsilon, delta)
    assert multiplier == pytest.approx(oracle.standard_deviation, rel=1e-5)
    assert 0.999 * delta < gaussian_delta(epsilon, multiplier) <= delta


def test_a_coordinator_cannot_make_a_device_exceed_its_budget() -> None:
    _, client = knowledge_of_a_client()
    terms, plan, spent = TERMS, client.plan, 0.0
    for _ in range(TERMS.training.rounds):
        spent = spend(Noise(), terms, plan, ROWS, spent)
    assert spend(Noise(), terms, replace(plan, closing=True), ROWS, spent) == spent
    for rounds in (TERMS.training.rounds, 10**6):  # also if the device joins again with other terms
        more = replace(terms, training=replace(terms.training, rounds=rounds))
        with pytest.raises(RunError, match="the privacy budget of this run is spent"):
            spend(Noise(), more, plan, ROWS, spent)
    assert spend(Pate(), terms, plan, ROWS, spend(Pate(), terms, plan, ROWS, 0.0)) == 1.0
    with pytest.raises(RunError, match="3 of 40 rows"):
        spend(Pate(), terms, replace(plan, ids=np.arange(3)), ROWS, 0.0)  # the noise of few rows would be small
    assert spend(TopK(), terms, plan, ROWS, 0.0) == 0.0


def test_clipping_limits_norms_and_the_projection_is_the_nearest_probability_row() -> None:
    rows = np.array([[0.6, 0.8, 0.0], [0.3, 0.4, 0.0], [-1.0, 0.0, 2.0]], np.float32)
    np.testing.assert_allclose(np.linalg.norm(clipped(rows, 0.5), axis=1), 0.5, atol=1e-6)
    rng = np.random.default_rng(0)
    for v in rng.normal(0, 3, (20, 6)).astype(np.float32):
        p = onto_simplex(v[None])[0]
        others = rng.dirichlet(np.ones(6), 500)
        assert (np.linalg.norm(others - v, axis=1) >= np.linalg.norm(p - v) - 1e-5).all()


def test_one_record_changes_at_most_one_vote_per_row() -> None:
    _, client = knowledge_of_a_client()
    data, changed = client.data, client.data.x.copy()
    changed[7] = 100
    other = ClientData(1, changed, np.where(np.arange(30) == 7, 0, data.y), *_heldout_and_contributed(data))
    a, b = (votes(d, client.proxy.x, 4, CLASSES, np.random.default_rng(5)) for d in (data, other))
    assert (a.sum(1) == 4).all()
    assert not np.array_equal(a, b)
    assert (np.abs(a - b).sum(1) <= 2).all()  # one count falls and one rises by 1: sqrt(2) in L2


def _heldout_and_contributed(data: ClientData) -> tuple[Any, Any, Any]:
    return data.x_heldout, data.y_heldout, data.contributed


def test_the_noisy_vote_is_the_same_in_every_round() -> None:
    k, client = knowledge_of_a_client()
    first, later = (Pate(shards=4).privatise(in_round(client, r), k) for r in (0, 3))
    assert first.equals(later)
    noise = Noise(epsilon=8)
    assert sigma_of_votes(Pate(), client) == pytest.approx(
        sigma_of_noise(noise, client) / math.sqrt(TERMS.training.rounds)
    )
    small_noise = Pate(shards=4, epsilon=1e7).privatise(client, k)
    assert (small_noise.values.argmax(1) == k.values.argmax(1)).mean() > 0.6  # class means find most classes


def test_a_vote_spends_its_budget_on_all_rows_that_could_be_queried() -> None:
    k, client = knowledge_of_a_client()
    few = in_round(client, 1, n_rows=10)
    few = replace(few, terms=replace(few.terms, selection=selection_of({"name": "random", "budget": 10})))
    assert sigma_of_votes(Pate(), few) == sigma_of_votes(Pate(), client)
    everything = Pate(shards=4).privatise(client, k)
    part = np.arange(0, len(k), 3)
    queried = Knowledge(k.ids[part], k.values[part], k.weights[part])
    assert np.array_equal(Pate(shards=4).privatise(few, queried).values, everything.values[part])


@pytest.mark.parametrize(
    ("settings_section", "message"),
    [
        ({"name": "topk"}, "unknown defence 'topk': there are none, top_k"),
        ({"name": "top_k", "n": 3}, "defence top_k has no setting 'n'"),
        ({"name": "top_k", "k": 0}, "k must be at least 1"),
        ({"name": "top_k", "k": 1.5}, "k cannot be 1.5"),
        ({"name": "swing", "temperature": 0.0}, "temperature must be above 0"),
        ({"name": "swing", "swing": -1.0}, "swing must not be negative"),
        ({"name": "noise", "epsilon": 0.0}, "epsilon must be at least 0.01"),
        ({"name": "noise", "delta": 0.9}, "delta must be above 0 and far below 1"),
        ({"name": "noise", "clip": 2.0}, "at most 1"),
        ({"name": "noise", "seed": -1}, "seed must be at least 0"),
        ({"name": "pate", "shards": 0}, "shards must be at least 1"),
        ({"name": "dp_sgd", "clip": 0.0}, "clip must be above 0"),
    ],
)
def test_invalid_settings_are_refused(settings_section: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        defence_of(settings_section)


def test_dp_sgd_draws_each_row_independently_by_poisson_sampling() -> None:
    from edgefd.defences.dp_sgd import poisson

    rows = np.zeros((1000, 2), np.float32)
    private = Batch(rows, rows, np.ones(1000, np.float32))
    sizes = np.array([len(b) for b in poisson(private, 300, 0.05, np.random.default_rng(0))])
    assert sizes.mean() == pytest.approx(50, rel=0.05)
    assert sizes.var() == pytest.approx(1000 * 0.05 * 0.95, rel=0.3)  # binomial; batches of a fixed size have none
