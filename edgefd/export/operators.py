"""torch operators as ONNX nodes. An operator that is not here is refused by name when a module is exported."""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import torch
from torch import Tensor, fx

from edgefd.core.errors import UserError
from edgefd.export import spatial
from edgefd.export.graph import CHANNELS_LAST, Graph, Value, plain
from edgefd.export.step import Traced

_aten = torch.ops.aten
_NUMPY = {torch.float32: np.float32, torch.float64: np.float64, torch.int64: np.int64, torch.bool: np.bool_}
_ONNX = {
    torch.float32: onnx.TensorProto.FLOAT,
    torch.float64: onnx.TensorProto.DOUBLE,
    torch.int64: onnx.TensorProto.INT64,
    torch.bool: onnx.TensorProto.BOOL,
}


@dataclass(frozen=True, eq=False)
class Call:
    """One torch operator to translate: its arguments, with Values for tensors, and what torch says of its result."""

    g: Graph
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    shape: tuple[Any, ...]
    dtype: torch.dtype
    input_dtype: torch.dtype

    def get(self, index: int, name: str, default: Any = None) -> Any:
        """An argument by position or name."""
        return self.args[index] if len(self.args) > index else self.kwargs.get(name, default)

    def number(self, value: float) -> Value:
        """A constant of the type of the tensors it meets."""
        return plain(self.g.constant(np.array(value, _NUMPY[self.input_dtype])), ())


def to_onnx(traced: Traced) -> onnx.ModelProto:
    """The ONNX model of a traced function. Its inputs and outputs have the traced names, but for the fixed inputs.

    Raises:
        UserError: naming the operator that is not supported.
    """
    g = Graph()
    values: dict[fx.Node, Any] = {}
    names = iter(traced.inputs)
    for node in traced.graph.graph.nodes:
        if node.op == "placeholder":
            name = next(names)
            fixed = traced.fixed.get(name)
            shape = tuple(node.meta["val"].shape)
            values[node] = g.input(name, shape) if fixed is None else _constant(g, fixed)
        elif node.op == "get_attr":
            values[node] = _constant(g, getattr(traced.graph, node.target))
        elif node.op == "call_function":
            values[node] = _translate(g, node, values)
        elif node.op == "output":
            for name, result in zip(traced.outputs, node.args[0], strict=True):
                g.output(name, _whole(g, result, values))
    return g.model()


def _translate(g: Graph, node: fx.Node, values: dict[fx.Node, Any]) -> Any:
    if node.target is operator.getitem:
        return values[node.args[0]][node.args[1]]  # type: ignore[index]
    if not isinstance(node.target, torch._ops.OpOverload) or node.target is _aten.sym_size.int:
        return None  # arithmetic on sizes: results carry their shapes
    target = node.target
    if not any(isinstance(n.meta.get("val"), Tensor) or n in values for n in node.all_input_nodes):
        return _constant(g, target(*node.args, **node.kwargs))
    take = (lambda n: values[n]) if target in _BROADCASTING else (lambda n: _whole(g, n, values))
    args, kwargs = fx.map_arg(node.args, take), fx.map_arg(node.kwargs, take)
    val = node.meta.get("val")
    result = val if isinstance(val, Tensor) else None
    inputs = [n.meta["val"].dtype for n in node.all_input_nodes if isinstance(n.meta.get("val"), Tensor)]
    call = Call(
        g,
        tuple(args),
        dict(kwargs),
        () if result is None else tuple(result.shape),
        torch.float32 if result is None else result.dtype,
        inputs[0] if inputs else torch.float32,
    )
    try:
        return OPERATORS[target](call)
    except KeyError:
        raise UserError(f"the operator {target} of this module cannot be exported to a device") from None
    except NotImplementedError as error:
        raise UserError(f"the operator {target} of this module cannot be exported to a device: {error}") from None


def _whole(g: Graph, node: fx.Node, values: dict[fx.Node, Any]) -> Any:
    """The node's value with every number there; expanded axes are left at size 1 as long as nothing minds."""
    value = values[node]
    if not isinstance(value, Value):
        return value
    full = tuple(node.meta["val"].shape)
    stretched = len(value.shape) == len(full) and all(a in (1, b) for a, b in zip(value.shape, full, strict=True))
    if value.shape == full or not stretched:
        return value
    source = g.ordered(value)
    return plain(g.op("Expand", source.name, g.constant(np.array(full, np.int64))), full)


def _constant(g: Graph, tensor: Tensor) -> Value:
    return plain(g.constant(tensor.detach().numpy()), tuple(tensor.shape))


