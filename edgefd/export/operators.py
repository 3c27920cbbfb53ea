"""Translation of a traced module to an ONNX model. An operator without a translation is refused by name."""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import torch
from torch import Tensor, fx

from edgefd.core.errors import UserError
from edgefd.export.call import ONNX_TYPES, Call
from edgefd.export.convolution import CONVOLUTIONS
from edgefd.export.elementwise import CONVERTING, ELEMENTWISE
from edgefd.export.graph_builder import GraphBuilder, Value, plain
from edgefd.export.indexing import INDEXING
from edgefd.export.pooling import MEAN_POOLING
from edgefd.export.reductions import REDUCTIONS
from edgefd.export.shapes import SHAPES
from edgefd.export.step import Traced
from edgefd.export.trace import layer_of
from edgefd.export.windows import MAX_POOLING

OPERATORS: dict[Any, Callable[[Call], Any]] = {
    **ELEMENTWISE,
    **SHAPES,
    **REDUCTIONS,
    **CONVOLUTIONS,
    **MEAN_POOLING,
    **MAX_POOLING,
    **INDEXING,
}
"""Translations of all supported torch operators."""
_RANDOM = torch.Tag.nondeterministic_seeded


def to_onnx(traced: Traced) -> onnx.ModelProto:
    """Build the ONNX model of a traced function.

    Inputs and outputs have the names in `traced`. Fixed inputs become constants.

    Raises:
        UserError: for an operator that is not supported, with the name of its layer.
    """
    g = GraphBuilder()
    values: dict[fx.Node, Any] = {}
    known = _computed_now(traced.graph)
    names = iter(traced.inputs)
    for node in traced.graph.graph.nodes:
        if node.op == "placeholder":
            name = next(names)
            fixed = traced.fixed.get(name)
            shape = tuple(node.meta["val"].shape)
            values[node] = g.input(name, shape) if fixed is None else _constant(g, fixed)
        elif node in known:
            values[node] = _constant(g, _shortened(known[node]))
        elif node.op == "call_function":
            values[node] = _translate(g, node, values)
        elif node.op == "output":
            for name, result in zip(traced.outputs, node.args[0], strict=True):
                g.output(name, _expanded(g, result, values))
    return g.model()


def _computed_now(graph: fx.GraphModule) -> dict[fx.Node, Tensor]:
    """Return the tensors that depend on no input, such as positions and masks, by the nodes that compute them."""
    known: dict[fx.Node, Tensor] = {}
    for node in graph.graph.nodes:
        if node.op == "get_attr":
            known[node] = getattr(graph, node.target)
        elif node.op == "call_function" and all(n in known for n in node.all_input_nodes):
            target = node.target
            if isinstance(target, torch._ops.OpOverload) and _RANDOM not in target.tags:
                args, kwargs = (fx.map_arg(a, known.__getitem__) for a in (node.args, node.kwargs))
                result = target(*args, **kwargs)
                if isinstance(result, Tensor):
                    known[node] = result
    return known


def _shortened(tensor: Tensor) -> Tensor:
    """Return a tensor of equal floating-point numbers with axes of size 1. Elementwise operators repeat it."""
    if tensor.is_floating_point() and tensor.numel() > 1 and bool((tensor == tensor.reshape(-1)[0]).all()):
        return tensor.reshape(-1)[:1].reshape((1,) * tensor.dim())
    return tensor


def _translate(g: GraphBuilder, node: fx.Node, values: dict[fx.Node, Any]) -> Any:
    if node.target is operator.getitem:
        return values[node.args[0]][node.args[1]]  # type: ignore[index]
    if not isinstance(node.target, torch._ops.OpOverload) or node.target is torch.ops.aten.sym_size.int:
        return None  # arithmetic on sizes, which are known from the shapes of results
    target = _pure(node.target)
    if target not in OPERATORS:
        raise UserError(
            _refusal(node, "a device has no such operator: replace it, or train this layer in simulation only")
        )
    try:
        return OPERATORS[target](_call(g, target, node, values))
    except NotImplementedError as error:
        raise UserError(_refusal(node, str(error))) from None


def _pure(target: torch._ops.OpOverload) -> Any:
    """Return the operator that returns what an operator assigns, such as add for add_.

    In a trace, later operators take the result of an assignment, so the assignment itself is not needed.
    """
    name, _, overload = str(target).removeprefix("aten.").partition(".")
    packet = getattr(torch.ops.aten, name.removesuffix("_"), None) if name.endswith("_") else None
    return getattr(packet, overload, target) if packet is not None else target


def _refusal(node: fx.Node, reason: str) -> str:
    layer = layer_of(node)
    return f"cannot export {f'layer {layer}: ' if layer else ''}the operator {node.target}: {reason}"


def _call(g: GraphBuilder, target: Any, node: fx.Node, values: dict[fx.Node, Any]) -> Call:
    tensors = [n.meta["val"].dtype for n in node.all_input_nodes if isinstance(n.meta.get("val"), Tensor)]
    common = _common_type(target, node, tensors)

    def take(n: fx.Node) -> Any:
        if target not in ELEMENTWISE:
            return _expanded(g, n, values)
        value = values[n]
        if common is None or not isinstance(value, Value) or n.meta["val"].dtype == common:
            return value
        return Value(g.op("Cast", value.name, to=ONNX_TYPES[common]), value.shape, value.perm)

    if target is torch.ops.aten.where.self:
        args = (values[node.args[0]], *fx.map_arg(node.args[1:], take))  # type: ignore[index]
    else:
        args = tuple(fx.map_arg(node.args, take))
    kwargs = fx.map_arg(node.kwargs, take)
    val = node.meta.get("val")
    result = val if isinstance(val, Tensor) else None
    return Call(
        g,
        args,
        dict(kwargs),
        () if result is None else tuple(result.shape),
        torch.float32 if result is None else result.dtype,
        common or (tensors[0] if tensors else torch.float32),
    )


def _common_type(target: Any, node: fx.Node, tensors: list[torch.dtype]) -> torch.dtype | None:
    """Return the type to which torch converts the tensors of an elementwise operator, or None if it does not."""
    result = node.meta.get("val")
    if target not in ELEMENTWISE or target in CONVERTING or not isinstance(result, Tensor) or not tensors:
        return None
    if result.dtype != torch.bool:
        return result.dtype
    return functools.reduce(torch.promote_types, tensors)


def _expanded(g: GraphBuilder, node: fx.Node, values: dict[fx.Node, Any]) -> Any:
    """Return the value of the node in its full shape. Elementwise operators take axes of size 1 unexpanded."""
    value = values[node]
    if not isinstance(value, Value):
        return value
    full = tuple(node.meta["val"].shape)
    expandable = len(value.shape) == len(full) and all(a in (1, b) for a, b in zip(value.shape, full, strict=True))
    return g.expand(value, full) if value.shape != full and expandable else value


def _constant(g: GraphBuilder, tensor: Tensor) -> Value:
    array = tensor.detach().numpy()
    if array.dtype.kind == "f":  # a device refuses constants that are not finite, such as the -inf of a mask
        array = np.clip(array, np.finfo(np.float32).min, np.finfo(np.float32).max)
    return plain(g.constant(array), tuple(tensor.shape))
