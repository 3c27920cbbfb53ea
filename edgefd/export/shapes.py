"""torch operators that change the shape of tensors, or select, join, pad and fill, as ONNX nodes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from edgefd.export.call import NUMPY_TYPES, Call
from edgefd.export.graph_builder import Value, plain

_aten = torch.ops.aten


def _permute(call: Call) -> Value:
    value, axes = call.args
    return call.g.permute(value, [a % len(axes) for a in axes])


def _transpose(call: Call) -> Value:
    value, a, b = call.args
    axes = list(range(len(value.shape)))
    axes[a], axes[b] = axes[b], axes[a]
    return call.g.permute(value, axes)


def _concat(call: Call) -> Value:
    parts = [call.g.ordered(v).name for v in call.args[0]]
    return plain(call.g.op("Concat", *parts, axis=call.get(1, "dim", 0)), call.shape)


def _slice(call: Call) -> Value:
    value = call.g.ordered(call.args[0])
    if call.shape == value.shape:
        return value
    axis, start, end, step = (
        call.get(i, n, d) for i, n, d in ((1, "dim", 0), (2, "start", 0), (3, "end", None), (4, "step", 1))
    )
    last = np.iinfo(np.int64).max if end is None else end
    limits = [call.g.constant(np.array([v], np.int64)) for v in (start or 0, last, axis, step)]
    return plain(call.g.op("Slice", value.name, *limits), call.shape)


def _split(call: Call) -> tuple[Value, ...]:
    """Translate the parts of a tensor along an axis."""
    value = call.g.ordered(call.args[0])
    sizes, axis = call.args[1], call.get(2, "dim", 0) % len(value.shape)
    if len(sizes) == 1:
        return (value,)
    parts = call.g.constant(np.array(sizes, np.int64))
    names = call.g.node("Split", value.name, parts, n=len(sizes), axis=axis)
    before, after = value.shape[:axis], value.shape[axis + 1 :]
    return tuple(plain(name, (*before, size, *after)) for name, size in zip(names, sizes, strict=True))


def _repeat(call: Call) -> Value:
    """Translate copies of a tensor side by side. Axes of size 1 are only marked as repeated."""
    counts = call.args[1]
    value: Value = call.args[0]
    value = call.g.reshape(value, (1,) * (len(counts) - len(value.shape)) + value.shape)
    if all(count == 1 or size == 1 for size, count in zip(value.shape, counts, strict=True)):
        return value
    if len(counts) == 1 and not isinstance(counts[0], int):
        return call.g.reshape(call.g.expand(value, (counts[0], *value.shape)), call.shape)
    if not all(isinstance(count, int) for count in counts):
        raise NotImplementedError("the number of copies depends on the number of rows")
    return plain(call.g.op("Tile", value.name, call.g.constant(np.array(counts, np.int64))), call.shape)


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
    """Return the translation of a tensor of equal numbers: one number with axes of size 1, which broadcasts."""

    def translate(call: Call) -> Value:
        number = call.args[1] if value is None else value
        single: npt.NDArray[Any] = np.full((1,) * len(call.shape), number, NUMPY_TYPES[call.dtype])
        return plain(call.g.constant(single), single.shape)

    return translate


_VIEWS = (
    *(_aten.view.default, _aten._unsafe_view.default, _aten.reshape.default),
    *(_aten.unsqueeze.default, _aten.squeeze.dim, _aten.squeeze.dims),
)
SHAPES: dict[Any, Callable[[Call], Any]] = {
    **dict.fromkeys(_VIEWS, lambda call: call.g.reshape(call.args[0], call.shape)),
    **dict.fromkeys((_aten.split_with_sizes.default, _aten.unsafe_split_with_sizes.default), _split),
    _aten.repeat.default: _repeat,
    _aten.permute.default: _permute,
    _aten.t.default: lambda call: call.g.permute(call.args[0], (1, 0)),
    _aten.transpose.int: _transpose,
    _aten.cat.default: _concat,
    _aten.slice.Tensor: _slice,
    _aten.select.int: _select,
    _aten.constant_pad_nd.default: _pad,
    **dict.fromkeys((_aten.full_like.default, _aten.full.default), _filled(None)),
    _aten.ones_like.default: _filled(1),
    **dict.fromkeys((_aten.zeros_like.default, _aten.new_empty_strided.default, _aten.empty.memory_format), _filled(0)),
}
"""Translations by torch operator."""
