"""DP-SGD: the client's model itself is differentially private, and so is all that is ever told by it.

M. Abadi et al., arXiv 1607.00133. Gradients of single records, clipping and noise are Opacus'; sigma is that of
`dp-accounting`.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from edgefd.core.errors import RunError, UserError, require
from edgefd.defences.accounting import sgd_multiplier
from edgefd.defences.noise import check_budget
from edgefd.federation.plan import RoundPlan, Training
from edgefd.learners.batches import Batch, random_shift
from edgefd.learners.learner import Learner

if TYPE_CHECKING:
    from torch import Tensor, nn


@dataclass(frozen=True)
class DpSgd:
    """Noisy, clipped gradients in the steps on private data."""

    name: Literal["dp_sgd"] = "dp_sgd"
    epsilon: float = 8.0
    """of the whole run, against adding or removing one of a client's training records"""
    delta: float = 1e-5
    clip: float = 1.0
    """C: largest L2 norm of one record's gradient"""

    def __post_init__(self) -> None:
        check_budget(self.epsilon, self.delta)
        if self.clip <= 0:
            raise ValueError("clip must be above 0")


def run_local_training(
    learner: Learner, own: Batch, steps: int, plan: RoundPlan, rng: np.random.Generator, settings: DpSgd
) -> float:
    """`steps` steps of DP-SGD on private rows; the mean loss.

    Each record comes into each batch with probability q = batch_size / n, on its own (Poisson), so batches differ in
    size. A step's gradient is (sum_i min(1, C / |g_i|) g_i + N(0, sigma^2 C^2)) / (q n); the learner's own optimizer
    does the rest, which costs nothing.

    Raises:
        UserError: for a learner that is not torch's.
        RunError: when the loss has stopped being finite.
    """
    import torch
    from opacus import GradSampleModule
    from opacus.optimizers import DPOptimizer

    from edgefd.learners.torch_learner import TorchLearner

    if not isinstance(learner, TorchLearner):
        raise UserError("defence dp_sgd needs gradients of single records, which only the torch learner has")
    rate, seed = rate_of(len(own), plan.training), int(rng.integers(2**63))
    losses = []
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # torch's, about hooks on inputs that need no gradient
        torch.manual_seed(seed)  # what dropout draws then depends on no other client
        model = GradSampleModule(learner.model)
        hooks = [layer.register_forward_pre_hook(_contiguous) for layer in learner.model.modules()]
        optimizer = DPOptimizer(
            torch.optim.SGD(model.parameters(), lr=0.0),
            noise_multiplier=noise_multiplier(len(own), plan.training, settings),
            max_grad_norm=settings.clip,
            expected_batch_size=rate * len(own),  # a divisor, and need not be whole
            generator=torch.Generator().manual_seed(seed),
        )
        model.train()
        for batch in poisson(own, steps, rate, plan.training.augment_shift, rng):
            losses += _gradients_of_rows(model, batch)
            optimizer.pre_step()  # clips, sums up, adds noise and divides
            learner.step([p.grad for p in model.parameters()], plan.training.lr_at(plan.round))
            optimizer.zero_grad(set_to_none=True)
        model.eval()
        model.remove_hooks()
        for hook in hooks:
            hook.remove()
    mean = float(np.mean(losses)) if losses else 0.0
    if not math.isfinite(mean):
        raise RunError("a training step gave numbers that are not finite: try a smaller train.lr")
    return mean


def _gradients_of_rows(model: nn.Module, batch: Batch) -> list[float]:
    """Leave them in the parameters' `grad_sample`, [n, ...]; the loss, if there is any row."""
    import torch
    from torch.nn.functional import cross_entropy

    from edgefd.learners.torch_learner import tensor_of

    if not len(batch):
        for p in model.parameters():
            p.grad_sample = torch.zeros((0, *p.shape))  # type: ignore[attr-defined]  # Opacus' own attribute
        return []
    loss = cross_entropy(model(tensor_of(batch.x)), torch.from_numpy(batch.targets))
    loss.backward()  # type: ignore[no-untyped-call]
    return [loss.item()]


def _contiguous(layer: nn.Module, arguments: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Inputs in the plain order of memory: Opacus 1.6 makes wrong gradients of convolutions of channels_last images."""
    return tuple(a.contiguous() for a in arguments)


def poisson(own: Batch, steps: int, rate: float, shift: int, rng: np.random.Generator) -> Iterator[Batch]:
    """Batches into which each row comes with probability `rate`; images moved as `train.augment_shift` says."""
    batches = (own.rows(np.flatnonzero(rng.random(len(own)) < rate)) for _ in range(steps))
    return random_shift(batches, shift, rng) if shift else batches


def rate_of(n: int, training: Training) -> float:
    """q, with which each of n records comes into a batch."""
    return min(1.0, training.batch_size / n)


def noise_multiplier(n: int, training: Training, settings: DpSgd) -> float:
    """The noise sigma for a client of n training records, over all private steps of the run."""
    steps = training.rounds * training.local_steps
    return sgd_multiplier(settings.epsilon, settings.delta, rate_of(n, training), steps)


def check_model(name: str, model: nn.Module) -> None:
    """Whether a model has gradients of single records.

    Raises:
        UserError: naming what it has that mixes records, such as batch normalisation.
    """
    require("privacy", "opacus", "dp_accounting")
    from opacus.validators import ModuleValidator

    if errors := ModuleValidator.validate(model, strict=False):
        raise UserError(f"defence dp_sgd: model {name} cannot be trained by it: {' '.join(str(errors[0]).split())}")
