"""Translation of a traced module to an ONNX model. An operator without a translation is refused by name."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import torch
from torch import Tensor, fx

from edgefd.core.errors import UserError
from edgefd.export.batch_norm import BATCH_NORM
from edgefd.export.call import ONNX_TYPES, Call
from edgefd.export.convolution import CONVOLUTIONS
from edgefd.export.elementwise import ELEMENTWISE
from edgefd.export.graph_builder import GraphBuilder, Value, plain
from edgefd.export.layer_names import layer_of
from edgefd.export.pooling import POOLING
from edgefd.export.reductions import REDUCTIONS
from edgefd.export.shapes import SHAPES
from edgefd.export.step import Traced
from edgefd.learners.graphs import ROWS

OPERATORS: dict[Any, Callable[[Call], Any]] = {
    **ELEMENTWISE,
    **SHAPES,
    **REDUCTIONS,
    **CONVOLUTIONS,
    **POOLING,
    **BATCH_NORM,
}
"""Translations of all supported torch operators."""


def to_onnx(traced: Traced) -> onnx.ModelProto:
    """Build the ONNX model of a traced function.

    Inputs and outputs have the names in `traced`. Fixed inputs become constants.

    Raises:
        UserError: for an operator that is not supported, with its name.
    """
    g = GraphBuilder()
    values: dict[fx.Node, Any] = {}
    names = iter(traced.inputs)
    for node in traced.graph.graph.nodes:
        if node.op == "placeholder":
            name = next(names)
            fixed = traced.fixed.get(name)
            values[node] = _input(g, name, node) if fixed is None else _constant(g, fixed)
        elif node.op == "get_attr":
            values[node] = _constant(g, getattr(traced.graph, node.target))
        elif node.op == "call_function":
            values[node] = _translate(g, node, values)
        elif node.op == "output":
            for name, result in zip(traced.outputs, node.args[0], strict=True):
                g.output(name, _as_type(g, _expanded(g, result, values), result.meta["val"].dtype, torch.float32))
    return g.model()


def _input(g: GraphBuilder, name: str, node: fx.Node) -> Value:
    """Return an input of the graph, in the type that the module has for it. Inputs of graphs are float32."""
    value = g.input(name, tuple(node.meta["val"].shape))
    if name == ROWS:
        g.rows = value
    return _as_type(g, value, torch.float32, node.meta["val"].dtype)


def _as_type(g: GraphBuilder, value: Value, before: torch.dtype, after: torch.dtype) -> Value:
    return value if before == after else Value(g.op("Cast", value.name, to=ONNX_TYPES[after]), value.shape, value.perm)


def _translate(g: GraphBuilder, node: fx.Node, values: dict[fx.Node, Any]) -> Any:
    if node.target is operator.getitem:
        return values[node.args[0]][node.args[1]]  # type: ignore[index]
    if not isinstance(node.target, torch._ops.OpOverload) or node.target is torch.ops.aten.sym_size.int:
        return None  # arithmetic on sizes, which are known from the shapes of results
    target = node.target
    if not any(isinstance(n.meta.get("val"), Tensor) or n in values for n in node.all_input_nodes):
        return _constant(g, target(*node.args, **node.kwargs))
    call = _call(g, node, values)
    try:
        return OPERATORS[target](call)
    except KeyError:
        raise UserError(
            f"{layer_of(node)}cannot export the operator {target} to a device: replace it in the module"
        ) from None
    except NotImplementedError as error:
        raise UserError(f"{layer_of(node)}cannot export the operator {target} to a device: {error}") from None


def _call(g: GraphBuilder, node: fx.Node, values: dict[fx.Node, Any]) -> Call:
    take = (lambda n: values[n]) if node.target in ELEMENTWISE else (lambda n: _expanded(g, n, values))
    args, kwargs = fx.map_arg(node.args, take), fx.map_arg(node.kwargs, take)
    val = node.meta.get("val")
    result = val if isinstance(val, Tensor) else None
    inputs = [n.meta["val"].dtype for n in node.all_input_nodes if isinstance(n.meta.get("val"), Tensor)]
    return Call(
        g,
        tuple(args),
        dict(kwargs),
        () if result is None else tuple(result.shape),
        torch.float32 if result is None else result.dtype,
        inputs[0] if inputs else torch.float32,
    )


def _expanded(g: GraphBuilder, node: fx.Node, values: dict[fx.Node, Any]) -> Any:
    """Return the value of the node in its full shape. Elementwise operators take axes of size 1 unexpanded."""
    value = values[node]
    if not isinstance(value, Value):
        return value
    full = tuple(node.meta["val"].shape)
    expandable = len(value.shape) == len(full) and all(a in (1, b) for a, b in zip(value.shape, full, strict=True))
    if value.shape == full or not expandable:
        return value
    source = g.ordered(value)
    return plain(g.op("Expand", source.name, g.constant(np.array(full, np.int64))), full)


def _constant(g: GraphBuilder, tensor: Tensor) -> Value:
    return plain(g.constant(tensor.detach().numpy()), tuple(tensor.shape))
