"""torch's matrix products, sums, means, maxima, softmax and group normalisation as ONNX nodes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from edgefd.export.call import ONNX_TYPES, Call
from edgefd.export.graph_builder import GraphBuilder, Value, plain

_aten = torch.ops.aten


def column_sums(g: GraphBuilder, x: Value) -> Value:
    """Return the sums over the rows of [n, d], computed as a product with a row of ones."""
    rows, columns = x.shape
    ones = g.op("ConstantOfShape", g.constant(np.array([1, rows], np.int64)), value=g.one)
    return g.reshape(plain(g.op("MatMul", ones, x.name), (1, columns)), (columns,))


def _addmm(call: Call) -> Value:
    bias, a, b = call.args
    if call.kwargs.get("beta", 1) != 1 or call.kwargs.get("alpha", 1) != 1:
        raise NotImplementedError("alpha or beta is not 1")
    return _gemm(call, a, b, call.g.ordered(bias).name)


def _gemm(call: Call, a: Value, b: Value, *bias: str) -> Value:
    flags = {"transA": int(not a.in_order), "transB": int(not b.in_order)}
    return plain(call.g.op("Gemm", a.name, b.name, *bias, **flags), call.shape)


def _batch_product(call: Call) -> Value:
    a, b = (call.g.ordered(v) for v in call.args)
    return plain(call.g.op("MatMul", a.name, b.name), call.shape)


def _reduce(kind: str) -> Callable[[Call], Value]:
    def translate(call: Call) -> Value:
        value: Value = call.args[0]
        if call.dtype != call.input_dtype:
            value = Value(call.g.op("Cast", value.name, to=ONNX_TYPES[call.dtype]), value.shape, value.perm)
        axes = [a % len(value.shape) for a in _axes(call.get(1, "dim"))] or list(range(len(value.shape)))
        keep = bool(call.get(2, "keepdim", False))
        if not value.shape:
            return value
        if kind == "ReduceSum" and axes == [0] and len(value.shape) == 2 and isinstance(value.shape[0], int):
            return call.g.reshape(column_sums(call.g, call.g.ordered(value)), call.shape)
        memory_axes = call.g.constant(np.array(sorted(value.perm[a] for a in axes), np.int64))
        name = call.g.op(kind, value.name, memory_axes, keepdims=1)
        shape = tuple(1 if i in axes else d for i, d in enumerate(value.shape))
        reduced = Value(name, shape, value.perm)
        return reduced if keep else call.g.reshape(reduced, call.shape)

    return translate


def _extreme(kind: str) -> Callable[[Call], tuple[Value, Value]]:
    """Return the translation of the largest or smallest numbers along an axis, and of the first positions of them."""

    def translate(call: Call) -> tuple[Value, Value]:
        g, value = call.g, call.g.ordered(call.args[0])
        axis, keep = call.get(1, "dim") % len(value.shape), int(call.get(2, "keepdim", False))
        shape = (*value.shape[:axis], *([1] if keep else []), *value.shape[axis + 1 :])
        best = g.op(f"Reduce{kind}", value.name, g.constant(np.array([axis], np.int64)), keepdims=keep)
        return plain(best, shape), plain(g.op(f"Arg{kind}", value.name, axis=axis, keepdims=keep), shape)

    return translate


def _position_of_largest(call: Call) -> Value:
    value, axis = call.g.ordered(call.args[0]), call.get(1, "dim")
    if axis is None:
        raise NotImplementedError("the position in the whole tensor depends on all rows of a batch: give dim")
    keep = int(call.get(2, "keepdim", False))
    return plain(call.g.op("ArgMax", value.name, axis=axis % len(value.shape), keepdims=keep), call.shape)


def _cumulative_sum(call: Call) -> Value:
    value, axis = call.g.ordered(call.args[0]), call.args[1] % len(call.shape)
    return plain(call.g.op("CumSum", value.name, call.g.constant(np.array(axis, np.int64))), call.shape)


def _axes(axes: Any) -> list[int]:
    return [axes] if isinstance(axes, int) else list(axes or ())


def _softmax(kind: str) -> Callable[[Call], Value]:
    def translate(call: Call) -> Value:
        value = call.g.ordered(call.args[0])
        return plain(call.g.op(kind, value.name, axis=call.args[1]), call.shape)

    return translate


def _layer_norm(call: Call) -> tuple[Value, Value, Value]:
    """Translate (x - mean) / sqrt(var + eps) over the last axes, times weight, plus bias.

    The results are the normalised tensor, and the mean and 1 / sqrt(var + eps), with axes of size 1.
    """
    g = call.g
    x, sizes, weight, bias, eps = call.args
    x = g.ordered(x)
    first = len(x.shape) - len(sizes)
    scale = g.constant(np.ones(sizes, np.float32)) if weight is None else g.ordered(weight).name
    shift = () if bias is None else (g.ordered(bias).name,)
    out, mean, factor = g.node("LayerNormalization", x.name, scale, *shift, n=3, axis=first, epsilon=eps)
    single = (*x.shape[:first], *(1 for _ in sizes))
    return plain(out, x.shape), plain(mean, single), plain(factor, single)


def _group_norm(call: Call) -> tuple[Value, Value, Value]:
    """Translate (x - mean) / sqrt(var + eps) over groups of channels of each row, times weight, plus bias.

    The results are the normalised tensor, and the mean and 1 / sqrt(var + eps), both [N, groups].
    """
    g = call.g
    x, weight, bias, _, c, pixels, groups, eps = call.args
    n, size = x.shape[0], c // groups * pixels
    flat = g.reshape(x, (n * groups, size))
    ones = g.constant(np.ones(size, np.float32))
    normal, mean, scale = g.node("LayerNormalization", flat.name, ones, n=3, axis=1, epsilon=eps)
    out = g.reshape(plain(normal, flat.shape), (n, c, pixels)).name
    if weight is not None:
        out = g.op("Mul", out, g.reshape(weight, (c, 1)).name)
    if bias is not None:
        out = g.op("Add", out, g.reshape(bias, (c, 1)).name)
    means, scales = (g.reshape(plain(name, (n * groups, 1)), (n, groups)) for name in (mean, scale))
    return g.reshape(plain(out, (n, c, pixels)), x.shape), means, scales


REDUCTIONS: dict[Any, Callable[[Call], Any]] = {
    _aten.mm.default: lambda call: _gemm(call, *call.args),
    _aten.addmm.default: _addmm,
    _aten.bmm.default: _batch_product,
    **dict.fromkeys((_aten.sum.dim_IntList, _aten.sum.default), _reduce("ReduceSum")),
    **dict.fromkeys((_aten.mean.dim, _aten.mean.default), _reduce("ReduceMean")),
    _aten.amax.default: _reduce("ReduceMax"),
    _aten.amin.default: _reduce("ReduceMin"),
    _aten.max.dim: _extreme("Max"),
    _aten.min.dim: _extreme("Min"),
    _aten.argmax.default: _position_of_largest,
    _aten.cumsum.default: _cumulative_sum,
    _aten.native_layer_norm.default: _layer_norm,
    _aten._softmax.default: _softmax("Softmax"),
    _aten._log_softmax.default: _softmax("LogSoftmax"),
    _aten.native_group_norm.default: _group_norm,
}
"""Translations by torch operator."""
