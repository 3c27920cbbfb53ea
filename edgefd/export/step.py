"""The training step and the logits of a module as functions of tensors, traced to operators of torch.

One step computes the training loss of the project (`edgefd.learners.learner`)
    loss = sum_i w_i H(t_i, softmax(z_i)) / sum_i w_i,
its gradient, and an update of SGD with momentum 0.9 or of Adam, as `edgefd.learners.torch_learner` does.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn
from torch._subclasses import FakeTensorMode
from torch.func import functional_call, grad_and_value
from torch.fx.experimental.symbolic_shapes import DimDynamic, ShapeEnv, StatelessSymbolicContext

from edgefd.core.errors import UserError
from edgefd.export.trace import trace
from edgefd.learners.optimizer import BETAS, EPS, MOMENTUM


@dataclass(frozen=True, eq=False)
class Traced:
    """A graph of torch operators with named inputs and outputs."""

    graph: fx.GraphModule
    inputs: tuple[str, ...]
    """names of the inputs, in order"""
    outputs: tuple[str, ...]
    """names of the outputs, in order"""
    fixed: dict[str, Tensor]
    """inputs that never change, by name: buffers, and parameters that need no gradient"""


def parameters_of(model: nn.Module) -> dict[str, Tensor]:
    """Return the parameters that are trained, by their names in the state: `model/<name>`."""
    return {f"model/{name}": p.detach() for name, p in model.named_parameters() if p.requires_grad}


def _fixed(model: nn.Module) -> dict[str, Tensor]:
    """Return the inputs of graphs that never change: the buffers, and the parameters that need no gradient."""
    frozen = [(name, p) for name, p in model.named_parameters() if not p.requires_grad]
    return {f"buffer/{name}": tensor.detach().clone() for name, tensor in (*model.named_buffers(), *frozen)}


def initial_state(model: nn.Module, optimizer: str) -> dict[str, Tensor]:
    """Return the parameters and the zeros of the optimizer: the state that a step reads and writes, in order."""
    parameters = {name: tensor.contiguous().clone() for name, tensor in parameters_of(model).items()}
    names = [name.removeprefix("model/") for name in parameters]
    slots = ("exp_avg", "exp_avg_sq") if optimizer == "adam" else ("momentum_buffer",)
    state = parameters | {
        f"optimizer/{slot}/{name}": torch.zeros_like(parameters[f"model/{name}"]) for slot in slots for name in names
    }
    return state | ({"optimizer/step": torch.zeros(())} if optimizer == "adam" else {})


def constants_of(optimizer: str) -> dict[str, float]:
    """Return small numbers that are inputs of a step, so that no graph optimizer treats them as zero."""
    return {"eps": EPS} if optimizer == "adam" else {}


def trace_step(model: nn.Module, optimizer: str, batch: int, shape: Sequence[int], n_classes: int) -> Traced:
    """Trace one training step: (state, x, targets, weights, lr, constants) → (new state, loss)."""
    model = _copy_for_export(model)
    state = initial_state(model, optimizer)
    fixed = _fixed(model)
    parameter_names = [name.removeprefix("model/") for name in parameters_of(model)]
    n_parameters = len(parameter_names)
    buffer_names = [name.removeprefix("buffer/") for name in fixed]
    update = _adam if optimizer == "adam" else _sgd

    def step(*flat: Tensor) -> list[Tensor]:
        values, rest = flat[: len(state)], flat[len(state) :]
        buffers = dict(zip(buffer_names, rest[: len(fixed)], strict=True))
        x, targets, weights, lr, *constants = rest[len(fixed) :]

        def loss(parameters: list[Tensor]) -> Tensor:
            logits = functional_call(model, dict(zip(parameter_names, parameters, strict=True)) | buffers, (x,))
            each = -(targets * F.log_softmax(logits, 1)).sum(1)
            return (each * weights).sum() / weights.sum().clamp(min=1e-8)

        gradients, value = grad_and_value(loss)(list(values[:n_parameters]))
        return [*update(list(values), gradients, lr, *constants), value]

    rows = (torch.zeros(batch, *shape), torch.full((batch, n_classes), 1 / n_classes), torch.ones(batch))
    constants = constants_of(optimizer)
    numbers = [torch.tensor(0.01), *(torch.tensor(v) for v in constants.values())]
    graph = trace(step, [*state.values(), *fixed.values(), *rows, *numbers], model)
    inputs = (*state, *fixed, "x", "targets", "weights", "lr", *constants)
    return Traced(graph, inputs, (*(f"new/{name}" for name in state), "loss"), fixed)


def trace_logits(model: nn.Module, shape: Sequence[int]) -> Traced:
    """Trace the logits for any number of rows: (parameters, x) → logits."""
    model = _copy_for_export(model)
    parameters, fixed = parameters_of(model), _fixed(model)
    keys = [name.partition("/")[2] for name in (*parameters, *fixed)]

    def logits(*flat: Tensor) -> list[Tensor]:
        return [functional_call(model, dict(zip(keys, flat[:-1], strict=True)), (flat[-1],))]

    fake = FakeTensorMode(shape_env=ShapeEnv(), allow_non_fake_inputs=True)
    free = StatelessSymbolicContext([DimDynamic.DYNAMIC, *(DimDynamic.STATIC for _ in shape)])  # type: ignore[var-annotated]
    tensors = [*parameters.values(), *fixed.values()]
    fake_tensors = [fake.from_tensor(t.contiguous(), static_shapes=True) for t in tensors]
    arguments = [*fake_tensors, fake.from_tensor(torch.zeros(7, *shape), symbolic_context=free)]
    graph = trace(logits, arguments, model)
    (result,) = next(node for node in graph.graph.nodes if node.op == "output").args[0]
    if isinstance(result.meta["val"].shape[0], int):
        raise UserError(
            "the logits of this module cannot be traced for any number of rows: in the module, use sizes that do not "
            "depend on the number of rows"
        )
    return Traced(graph, (*parameters, *fixed, "x"), ("logits",), fixed)


def _copy_for_export(model: nn.Module) -> nn.Module:
    """Return a copy of the module in training mode and in torch's default memory order.

    Raises:
        UserError: for layers whose output for a row depends on the other rows of its batch, or is random.
    """
    for name, layer in model.named_modules():
        if isinstance(layer, nn.modules.batchnorm._BatchNorm):
            raise UserError(
                f"layer {name!r} is {type(layer).__name__}, which mixes the rows of a batch, "
                "so a device could not pad a short batch: use GroupNorm"
            )
        if isinstance(layer, nn.modules.dropout._DropoutNd) and layer.p > 0:
            raise UserError(f"layer {name!r} is {type(layer).__name__}, but a training graph cannot be random: set p=0")
    copied: nn.Module = copy.deepcopy(model).to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    return copied.train()


def _sgd(state: list[Tensor], gradients: list[Tensor], lr: Tensor) -> list[Tensor]:
    n = len(gradients)
    momentum = [MOMENTUM * m + g for m, g in zip(state[n:], gradients, strict=True)]
    return [*(p - lr * m for p, m in zip(state[:n], momentum, strict=True)), *momentum]


def _adam(state: list[Tensor], gradients: list[Tensor], lr: Tensor, eps: Tensor) -> list[Tensor]:
    n = len(gradients)
    first, second = BETAS
    step = state[-1] + 1
    c1, c2 = (1 - torch.exp(step.double() * math.log(b)) for b in BETAS)  # 1 - b^t loses four digits in float32
    rate, root = (lr.double() / c1).float(), torch.sqrt(c2).float()
    m = [first * a + (1 - first) * g for a, g in zip(state[n : 2 * n], gradients, strict=True)]
    v = [second * a + (1 - second) * (g * g) for a, g in zip(state[2 * n : 3 * n], gradients, strict=True)]
    rate, eps = rate * root, eps * root  # equal to dividing sqrt(v) by root, with one pass less
    new = [p - rate * (mi / (torch.sqrt(vi) + eps)) for p, mi, vi in zip(state[:n], m, v, strict=True)]
    return [*new, *m, *v, step]
