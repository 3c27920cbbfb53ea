"""The training step in torch: the loss and its gradients, for one model and for stacked models alike."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from edgefd.core.errors import RunError


@dataclass(frozen=True, eq=False)
class Anchors:
    """The tensors of an `edgefd.learners.batches.AnchoredBatch`."""

    anchors: Tensor
    pulled: Tensor
    strength: float


def loss_and_gradients(
    outputs: Sequence[Tensor],
    parameters: Sequence[Tensor],
    targets: Tensor,
    weights: Tensor,
    anchors: Anchors | None = None,
    stacked: bool = False,
) -> list[Tensor]:
    """Return the loss and its gradient with respect to each parameter.

    Args:
        outputs: logits [n, C] that were computed from the parameters; with anchors, also embeddings [n, E].
        parameters: the tensors that are trained.
        targets: [n, C].
        weights: [n].
        anchors: where the embeddings are pulled to; None if they do not depend on the parameters.
        stacked: whether all tensors have one more axis in front, that of the clients; the loss then has it too.
    """
    of_anchors = () if anchors is None else (anchors.anchors, anchors.pulled)
    strength = 0.0 if anchors is None else anchors.strength

    of_outputs = functools.partial(_loss_and_output_gradients, strength)
    with torch.no_grad():
        loss, *by_outputs = (torch.vmap(of_outputs) if stacked else of_outputs)(
            outputs[0], targets, weights, *outputs[1:], *of_anchors
        )
    gradients = torch.autograd.grad(outputs, parameters, by_outputs, allow_unused=True, materialize_grads=True)
    return [loss, *gradients]


def _loss_and_output_gradients(
    strength: float, logits: Tensor, targets: Tensor, weights: Tensor, *of_anchors: Tensor
) -> tuple[Tensor, ...]:
    """Return the loss, and its gradients with respect to the logits and, with anchors, to the embeddings."""
    loss, by_logits = cross_entropy(logits, targets, weights)
    if not of_anchors:
        return loss, by_logits
    embeddings, anchors, pulled = of_anchors
    gap = (embeddings - anchors) * pulled[:, None]
    return loss + strength * gap.square().mean(), by_logits, 2 * strength / gap.numel() * gap


def cross_entropy(logits: Tensor, targets: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """Return weighted soft cross-entropy and its gradient with respect to the logits.

    The rows of the gradient are w_i (softmax(z_i) - t_i) / sum_i w_i.
    """
    shares = weights / weights.sum().clamp(min=1e-8)
    log_p = torch.log_softmax(logits, 1)
    loss = -(log_p * targets).sum(1).dot(shares)
    return loss, log_p.exp_().sub_(targets).mul_(shares[:, None])


@contextmanager
def embeddings_of(model: nn.Module) -> Iterator[list[Tensor]]:
    """Collect the inputs of the last linear layer, in the order of the forward passes.

    Raises:
        RunError: if the model has no linear layer.
    """
    layers = [module for module in model.modules() if isinstance(module, nn.Linear)]
    if not layers:
        raise RunError("the model has no linear layer, so it has no embeddings")
    caught: list[Tensor] = []
    hook = layers[-1].register_forward_pre_hook(lambda _, inputs: caught.append(inputs[0].flatten(1)))
    try:
        yield caught
    finally:
        hook.remove()


def check_finite(*numbers: float) -> None:
    """Check the mean loss and the sum of the weights after training.

    Raises:
        RunError: if one is not finite.
    """
    if not all(map(math.isfinite, numbers)):
        raise RunError("a training step gave numbers that are not finite: set a smaller train.lr")


@contextmanager
def denormals_are_zero() -> Iterator[None]:
    """Treat numbers below 1.2e-38 as 0 in this thread, if the processor supports it.

    Runs use one thread. The momentum of units that are no longer active decays to such numbers: a third of all after
    500 steps on MNIST. They make a step of Adam four times as slow, and they are too small to change a weight.
    """
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(False)


def normalisations(model: nn.Module) -> list[nn.Module]:
    """Return the layers of batch normalisation of a module in training mode that use the statistics of a batch.

    A module whose method `train` keeps such a layer in evaluation mode has frozen the statistics of the layer.
    """
    return [layer for layer in model.modules() if layer.training and _normalises_batches(layer)]


def _normalises_batches(module: nn.Module) -> bool:
    """Return whether the module is a layer of batch normalisation, which may be scripted."""
    name = getattr(module, "original_name", "")
    return isinstance(module, nn.modules.batchnorm._BatchNorm) or name in ("BatchNorm1d", "BatchNorm2d", "BatchNorm3d")
