"""Logit-adjusted loss of private labels: it teaches how the client's classes differ, and not how frequent they are."""

from __future__ import annotations

import numpy as np

from edgefd.core.arrays import Float32, Float64, Int64
from edgefd.learners.losses._loss import StepLoss
from edgefd.learners.probabilities import softmax64


def logit_adjusted(shares: Float64) -> StepLoss:
    """Return the loss H(y, a) with a_c = pi_c exp(z_c) / sum_j pi_j exp(z_j), for private rows with labels y.

    By Bayes' rule, a model of a client whose classes have the frequencies pi has the logits log p(x|c) + log pi_c. The
    plain loss H(y, softmax(z)) therefore also teaches pi: a model that knows all classes forgets those that the client
    does not have. Here log pi is added to the logits during the training only, so z learns log p(x|c) alone. The
    gradient is a - y: it is 0 for all logits of classes that the client does not have, and 0 altogether for a client of
    one class. With equal frequencies, the loss is the plain one.

    Source: Menon et al., *Long-tail learning via logit adjustment*, ICLR 2021, equation 10 with tau = 1. Zhang et al.,
    *Federated Learning with Label Distribution Skew via Logits Calibration* (FedLC), ICML 2022, use it in federations.

    Args:
        shares: pi, the share of each class in the client's private rows, float64 [C].
    """
    with np.errstate(divide="ignore"):
        log_shares = np.log(shares)  # minus infinity for classes that the client does not have

    def loss(z: Float32, y: Float32) -> tuple[Float64, Float64]:
        a = softmax64(z + log_shares)
        losses = -np.log(np.maximum((a * y).sum(1), np.finfo(np.float64).tiny))
        return softmax64(z) - (a - y), losses

    return loss


def class_shares(y: Int64, n_classes: int) -> Float64:
    """Return the share of each class among labels, float64 [C].

    >>> class_shares(np.array([0, 0, 0, 2]), 3)
    array([0.75, 0.  , 0.25])
    """
    return np.asarray(np.bincount(y, minlength=n_classes) / max(len(y), 1))
