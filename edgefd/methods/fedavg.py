"""FedAvg: the mean of all clients' parameters, weighted by their samples (McMahan et al., arXiv 1602.05629).

What the paper says and what is chosen here: docs/methods/fedavg.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from edgefd.core.errors import RunError
from edgefd.core.knowledge import Knowledge, empty, weighted_mean
from edgefd.federation.clients import ProxySet
from edgefd.federation.method import MessageKind, Method, accept_none
from edgefd.federation.plan import RoundPlan
from edgefd.federation.state import ClientState
from edgefd.methods._parameters import parameters, set_parameters
from edgefd.methods._references import without_contribution

MOST_SAMPLES = 10**6
"""largest number of samples: weights are in (0, 1], so n samples have weight n / MOST_SAMPLES, with the same mean"""


def upload(state: ClientState, proxy: ProxySet, plan: RoundPlan, config: Any) -> Knowledge:
    """Return one row: its values are the parameters, its weight is proportional to the number of samples."""
    n = len(state.data.x)
    if n > MOST_SAMPLES:
        raise RunError(f"client {state.data.client} has {n} samples; parameters are averaged for up to {MOST_SAMPLES}")
    weight = np.array([n / MOST_SAMPLES], np.float32)
    return Knowledge(np.zeros(1, np.int64), parameters(state.learner)[None], weight)


def aggregate(uploads: Sequence[Knowledge], config: Any) -> Knowledge:
    """Return sum_k n_k theta_k / sum_k n_k, or no row if no upload has parameters."""
    sent = [u for u in uploads if len(u)]
    return weighted_mean(sent) if sent else uploads[0]


def personalise_teacher(teacher: Knowledge, state: ClientState, proxy: ProxySet, config: Any) -> Knowledge:
    """Load the mean into the client's model and return an empty teacher: there is nothing to distil."""
    if len(teacher):
        set_parameters(state.learner, teacher.values[0])
    return empty(state.n_classes)


METHOD = Method(
    name="fedavg",
    summary="the mean of all clients' parameters, weighted by number of samples; one shared model, no proxy set",
    client_filter=accept_none,
    aggregate=aggregate,
    transform_federation=without_contribution,
    personalise_teacher=personalise_teacher,
    upload=upload,
    message=MessageKind.PARAMETERS,
    local_training="always",
)
