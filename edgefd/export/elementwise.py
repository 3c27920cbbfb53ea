"""Elementwise torch operators as ONNX nodes. They work on any memory order of their tensors."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from edgefd.export.call import ONNX_TYPES, Call
from edgefd.export.graph_builder import CHANNELS_LAST, GraphBuilder, Value

_aten = torch.ops.aten


def _elementwise(kind: str, n: int) -> Callable[[Call], Value]:
    return lambda call: _combine(call, kind, call.args[:n])


def _combine(call: Call, kind: str, operands: Sequence[Any]) -> Value:
    """Add a node that combines the numbers at equal positions, for any memory order of the operands."""
    tensors = [v if isinstance(v, Value) else call.number(v) for v in operands]
    shape = _broadcast([t.shape for t in tensors])
    perm = _common_order(tensors, shape)
    return Value(call.g.op(kind, *(_as_operand(call.g, t, perm) for t in tensors)), shape, perm)


def _broadcast(shapes: Sequence[tuple[Any, ...]]) -> tuple[Any, ...]:
    """Return the common shape of tensors that can be combined.

    The function of numpy would replace the symbol of a free batch size by a number.
    """
    axes = max(len(shape) for shape in shapes)
    aligned = [(1,) * (axes - len(shape)) + shape for shape in shapes]
    sizes = zip(*aligned, strict=True)
    return tuple(next((d for d in each if not (isinstance(d, int) and d == 1)), 1) for each in sizes)


def _common_order(tensors: Sequence[Value], shape: tuple[Any, ...]) -> tuple[int, ...]:
    full = [t.perm for t in tensors if t.shape == shape]
    if CHANNELS_LAST in full:
        return CHANNELS_LAST
    return full[0] if len(set(full)) == 1 else tuple(range(len(shape)))


def _as_operand(g: GraphBuilder, value: Value, perm: tuple[int, ...]) -> str:
    if not value.shape or perm == tuple(range(len(perm))):
        return g.ordered(value).name
    missing = len(perm) - len(value.shape)
    return g.arranged(g.reshape(value, (1,) * missing + value.shape) if missing else value, perm).name


def _scaled(kind: str) -> Callable[[Call], Value]:
    """Return the translation of the sum or difference of a and alpha b."""

    def translate(call: Call) -> Value:
        a, b = call.args[:2]
        alpha = call.kwargs.get("alpha", 1)
        return _combine(call, kind, (a, b if alpha == 1 else _combine(call, "Mul", (b, alpha))))

    return translate


def _power(call: Call) -> Value:
    a, exponent = call.args
    return _combine(call, "Mul", (a, a)) if exponent == 2 else _combine(call, "Pow", (a, exponent))


def _rsqrt(call: Call) -> Value:
    return _combine(call, "Reciprocal", (_combine(call, "Sqrt", call.args[:1]),))


def _clamp(call: Call) -> Value:
    value, low, high = call.args[0], call.get(1, "min"), call.get(2, "max")
    if low is not None:
        value = _combine(call, "Max", (value, low))
    return value if high is None else _combine(call, "Min", (value, high))


def _threshold_backward(call: Call) -> Value:
    grad, x, threshold = call.args
    above = _combine(call, "Greater", (x, threshold))
    return _combine(call, "Mul", (grad, Value(call.g.mask(above.name), above.shape, above.perm)))


def _cast(call: Call) -> Value:
    (x,) = call.args
    return Value(call.g.op("Cast", x.name, to=ONNX_TYPES[call.dtype]), x.shape, x.perm)


def _same(call: Call) -> Value:
    value: Value = call.args[0]
    return value


def _expand(call: Call) -> Value:
    value: Value = call.args[0]
    return call.g.reshape(value, (1,) * (len(call.shape) - len(value.shape)) + value.shape)


_BINARY = {
    _aten.mul.Tensor: "Mul",
    _aten.mul.Scalar: "Mul",
    _aten.div.Tensor: "Div",
    _aten.div.Scalar: "Div",
    _aten.maximum.default: "Max",
    _aten.minimum.default: "Min",
    _aten.gt.Scalar: "Greater",
    _aten.gt.Tensor: "Greater",
    _aten.ge.Scalar: "GreaterOrEqual",
    _aten.ge.Tensor: "GreaterOrEqual",
    _aten.lt.Scalar: "Less",
    _aten.lt.Tensor: "Less",
    _aten.le.Scalar: "LessOrEqual",
    _aten.le.Tensor: "LessOrEqual",
    _aten.eq.Scalar: "Equal",
    _aten.logical_and.default: "And",
    _aten.bitwise_and.Tensor: "And",
    _aten.logical_or.default: "Or",
    _aten.bitwise_or.Tensor: "Or",
}
_UNARY = {
    _aten.relu.default: "Relu",
    _aten.neg.default: "Neg",
    _aten.exp.default: "Exp",
    _aten.log.default: "Log",
    _aten.sqrt.default: "Sqrt",
    _aten.reciprocal.default: "Reciprocal",
    _aten.tanh.default: "Tanh",
    _aten.sigmoid.default: "Sigmoid",
    _aten.erf.default: "Erf",
    _aten.abs.default: "Abs",
    _aten.logical_not.default: "Not",
    _aten.bitwise_not.default: "Not",
}
ELEMENTWISE: dict[Any, Callable[[Call], Any]] = {
    **{op: _elementwise(kind, 2) for op, kind in _BINARY.items()},
    **{op: _elementwise(kind, 1) for op, kind in _UNARY.items()},
    _aten.add.Tensor: _scaled("Add"),
    _aten.add.Scalar: _scaled("Add"),
    _aten.sub.Tensor: _scaled("Sub"),
    _aten.sub.Scalar: _scaled("Sub"),
    _aten.pow.Tensor_Scalar: _power,
    _aten.rsqrt.default: _rsqrt,
    _aten.clamp.default: _clamp,
    _aten.clamp_min.default: _clamp,
    _aten.where.self: _elementwise("Where", 3),
    _aten.threshold_backward.default: _threshold_backward,
    _aten._to_copy.default: _cast,
    _aten.clone.default: _same,
    _aten.alias.default: _same,
    _aten.detach.default: _same,
    _aten.lift_fresh_copy.default: _same,
    _aten.expand.default: _expand,
}
"""Translations by torch operator. They accept tensors whose expanded axes still have size 1."""
