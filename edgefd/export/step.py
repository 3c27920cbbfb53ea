"""The training step and the logits of a module as plain functions of their tensors, traced to torch's operators.

One step is the project's one training primitive (`edgefd.learners.batches`):
    loss = sum_i w_i H(t_i, softmax(z_i)) / sum_i w_i,
its gradient, and SGD with momentum 0.9 or Adam, as `edgefd.learners.torch_learner` does them.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn
from torch._decomp import core_aten_decompositions, get_decompositions
from torch._subclasses import FakeTensorMode
from torch.func import functional_call, functionalize, grad_and_value
from torch.fx.experimental.proxy_tensor import make_fx
from torch.fx.experimental.symbolic_shapes import DimDynamic, ShapeEnv, StatelessSymbolicContext

from edgefd.core.errors import UserError
from edgefd.learners.torch_learner import BETAS, EPS, MOMENTUM

_aten = torch.ops.aten
_TRANSLATED = (  # by `edgefd.export.operators` as they are, faster than as their parts
    _aten.threshold_backward.default,
    _aten.convolution_backward.default,
    _aten.max_pool2d_with_indices_backward.default,
    _aten.avg_pool2d_backward.default,
    _aten.native_group_norm.default,
)
_ALSO = (
    _aten.native_layer_norm,
    _aten.native_layer_norm_backward,
    _aten._log_softmax_backward_data,
    _aten._softmax_backward_data,
    _aten.gelu,
    _aten.gelu_backward,
    _aten.silu,
    _aten.silu_backward,
    _aten.leaky_relu,
    _aten.leaky_relu_backward,
    _aten.hardtanh,
    _aten.hardtanh_backward,
    _aten.elu,
    _aten.elu_backward,
    _aten.tanh_backward,
    _aten.sigmoid_backward,
)


@dataclass(frozen=True, eq=False)
class Traced:
    """A graph of torch operators, with names for its inputs and outputs, in order.

    `fixed` are inputs that never change: the module's buffers.
    """

    graph: fx.GraphModule
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    fixed: dict[str, Tensor]


def parameters_of(model: nn.Module) -> dict[str, Tensor]:
    """Its parameters by state name: `model/<name>`."""
    return {f"model/{name}": p.detach() for name, p in model.named_parameters()}


def initial_state(model: nn.Module, optimizer: str) -> dict[str, Tensor]:
    """Parameters and the optimizer's zeros: what a step takes and gives back, in the graph's order."""
    parameters = {name: tensor.contiguous().clone() for name, tensor in parameters_of(model).items()}
    names = [name.removeprefix("model/") for name in parameters]
    slots = ("exp_avg", "exp_avg_sq") if optimizer == "adam" else ("momentum_buffer",)
    state = parameters | {
        f"optimizer/{slot}/{name}": torch.zeros_like(parameters[f"model/{name}"]) for slot in slots for name in names
    }
    return state | ({"optimizer/step": torch.zeros(())} if optimizer == "adam" else {})


def constants_of(optimizer: str) -> dict[str, float]:
    """Small numbers that a step takes as inputs, so that no graph optimizer takes them for zero."""
    return {"eps": EPS} if optimizer == "adam" else {}


def trace_step(model: nn.Module, optimizer: str, batch: int, shape: Sequence[int], n_classes: int) -> Traced:
    """One training step: (state, x, targets, weights, lr, constants) → (new state, loss)."""
    model = _own_copy(model)
    state = initial_state(model, optimizer)
    fixed = {f"buffer/{name}": b.detach().clone() for name, b in model.named_buffers()}
    n_parameters = len(list(model.parameters()))
    parameter_names = [name.removeprefix("model/") for name in list(state)[:n_parameters]]
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
    graph = _trace(step, [*state.values(), *fixed.values(), *rows, *numbers])
    inputs = (*state, *fixed, "x", "targets", "weights", "lr", *constants)
    return Traced(graph, inputs, (*(f"new/{name}" for name in state), "loss"), fixed)


def trace_logits(model: nn.Module, shape: Sequence[int]) -> Traced:
    """(parameters, x) → logits, for any number of rows."""
    model = _own_copy(model)
    names = [name for name, _ in model.named_parameters()]
    fixed = {f"buffer/{name}": b.detach().clone() for name, b in model.named_buffers()}
    keys = [*names, *(name.removeprefix("buffer/") for name in fixed)]

    def logits(*flat: Tensor) -> list[Tensor]:
        return [functional_call(model, dict(zip(keys, flat[:-1], strict=True)), (flat[-1],))]

    fake = FakeTensorMode(shape_env=ShapeEnv())
    free = StatelessSymbolicContext([DimDynamic.DYNAMIC, *(DimDynamic.STATIC for _ in shape)])  # type: ignore[var-annotated]
    tensors = [*parameters_of(model).values(), *fixed.values()]
    known = [fake.from_tensor(t.contiguous(), static_shapes=True) for t in tensors]
    graph = _trace(logits, [*known, fake.from_tensor(torch.zeros(7, *shape), symbolic_context=free)])
    return Traced(graph, (*(f"model/{n}" for n in names), *fixed, "x"), ("logits",), fixed)


def _own_copy(model: nn.Module) -> nn.Module:
    """A copy in training mode and in torch's default memory order.

    Raises:
        UserError: for layers whose output for a row depends on the other rows of its batch, or on chance.
    """
    for name, layer in model.named_modules():
        if isinstance(layer, nn.modules.batchnorm._BatchNorm):
            raise UserError(
                f"layer {name!r} is {type(layer).__name__}, which mixes the rows of a batch: "
                "short ones cannot be padded: use GroupNorm"
            )
        if isinstance(layer, nn.modules.dropout._DropoutNd) and layer.p > 0:
            raise UserError(f"layer {name!r} is {type(layer).__name__}: a training graph has no randomness: set p=0")
    plain: nn.Module = copy.deepcopy(model).to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    return plain.train()


def _trace(function: Callable[..., list[Tensor]], arguments: list[Tensor]) -> fx.GraphModule:
    table = {**core_aten_decompositions(), **get_decompositions(_ALSO)}
    for kept in _TRANSLATED:
        table.pop(kept, None)
    tracer = make_fx(functionalize(function, remove="mutations"), decomposition_table=table)
    try:
        traced: fx.GraphModule = tracer(*arguments)
    except UserError:
        raise
    except Exception as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UserError(f"torch cannot trace this module's training step: {reason}") from error
    traced.graph.eliminate_dead_code()
    return traced


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
    rate, eps = rate * root, eps * root  # the same as dividing sqrt(v) by root, with one pass less
    new = [p - rate * (mi / (torch.sqrt(vi) + eps)) for p, mi, vi in zip(state[:n], m, v, strict=True)]
    return [*new, *m, *v, step]
