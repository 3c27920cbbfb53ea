"""`ClientContext` and `ServerContext`: all that the hooks of a method may use."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from edgefd.core.arrays import Float32, Int64
from edgefd.core.knowledge import Knowledge, weighted_mean
from edgefd.core.seeding import NoiseKey, Purpose, make_rng, noise_key
from edgefd.federation.clients import ClientData, ProxySet
from edgefd.federation.plan import RoundPlan
from edgefd.federation.report import Report
from edgefd.federation.terms import FederationTerms
from edgefd.learners.batches import Batch, labelled, softmax
from edgefd.learners.learner import Learner

_KEY_OF_THIS_PROCESS = noise_key()


@dataclass(frozen=True, eq=False)
class ClientContext:
    """A client in one round. Its learner is trained in place; nothing else changes during a round."""

    data: ClientData
    """private data"""
    learner: Learner
    """model of the client"""
    proxy: ProxySet
    """the shared samples"""
    acceptance: Float32
    """acceptance weight of each proxy row, float32 [P]: 0 = the client does not answer for it"""
    terms: FederationTerms
    """constants of the run"""
    config: Any
    """settings of the method, an instance of its Config class"""
    plan: RoundPlan
    """the round; before the first round, a plan that queries all rows"""
    rng: np.random.Generator
    """generator of the hook that is running"""
    next_round: int = 0
    """round after the last one in which the client took part; 0 = it has taken part in none"""
    noise_key: NoiseKey = _KEY_OF_THIS_PROCESS
    """key of the noise of a defence, which must stay the same for the whole run of the client"""

    @property
    def lr(self) -> float:
        """Learning rate of the round."""
        return self.terms.training.lr_at(self.plan.round)

    @property
    def missed_teachers(self) -> int:
        """Number of teachers of earlier rounds that the client has not received. Round 0 has no teacher."""
        return max(0, self.plan.round - max(1, self.next_round))

    @property
    def epochs(self) -> int:
        """Passes over the rows of the teacher in this round."""
        return self.terms.training.epochs(self.missed_teachers, self.plan.closing)

    @property
    def private(self) -> Batch:
        """Private rows with their labels."""
        return labelled(self.data.x, self.data.y, self.terms.n_classes)

    def probs(self, ids: Int64) -> Float32:
        """Return soft labels of proxy rows by the client's model, float32 [n, C]."""
        return softmax(self.learner.predict_logits(self.proxy.x[ids]))

    def draw(self, purpose: Purpose, *keys: int) -> ClientContext:
        """Return the context with the generator of (seed, purpose, round, client, *keys)."""
        return replace(self, rng=make_rng(self.terms.seed, purpose, self.plan.round, self.data.client, *keys))

    def noise_rng(self, *keys: int) -> np.random.Generator:
        """Return the generator of (noise key, client, *keys). The seed of the run, which all know, does not matter."""
        return np.random.default_rng([*self.noise_key, int(Purpose.DEFENCE), self.data.client, *keys])


def client_context(
    data: ClientData, learner: Learner, proxy: ProxySet, acceptance: Float32, terms: FederationTerms, config: Any
) -> ClientContext:
    """Return the context of a client before the first round, with the generator of its filter."""
    plan = RoundPlan(0, np.arange(len(proxy)))
    rng = make_rng(terms.seed, Purpose.FILTER, data.client)
    return ClientContext(data, learner, proxy, acceptance, terms, config, plan, rng)


@dataclass(frozen=True, eq=False)
class ServerContext:
    """The server in one round."""

    reports: Sequence[Report]
    """reports of the round, sorted by client"""
    teacher: Knowledge | None
    """teacher of the last round; None in the first one"""
    plan: RoundPlan
    """the round"""
    proxy: ProxySet
    """the shared samples"""
    terms: FederationTerms
    """constants of the run"""
    config: Any
    """settings of the method, an instance of its Config class"""
    labels: Int64 | None = None
    """labels of the proxy samples, int64 [P]; None unless the method declares that it uses them"""
    learner: Learner | None = None
    """model of the server; None unless the method declares one"""
    combine: Callable[[Sequence[Knowledge]], Knowledge] = weighted_mean
    """average of soft labels, row by row: the weighted mean, or the robust rule of the config's `aggregator`"""
    recalled: Sequence[Report] = ()
    """newest knowledge of absent clients, with discounted weights; none unless the method declares `remembers`"""
    state: dict[str, np.ndarray] = field(default_factory=dict)
    """arrays that the method keeps from round to round, by name: `aggregate` adds and replaces them in place"""

    @property
    def uploads(self) -> list[Knowledge]:
        """Knowledge of all reports and of the absent clients that are remembered, sorted by client."""
        return [r.knowledge for r in sorted([*self.reports, *self.recalled], key=lambda report: report.client)]
