"""Optimizers in numpy, and a fresh start of the optimizer of any learner.

An exported training graph has one update in it: SGD with momentum 0.9, or Adam, both without weight decay. For other
settings, `edgefd.learners.onnx_learner` takes the gradient from the graph and makes the update with `update` below. So
a device runs the same known graph for all settings.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from edgefd.core.arrays import Float32
from edgefd.learners.learner import Learner

MOMENTUM = 0.9
"""momentum of SGD if nothing else is set, and always in an exported graph"""
BETAS = (0.9, 0.999)
"""decay of the first and the second moments of Adam"""
EPS = 1e-8
"""epsilon of Adam"""
SLOTS = {"sgd": ("momentum_buffer",), "adam": ("exp_avg", "exp_avg_sq")}
"""moments that an optimizer keeps of each parameter, by the names that they have in a state"""


def reset_optimizer(learner: Learner) -> None:
    """Give a learner a fresh optimizer: its moments and its number of steps become 0, its model stays as it is."""
    state = learner.state()
    learner.load_state({n: np.zeros_like(v) if n.startswith("optimizer/") else v for n, v in state.items()})


def update(state: Mapping[str, np.ndarray], gradients: Mapping[str, Float32], lr: float, momentum: float) -> None:
    """Make one step of Adam, if the state has `optimizer/step`, or of SGD. The state is changed in place.

    SGD: m <- momentum m + g; theta <- theta - lr m. Adam, step t, with b1, b2 = BETAS:
    m <- b1 m + (1 - b1) g; v <- b2 v + (1 - b2) g^2;
    theta <- theta - lr m / (1 - b1^t) / (sqrt(v / (1 - b2^t)) + EPS). Both are as in `torch.optim`.

    Args:
        state: arrays as in `Learner.state()`.
        gradients: gradient of each trained parameter, by its name without `model/`.
        lr: learning rate.
        momentum: of SGD.
    """
    adam = "optimizer/step" in state
    if adam:
        state["optimizer/step"][...] += 1
    for name, g in gradients.items():
        theta = state[f"model/{name}"]
        if adam:
            _adam(theta, state[f"optimizer/exp_avg/{name}"], state[f"optimizer/exp_avg_sq/{name}"], g, lr, state)
        else:
            m = state[f"optimizer/momentum_buffer/{name}"]
            m *= momentum
            m += g
            theta -= lr * m


def _adam(theta: Float32, m: Float32, v: Float32, g: Float32, lr: float, state: Mapping[str, np.ndarray]) -> None:
    first, second = BETAS
    c1, c2 = (1 - beta ** float(state["optimizer/step"]) for beta in BETAS)
    m *= first
    m += (1 - first) * g
    v *= second
    v += (1 - second) * (g * g)
    theta -= (lr / c1) * m / (np.sqrt(v) / np.sqrt(np.float32(c2)) + np.float32(EPS))
