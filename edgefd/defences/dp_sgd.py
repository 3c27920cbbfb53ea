"""DP-SGD: the model of a client is differentially private, and so is everything that is computed from the model.

M. Abadi et al., arXiv 1607.00133. Opacus computes gradients of single records, clipping and noise. `dp-accounting`
computes sigma.
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
from edgefd.federation.context import ClientContext
from edgefd.federation.training import Training
from edgefd.learners.batches import Batch

if TYPE_CHECKING:
    from torch import Tensor, nn


@dataclass(frozen=True)
class DpSgd:
    """Noisy, clipped gradients in the training steps on private data."""

    name: Literal["dp_sgd"] = "dp_sgd"
    epsilon: float = 8.0
    """epsilon of the whole run, for adding or removing one training record of a client"""
    delta: float = 1e-5
    """delta of the whole run"""
    clip: float = 1.0
    """C: the largest L2 norm of the gradient of one record"""

    def __post_init__(self) -> None:
        check_budget(self.epsilon, self.delta)
        if self.clip <= 0:
            raise ValueError("clip must be above 0")


def local_step(ctx: ClientContext, settings: DpSgd) -> float:
    """Make the private steps of a round as DP-SGD on private rows and return the mean loss.

    Each record enters each batch independently with probability q = local_batch_size / n (Poisson sampling), so batches
    differ in size. The gradient of a step is (sum_i min(1, C / |g_i|) g_i + N(0, sigma^2 C^2)) / (q n). The optimizer
    of the learner applies it, which costs no privacy.

    Raises:
        UserError: for a learner that is not a torch learner.
        RunError: if the loss is not finite.
    """
    import torch
    from opacus import GradSampleModule
    from opacus.optimizers import DPOptimizer

    from edgefd.learners.noise import seeded
    from edgefd.learners.torch_learner import TorchLearner

    if not isinstance(ctx.learner, TorchLearner):
        raise UserError("defence dp_sgd needs gradients of single records: set run.learner=torch")
    training, seed = ctx.terms.training, int(ctx.rng.integers(2**63))
    private = ctx.private
    rate = rate_of(len(private), training)
    losses = []
    with seeded(seed), warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # torch warns about hooks on inputs that need no gradient
        model = GradSampleModule(ctx.learner.model)
        hooks = [layer.register_forward_pre_hook(_contiguous) for layer in ctx.learner.model.modules()]
        optimizer = DPOptimizer(
            torch.optim.SGD(model.parameters(), lr=0.0),
            noise_multiplier=noise_multiplier(len(private), training, settings),
            max_grad_norm=settings.clip,
            expected_batch_size=rate * len(private),  # a divisor; it need not be an integer
            generator=torch.Generator().manual_seed(seed),
        )
        model.train()
        steps = training.private_steps(ctx.plan.round, len(private))
        batches = poisson(private, steps, rate, ctx.rng)
        for batch in training.augment(batches, ctx.rng):
            losses += _gradients_of_rows(model, batch)
            optimizer.pre_step()  # clips, sums, adds noise and divides
            ctx.learner.step([p.grad for p in model.parameters() if p.requires_grad], ctx.lr)
            optimizer.zero_grad(set_to_none=True)
        model.eval()
        model.remove_hooks()
        for hook in hooks:
            hook.remove()
    mean = float(np.mean(losses)) if losses else 0.0
    if not math.isfinite(mean):
        raise RunError("a training step gave numbers that are not finite: set a smaller train.lr")
    return mean


def _gradients_of_rows(model: nn.Module, batch: Batch) -> list[float]:
    """Compute the gradients of single rows into `grad_sample`, [n, ...], of the parameters. Return the loss, if any."""
    import torch
    from torch.nn.functional import cross_entropy

    from edgefd.learners.torch_learner import tensor_of

    if not len(batch):
        for p in model.parameters():
            p.grad_sample = torch.zeros((0, *p.shape))  # type: ignore[attr-defined]  # an attribute of Opacus
        return []
    loss = cross_entropy(model(tensor_of(batch.x)).float(), torch.from_numpy(batch.targets))
    loss.backward()  # type: ignore[no-untyped-call]
    return [loss.item()]


def _contiguous(layer: nn.Module, arguments: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Return inputs in the default memory order.

    Opacus 1.6 computes wrong gradients for convolutions of channels_last images.
    """
    return tuple(a.contiguous() for a in arguments)


def poisson(private: Batch, steps: int, rate: float, rng: np.random.Generator) -> Iterator[Batch]:
    """Draw batches that contain each row with probability `rate`."""
    return (private.rows(np.flatnonzero(rng.random(len(private)) < rate)) for _ in range(steps))


def rate_of(n: int, training: Training) -> float:
    """Return q, the probability with which each of n records enters a batch."""
    return min(1.0, training.private_batch_size / n)


def noise_multiplier(n: int, training: Training, settings: DpSgd) -> float:
    """Return the noise sigma for a client with n training records, over all private steps of the run."""
    steps = sum(training.private_steps(round, n) for round in range(training.rounds))
    return sgd_multiplier(settings.epsilon, settings.delta, rate_of(n, training), steps)


def check_model(name: str, model: nn.Module) -> None:
    """Check that the gradients of single records of a model exist.

    Raises:
        UserError: for a model with a layer that mixes records, such as batch normalisation, with its name.
    """
    require("privacy", "opacus", "dp_accounting")
    from opacus.validators import ModuleValidator

    if errors := ModuleValidator.validate(model, strict=False):
        raise UserError(f"defence dp_sgd cannot train model {name}: {' '.join(str(errors[0]).split())}")