def _elementwise(kind: str, n: int) -> Callable[[Call], Value]:
    return lambda call: _combine(call, kind, call.args[:n])


def _combine(call: Call, kind: str, operands: Sequence[Any]) -> Value:
    """An operator on numbers in the same place, whatever order the tensors lie in."""
    tensors = [v if isinstance(v, Value) else call.number(v) for v in operands]
    shape = _broadcast([t.shape for t in tensors])
    perm = _common_order(tensors, shape)
    return Value(call.g.op(kind, *(_as_operand(call.g, t, perm) for t in tensors)), shape, perm)


def _broadcast(shapes: Sequence[tuple[Any, ...]]) -> tuple[Any, ...]:
    """The shape of tensors combined, which fit. numpy's function would make a number of a free batch size."""
    axes = max(len(shape) for shape in shapes)
    aligned = [(1,) * (axes - len(shape)) + shape for shape in shapes]
    sizes = zip(*aligned, strict=True)
    return tuple(next((d for d in each if not (isinstance(d, int) and d == 1)), 1) for each in sizes)


def _common_order(tensors: Sequence[Value], shape: tuple[Any, ...]) -> tuple[int, ...]:
    full = [t.perm for t in tensors if t.shape == shape]
    if CHANNELS_LAST in full:
        return CHANNELS_LAST
    return full[0] if len(set(full)) == 1 else tuple(range(len(shape)))


def _as_operand(g: Graph, value: Value, perm: tuple[int, ...]) -> str:
    if not value.shape or perm == tuple(range(len(perm))):
        return g.ordered(value).name
    missing = len(perm) - len(value.shape)
    return g.arranged(g.reshape(value, (1,) * missing + value.shape) if missing else value, perm).name


def _scaled(kind: str) -> Callable[[Call], Value]:
    """Sum or difference of a and alpha b."""

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
    return Value(call.g.op("Cast", x.name, to=_ONNX[call.dtype]), x.shape, x.perm)


def _same(call: Call) -> Value:
    value: Value = call.args[0]
    return value


def _expand(call: Call) -> Value:
    value: Value = call.args[0]
    return call.g.reshape(value, (1,) * (len(call.shape) - len(value.shape)) + value.shape)


def _view(call: Call) -> Value:
    return call.g.reshape(call.args[0], call.shape)


def _permute(call: Call) -> Value:
    value, axes = call.args
    return call.g.permute(value, [a % len(axes) for a in axes])


def _transpose(call: Call) -> Value:
    value, a, b = call.args
    axes = list(range(len(value.shape)))
    axes[a], axes[b] = axes[b], axes[a]
    return call.g.permute(value, axes)


def _matrix_product(call: Call) -> Value:
    a, b = call.args
    return _gemm(call, a, b)


def _addmm(call: Call) -> Value:
    bias, a, b = call.args
    if call.kwargs.get("beta", 1) != 1 or call.kwargs.get("alpha", 1) != 1:
        raise NotImplementedError("with alpha or beta")
    return _gemm(call, a, b, call.g.ordered(bias).name)


def _gemm(call: Call, a: Value, b: Value, *bias: str) -> Value:
    flags = {"transA": int(not a.in_order), "transB": int(not b.in_order)}
    return plain(call.g.op("Gemm", a.name, b.name, *bias, **flags), call.shape)


def _batch_product(call: Call) -> Value:
    a, b = (call.g.ordered(v) for v in call.args)
    return plain(call.g.op("MatMul", a.name, b.name), call.shape)


def _reduce(kind: str) -> Callable[[Call], Value]:
    def translate(call: Call) -> Value:
        value = call.args[0]
        axes = [a % len(value.shape) for a in _axes(call.get(1, "dim"))] or list(range(len(value.shape)))
        keep = bool(call.get(2, "keepdim", False))
        if not value.shape:
            return _same(call)
        if kind == "ReduceSum" and axes == [0] and len(value.shape) == 2 and isinstance(value.shape[0], int):
            return call.g.reshape(spatial.column_sums(call.g, call.g.ordered(value)), call.shape)
        where = call.g.constant(np.array(sorted(value.perm[a] for a in axes), np.int64))
        name = call.g.op(kind, value.name, where, keepdims=1)
        kept = tuple(1 if i in axes else d for i, d in enumerate(value.shape))
        reduced = Value(name, kept, value.perm)
        return reduced if keep else call.g.reshape(reduced, call.shape)

    return translate


