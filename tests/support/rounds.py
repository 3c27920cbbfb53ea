"""A federation of four clients with its plans and soft labels."""

import numpy as np

from edgefd.core.knowledge import Knowledge
from edgefd.federation.plan import RoundPlan
from edgefd.federation.terms import FederationInfo, FederationTerms
from edgefd.federation.training import Training

INFO = FederationInfo("run", 4, FederationTerms("fedmd", {}, "float32", 0, 3, "", training=Training(rounds=9)))


def knowledge(seed: int = 0) -> Knowledge:
    values = np.random.default_rng(seed).dirichlet(np.ones(3), 5).astype(np.float32)
    return Knowledge(np.arange(5), values, np.ones(5, np.float32))


def plan(round: int = 0) -> RoundPlan:
    return RoundPlan(round, np.arange(5), closing=round >= 9)
