"""The training step and the logits of a module as functions of tensors, traced to operators of torch.

One step computes the training loss of the project (`edgefd.learners.learner`)
    loss = sum_i w_i H(t_i, softmax(z_i)) / sum_i w_i,
its gradient, and an update of SGD with momentum 0.9 or of Adam, as `edgefd.learners.torch_learner` does.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn
from torch._subclasses import FakeTensorMode
from torch.func import functional_call, grad_and_value
from torch.fx.experimental.symbolic_shapes import DimDynamic, ShapeEnv, StatelessSymbolicContext

from edgefd.core.errors import UserError
from edgefd.export.rewrites import keep_outputs, read_masks, return_statistics, unchanged_outputs
from edgefd.export.state import (
    bare,
    buffers_of,
    copy_of,
    cumulative_statistics,
    frozen_parameters,
    initial_state,
    trained_parameters,
    unread_counters,
)
from edgefd.export.trace import trace
from edgefd.learners.graphs import ROWS
from edgefd.learners.optimizer import BETAS, EPS, MOMENTUM

_aten = torch.ops.aten


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

    @property
    def state(self) -> tuple[str, ...]:
        """Names of the tensors that a training step reads and writes, in order."""
        return tuple(name.removeprefix("new/") for name in self.outputs if name != "loss")


def constants_of(optimizer: str) -> dict[str, float]:
    """Return small numbers that are inputs of a step, so that no graph optimizer treats them as zero."""
    return {"eps": EPS} if optimizer == "adam" else {}


def trace_step(model: nn.Module, optimizer: str, batch: int, shape: tuple[int, ...], n_classes: int) -> Traced:
    """Trace one training step: (state, x, targets, weights, lr, constants, rows, masks) → (new state, loss).

    `rows` is 1 for each row of the batch, and 0 for the padding after them. It is an input only if a layer uses the
    statistics of the batch. The masks of dropout are computed from the inputs `noise/...`.
    """
    model = copy_of(model).train()
    state, fixed, trained = initial_state(model, optimizer), frozen_parameters(model), trained_parameters(model)
    buffers, unread, cumulative = buffers_of(model), unread_counters(model), cumulative_statistics(model)
    slots = [name for name in state if name.startswith("optimizer/")]
    constants = constants_of(optimizer)
    names = [*state, *fixed, "x", "targets", "weights", "lr", *constants, ROWS]
    update = _adam if optimizer == "adam" else _sgd

    def step(*flat: Tensor) -> list[Tensor]:
        values = dict(zip(names, flat, strict=True))

        def loss(parameters: list[Tensor], before: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
            tensors = {bare(n): p for n, p in zip(trained, parameters, strict=True)}
            tensors |= {bare(n): b.clone() for n, b in zip(buffers, before, strict=True)}
            tensors |= {bare(n): values[n] for n in fixed}
            logits = functional_call(model, tensors, (values["x"],))
            each = -(values["targets"] * F.log_softmax(logits, 1)).sum(1)
            mean = (each * values["weights"]).sum() / values["weights"].sum().clamp(min=1e-8)
            return mean, [tensors[bare(n)] for n in buffers]

        parameters = [values[n] for n in trained]
        gradients, (value, after) = grad_and_value(loss, has_aux=True)(parameters, [values[n] for n in buffers])
        updated = update(
            [*parameters, *(values[n] for n in slots)], gradients, *(values[n] for n in ("lr", *constants))
        )
        new = dict(zip((*trained, *slots), updated, strict=True)) | dict(zip(buffers, after, strict=True))
        several = values[ROWS].sum() > 1.5  # a batch of one row leaves statistics as they are
        for name, counter in cumulative.items():
            mean = values[name] + (new[name] - values[name]) / new[counter].float()
            new[name] = torch.where(several, mean, values[name])
        for counter in set(cumulative.values()):
            new[counter] = torch.where(several, new[counter], values[counter])
        return [*(new[n] for n in state), value]

    rows = (torch.zeros(batch, *shape), torch.full((batch, n_classes), 1 / n_classes), torch.ones(batch))
    numbers = [torch.tensor(0.01), *(torch.tensor(v) for v in constants.values()), torch.ones(batch)]
    graph = trace(step, [*state.values(), *fixed.values(), *rows, *numbers], model)
    uses_statistics = return_statistics(graph.graph)
    unchanged = {name for i, name in enumerate(state) if i in unchanged_outputs(graph.graph)} | unread
    kept = [i for i, name in enumerate([*state, "loss"]) if name not in unchanged]
    keep_outputs(graph.graph, kept)
    if not uses_statistics:
        graph.graph.erase_node([n for n in graph.graph.nodes if n.op == "placeholder"][names.index(ROWS)])
        names.remove(ROWS)
    names += read_masks(graph.graph, model, batch, shape)
    outputs = [[*(f"new/{n}" for n in state), "loss"][i] for i in kept]
    return Traced(graph, tuple(names), tuple(outputs), fixed | {n: state[n] for n in state if n in unchanged})


def trace_logits(model: nn.Module, shape: tuple[int, ...], state: Collection[str] = ()) -> Traced:
    """Trace the logits for any number of rows: (the arrays `model/...` of `state`, x) → logits.

    Other tensors of the module are constants.

    Raises:
        UserError: if the module draws random numbers in evaluation mode too.
    """
    model = copy_of(model).eval()
    tensors = {n: t for n, t in initial_state(model, "sgd").items() if not n.startswith("optimizer/")}
    tensors |= frozen_parameters(model)

    def logits(*flat: Tensor) -> list[Tensor]:
        return [functional_call(model, dict(zip(map(bare, tensors), flat[:-1], strict=True)), (flat[-1],))]

    fake = FakeTensorMode(shape_env=ShapeEnv(), allow_non_fake_inputs=True)
    free = StatelessSymbolicContext([DimDynamic.DYNAMIC, *(DimDynamic.STATIC for _ in shape)])  # type: ignore[var-annotated]
    fake_tensors = [fake.from_tensor(t.contiguous(), static_shapes=True) for t in tensors.values()]
    graph = trace(logits, [*fake_tensors, fake.from_tensor(torch.zeros(7, *shape), symbolic_context=free)], model)
    results: Any = graph.graph.output_node().args[0]
    if isinstance(results[0].meta["val"].shape[0], int):
        raise UserError(
            "the logits of this module cannot be traced for any number of rows: each row must be computed from itself "
            "alone, and sizes must not depend on the number of rows"
        )
    if any(node.target is _aten.bernoulli.p for node in graph.graph.nodes):
        raise UserError("the module draws random masks in predictions too: use nn.Dropout, which stops in evaluation")
    fixed = {name: tensor for name, tensor in tensors.items() if name not in state or name.startswith("counter/")}
    for name, node in zip(tensors, graph.graph.nodes, strict=False):
        if name in fixed and name in state and node.users:
            raise UserError(
                f"the predictions of the module read the buffer {bare(name)!r} of type {tensors[name].dtype}, which "
                "training changes: keep it as float32"
            )
    return Traced(graph, (*tensors, "x"), ("logits",), fixed)


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
