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
from edgefd.methods._references import undisclosed

MOST_SAMPLES = 10**6
"""weights are in (0, 1], so n samples are the weight n / MOST_SAMPLES; the mean is the same"""


def upload(state: ClientState, proxy: ProxySet, plan: RoundPlan, config: Any) -> Knowledge:
    """One row: values = parameters, weight = number of samples."""
    n = len(state.data.x)
    if n > MOST_SAMPLES:
        raise RunError(f"client {state.data.client} has {n} samples; parameters are averaged for up to {MOST_SAMPLES}")
    weight = np.array([n / MOST_SAMPLES], np.float32)
    return Knowledge(np.zeros(1, np.int64), parameters(state.learner)[None], weight)


def aggregate(uploads: Sequence[Knowledge], config: Any) -> Knowledge:
    """sum_k n_k theta_k / sum_k n_k; without uploads that hold parameters, nothing."""
    sent = [u for u in uploads if len(u)]
    return weighted_mean(sent) if sent else uploads[0]


def personalise_teacher(teacher: Knowledge, state: ClientState, proxy: ProxySet, config: Any) -> Knowledge:
    """Go on from the mean; there is nothing to distil."""
    if len(teacher):
        set_parameters(state.learner, teacher.values[0])
    return empty(state.n_classes)


METHOD = Method(
    name="fedavg",
    summary="the mean of all clients' parameters, weighted by their samples; one model for all, no proxy set",
    client_filter=accept_none,
    aggregate=aggregate,
    transform_federation=undisclosed,
    personalise_teacher=personalise_teacher,
    upload=upload,
    message=MessageKind.PARAMETERS,
    local_training="always",
)
