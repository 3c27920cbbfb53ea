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

_BATCHES, _NOISE = 0, 1  # last keys of the generators that only the client knows


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
    seed: int | None = None
    """seed of batches and noise, for tests only: nothing is claimed with one, because others could subtract the noise.
    None = they come from the entropy of the operating system"""

    def __post_init__(self) -> None:
        check_budget(self.epsilon, self.delta, self.seed)
        if self.clip <= 0:
            raise ValueError("clip must be above 0")


def local_step(ctx: ClientContext, settings: DpSgd) -> float:
    """Make the private steps of a round as DP-SGD on private rows and return the mean loss.

    Each record enters each batch independently with probability q = local_batch_size / n (Poisson sampling), so batches
    differ in size. The gradient of a step is (sum_i min(1, C / |g_i|) g_i + N(0, sigma^2 C^2)) / (q n). The optimizer
    of the learner applies it, which costs no privacy.

    Only the client knows the generators of the batches and of the noise; dropout has a generator of its own, which
    depends on the seed of the run. The noise is numpy's: torch's generators on the CPU use 32 bits of a seed.

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
    training, round, private = ctx.terms.training, ctx.plan.round, ctx.private
    rate, losses = rate_of(len(private), training), []
    sigma, noise = noise_multiplier(len(private), training, settings), ctx.noise_rng(round, _NOISE)
    with seeded(int(ctx.rng.integers(2**63))), warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # torch warns about hooks on inputs that need no gradient
        model = GradSampleModule(ctx.learner.model)
        hooks = [layer.register_forward_pre_hook(_contiguous) for layer in ctx.learner.model.modules()]
        optimizer = DPOptimizer(
            torch.optim.SGD(model.parameters(), lr=0.0),
            noise_multiplier=0.0,  # the noise is added below
            max_grad_norm=settings.clip,
            expected_batch_size=rate * len(private),  # a divisor; it need not be an integer
        )
        model.train()
        batches = poisson(private, training.private_steps(round, len(private)), rate, ctx.noise_rng(round, _BATCHES))
        for batch in training.augment(batches, ctx.rng):
            losses += _gradients_of_rows(model, batch)
            optimizer.pre_step()  # clips, sums and divides
            gradients = [p.grad for p in model.parameters() if p.requires_grad]
            _add_noise(gradients, sigma * settings.clip / (rate * len(private)), noise)
            ctx.learner.step(gradients, ctx.lr)
            optimizer.zero_grad(set_to_none=True)
        model.eval()
        model.remove_hooks()
        for hook in hooks:
            hook.remove()
    mean = float(np.mean(losses)) if losses else 0.0
    if not math.isfinite(mean):
        raise RunError("a training step gave numbers that are not finite: set a smaller train.lr")
    return mean


def _add_noise(gradients: list[Tensor | None], sigma: float, rng: np.random.Generator) -> None:
    import torch

    for gradient in gradients:
        assert gradient is not None, "Opacus gives a gradient to each parameter that needs one"
        gradient += torch.from_numpy(rng.normal(0, sigma, tuple(gradient.shape))).to(gradient.dtype)


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