def _axes(axes: Any) -> list[int]:
    return [axes] if isinstance(axes, int) else list(axes or ())


def _softmax(kind: str) -> Callable[[Call], Value]:
    def translate(call: Call) -> Value:
        value = call.g.ordered(call.args[0])
        return plain(call.g.op(kind, value.name, axis=call.args[1]), call.shape)

    return translate


def _concat(call: Call) -> Value:
    parts = [call.g.ordered(v).name for v in call.args[0]]
    return plain(call.g.op("Concat", *parts, axis=call.get(1, "dim", 0)), call.shape)


def _slice(call: Call) -> Value:
    value = call.g.ordered(call.args[0])
    axis, start, end, step = (
        call.get(i, n, d) for i, n, d in ((1, "dim", 0), (2, "start", 0), (3, "end", None), (4, "step", 1))
    )
    last = np.iinfo(np.int64).max if end is None else end
    limits = [call.g.constant(np.array([v], np.int64)) for v in (start or 0, last, axis, step)]
    return plain(call.g.op("Slice", value.name, *limits), call.shape)


def _select(call: Call) -> Value:
    value, axis, index = call.args
    source = call.g.ordered(value)
    return plain(call.g.op("Gather", source.name, call.g.constant(np.array(index, np.int64)), axis=axis), call.shape)


def _pad(call: Call) -> Value:
    value = call.g.ordered(call.args[0])
    pairs, fill = call.args[1], call.get(2, "value", 0)
    before, after = [0] * len(value.shape), [0] * len(value.shape)
    for i in range(0, len(pairs), 2):
        before[-1 - i // 2], after[-1 - i // 2] = pairs[i], pairs[i + 1]
    sizes = call.g.constant(np.array([*before, *after], np.int64))
    return plain(call.g.op("Pad", value.name, sizes, call.number(fill).name), call.shape)


def _filled(value: float | None) -> Callable[[Call], Value]:
    """Everywhere the same number: kept as one number, and broadcast."""

    def translate(call: Call) -> Value:
        number = call.args[1] if value is None else value
        single: npt.NDArray[Any] = np.full((1,) * len(call.shape), number, _NUMPY[call.dtype])
        return plain(call.g.constant(single), single.shape)

    return translate


def _spatial(function: Callable[..., Any]) -> Callable[[Call], Any]:
    return lambda call: function(call.g, *call.args, **call.kwargs)


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
_ELEMENTWISE: dict[Any, Callable[[Call], Any]] = {
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
_BROADCASTING = frozenset(_ELEMENTWISE)
OPERATORS: dict[Any, Callable[[Call], Any]] = {
    **_ELEMENTWISE,
    _aten.view.default: _view,
    _aten._unsafe_view.default: _view,
    _aten.reshape.default: _view,
    _aten.unsqueeze.default: _view,
    _aten.squeeze.dim: _view,
    _aten.squeeze.dims: _view,
    _aten.permute.default: _permute,
    _aten.t.default: lambda call: call.g.permute(call.args[0], (1, 0)),
    _aten.transpose.int: _transpose,
    _aten.mm.default: _matrix_product,
    _aten.addmm.default: _addmm,
    _aten.bmm.default: _batch_product,
    _aten.sum.dim_IntList: _reduce("ReduceSum"),
    _aten.sum.default: _reduce("ReduceSum"),
    _aten.mean.dim: _reduce("ReduceMean"),
    _aten.mean.default: _reduce("ReduceMean"),
    _aten.amax.default: _reduce("ReduceMax"),
    _aten._softmax.default: _softmax("Softmax"),
    _aten._log_softmax.default: _softmax("LogSoftmax"),
    _aten.cat.default: _concat,
    _aten.slice.Tensor: _slice,
    _aten.select.int: _select,
    _aten.constant_pad_nd.default: _pad,
    _aten.full_like.default: _filled(None),
    _aten.ones_like.default: _filled(1),
    _aten.zeros_like.default: _filled(0),
    _aten.convolution.default: _spatial(spatial.convolution),
    _aten.convolution_backward.default: _spatial(spatial.convolution_backward),
    _aten.max_pool2d_with_indices.default: _spatial(spatial.max_pool),
    _aten.max_pool2d_with_indices_backward.default: _spatial(spatial.max_pool_backward),
    _aten.avg_pool2d.default: _spatial(spatial.avg_pool),
    _aten.avg_pool2d_backward.default: _spatial(spatial.avg_pool_backward),
    _aten.native_group_norm.default: _spatial(spatial.group_norm),
}
