"""Optimizers in numpy, and a fresh start of the optimizer of any learner.

An exported training graph has one update in it: SGD with momentum 0.9, or Adam, both without weight decay. For other
settings, `edgefd.learners.onnx_learner` takes the gradient from the graph and makes the update with `update` below. So
a device runs the same known graph for all settings.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

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

    Args:
        state: arrays as in `Learner.state()`.
        gradients: gradient of each trained parameter, by its name without `model/`.
        lr: learning rate.
        momentum: of SGD.
    """
    step = state.get("optimizer/step")
    if step is not None:
        step[...] += 1
    for name, g in gradients.items():
        theta = state[f"model/{name}"]
        if step is None:
            sgd_step(theta, state[f"optimizer/momentum_buffer/{name}"], g, lr, momentum)
        else:
            c1, c2 = adam_corrections(float(step))
            m, v = (state[f"optimizer/{slot}/{name}"] for slot in SLOTS["adam"])
            adam_step(theta, m, v, g, lr / c1, np.sqrt(np.float32(c2)))


def sgd_step(theta: Any, m: Any, g: Any, lr: Any, momentum: float) -> None:
    """Make one step of SGD in place, as in `torch.optim`: m <- momentum m + g; theta <- theta - lr m.

    Without momentum, m stays as it is. The arrays are of numpy or torch, and of any shape; `lr` is a number, or an
    array that is broadcast.
    """
    if momentum:
        m *= momentum
        m += g
    theta -= lr * (m if momentum else g)


def adam_corrections(step: Any) -> tuple[Any, Any]:
    """Return 1 - b1^t and 1 - b2^t for step t, with b1, b2 = BETAS; t is float64, because float32 is too coarse."""
    first, second = BETAS
    return 1 - first**step, 1 - second**step


def adam_step(theta: Any, m: Any, v: Any, g: Any, rate: Any, root: Any) -> None:
    """Make one step t of Adam in place, as in `torch.optim`.

    m <- b1 m + (1 - b1) g; v <- b2 v + (1 - b2) g^2; theta <- theta - rate m / (sqrt(v) / root + EPS), with
    rate = lr / (1 - b1^t) and root = sqrt(1 - b2^t).

    The arrays are of numpy or torch, and of any shape; `rate` and `root` are numbers, or arrays that are broadcast.
    """
    first, second = BETAS
    m *= first
    m += (1 - first) * g
    v *= second
    v += (1 - second) * (g * g)
    theta -= rate * m / (v**0.5 / root + EPS)
