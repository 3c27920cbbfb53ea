"""Which tensors of a module are the state of its exported training step, and under which names.

model/<name>       parameters that are trained, and floating-point buffers that training changes
counter/<name>     buffers of other types that training changes, such as a number of steps
optimizer/...      moments of the optimizer
fixed/<name>       constants of the graphs: parameters that need no gradient, and buffers that never change
"""

from __future__ import annotations

import copy
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from edgefd.learners.optimizer import SLOTS


def copy_of(model: nn.Module) -> nn.Module:
    """Return a copy of the module in torch's default memory order."""
    copied: nn.Module = copy.deepcopy(model).to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    return copied


def bare(name: str) -> str:
    """Return the name of a tensor in its module.

    >>> bare("model/conv1.weight")
    'conv1.weight'
    """
    return name.partition("/")[2]


def initial_state(model: nn.Module, optimizer: str) -> dict[str, Tensor]:
    """Return all tensors that may be state of a step, in their order: those of the model, then zeros of the optimizer.

    The tensors of the model are in the order of `state_dict`. A parameter with several names has its first one.
    """
    tensors = {name: tensor.detach().contiguous().clone() for name, tensor in _named(model) if name[:6] != "fixed/"}
    trained = [bare(name) for name in trained_parameters(model)]
    slots = {
        f"optimizer/{slot}/{name}": torch.zeros_like(tensors[f"model/{name}"])
        for slot in SLOTS[optimizer]
        for name in trained
    }
    return tensors | slots | ({"optimizer/step": torch.zeros(())} if optimizer == "adam" else {})


def trained_parameters(model: nn.Module) -> dict[str, Tensor]:
    """Return the parameters that are trained, by their names in the state."""
    return {name: tensor.detach() for name, tensor in _named(model) if tensor.requires_grad}


def buffers_of(model: nn.Module) -> dict[str, Tensor]:
    """Return the buffers, by the names that they have in the state if training changes them."""
    return {name: t for name, t in _named(model) if not isinstance(t, nn.Parameter)}


def frozen_parameters(model: nn.Module) -> dict[str, Tensor]:
    """Return copies of the parameters that need no gradient."""
    return {name: tensor.detach().clone() for name, tensor in _named(model) if name.startswith("fixed/")}


def cumulative_statistics(model: nn.Module) -> dict[str, str]:
    """Return the names of the cumulative means (`momentum=None`) of batch normalisation in a module in training mode.

    Each value is the name of the number of batches. The momentum of these layers becomes 1, so the layer itself gives
    the statistics of one batch.
    """
    found: dict[str, str] = {}
    for prefix, layer in model.named_modules():
        if (
            isinstance(layer, _BatchNorm)
            and layer.training
            and layer.momentum is None
            and layer.running_mean is not None
        ):
            path = f"{prefix}." if prefix else ""
            counter = f"counter/{path}num_batches_tracked"
            found |= dict.fromkeys((f"model/{path}running_mean", f"model/{path}running_var"), counter)
            layer.momentum = 1.0
    return found


def unread_counters(model: nn.Module) -> set[str]:
    """Return the names of the numbers of batches that no layer reads: those of batch normalisation with a momentum."""
    return {
        f"counter/{prefix}.num_batches_tracked" if prefix else "counter/num_batches_tracked"
        for prefix, layer in model.named_modules()
        if isinstance(layer, _BatchNorm) and layer.num_batches_tracked is not None and layer.momentum is not None
    }


def _named(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Yield the tensors of the module once each, by their names in the state, in the order of `state_dict`."""
    seen: set[int] = set()
    for prefix, module in model.named_modules():
        for name, tensor in (*module._parameters.items(), *module._buffers.items()):
            if tensor is not None and id(tensor) not in seen:
                seen.add(id(tensor))
                yield f"{_kind(tensor)}/{prefix}.{name}" if prefix else f"{_kind(tensor)}/{name}", tensor


def _kind(tensor: Tensor) -> str:
    if isinstance(tensor, nn.Parameter):
        return "model" if tensor.requires_grad else "fixed"
    return "model" if tensor.dtype == torch.float32 else "counter"
