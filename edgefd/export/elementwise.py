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
    if call.dtype == call.input_dtype:
        return x  # type: ignore[no-any-return]
    return Value(call.g.op("Cast", x.name, to=ONNX_TYPES[call.dtype]), x.shape, x.perm)


def _expand(call: Call) -> Value:
    value: Value = call.args[0]
    return call.g.reshape(value, (1,) * (len(call.shape) - len(value.shape)) + value.shape)


def _not_equal(call: Call) -> Value:
    same = _combine(call, "Equal", call.args[:2])
    return Value(call.g.op("Not", same.name), same.shape, same.perm)


def _copied(call: Call) -> Value:
    """Translate the assignment of one tensor to all of another."""
    return call.g.expand(call.args[1], call.shape)


_SAME = (_aten.clone.default, _aten.alias.default, _aten.detach.default, _aten.lift_fresh_copy.default)
_SAME_NAME = (  # as in ONNX
    *("relu", "neg", "exp", "log", "sqrt", "reciprocal", "tanh", "sigmoid", "erf", "abs"),
    *("sin", "cos", "floor", "ceil"),
)
_BINARY: dict[str, tuple[Any, ...]] = {
    "Mul": (_aten.mul.Tensor, _aten.mul.Scalar),
    "Div": (_aten.div.Tensor, _aten.div.Scalar),
    "Max": (_aten.maximum.default,),
    "Min": (_aten.minimum.default,),
    "Greater": (_aten.gt.Scalar, _aten.gt.Tensor),
    "GreaterOrEqual": (_aten.ge.Scalar, _aten.ge.Tensor),
    "Less": (_aten.lt.Scalar, _aten.lt.Tensor),
    "LessOrEqual": (_aten.le.Scalar, _aten.le.Tensor),
    "Equal": (_aten.eq.Scalar, _aten.eq.Tensor),
    "Pow": (_aten.pow.Tensor_Tensor,),
    "And": (_aten.logical_and.default, _aten.bitwise_and.Tensor),
    "Or": (_aten.logical_or.default, _aten.bitwise_or.Tensor),
}
_UNARY: dict[str, tuple[Any, ...]] = {
    **{name.capitalize(): (getattr(_aten, name).default,) for name in _SAME_NAME},
    "Round": (_aten.round.default,),
    "Sign": (_aten.sign.default, _aten.sgn.default),
    "Not": (_aten.logical_not.default, _aten.bitwise_not.default),
}
ELEMENTWISE: dict[Any, Callable[[Call], Any]] = {
    **{op: _elementwise(kind, 2) for kind, operators in _BINARY.items() for op in operators},
    **{op: _elementwise(kind, 1) for kind, operators in _UNARY.items() for op in operators},
    **dict.fromkeys((_aten.add.Tensor, _aten.add.Scalar), _scaled("Add")),
    **dict.fromkeys((_aten.sub.Tensor, _aten.sub.Scalar), _scaled("Sub")),
    _aten.pow.Tensor_Scalar: _power,
    _aten.rsqrt.default: lambda call: _combine(call, "Reciprocal", (_combine(call, "Sqrt", call.args[:1]),)),
    **dict.fromkeys((_aten.clamp.default, _aten.clamp.Tensor, _aten.clamp_min.default, _aten.clamp_min.Tensor), _clamp),
    **dict.fromkeys((_aten.ne.Scalar, _aten.ne.Tensor), _not_equal),
    _aten.where.self: _elementwise("Where", 3),
    _aten.threshold_backward.default: _threshold_backward,
    _aten._to_copy.default: _cast,
    **dict.fromkeys(_SAME, lambda call: call.args[0]),
    _aten.expand.default: _expand,
    _aten.copy.default: _copied,
}
"""Translations by torch operator. They accept tensors whose expanded axes still have size 1."""
CONVERTING = (_aten._to_copy.default, _aten.copy.default, *_SAME, _aten.expand.default)
"""Those of them that do not convert their tensors to a common type."""
