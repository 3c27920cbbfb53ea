"""torch operators that select positions of a tensor, and their gradients, as ONNX nodes.

Positions that are known at export become constants. The gradient of such a selection is a selection too: each position
of the source takes the numbers that were selected from it, and their sum.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from onnx import numpy_helper

from edgefd.export.call import Call
from edgefd.export.graph_builder import GraphBuilder, Value, plain

_aten = torch.ops.aten
Positions = npt.NDArray[np.int64]


def take(g: GraphBuilder, x: Value, positions: Positions, axis: int) -> Value:
    """Return the numbers of x at these positions of an axis."""
    memory_axis = x.perm[axis]
    name = g.op("Gather", x.name, g.constant(positions.reshape(-1).astype(np.int64)), axis=memory_axis)
    shape = (*x.shape[:axis], positions.size, *x.shape[axis + 1 :])
    return Value(name, shape, x.perm)


def put(g: GraphBuilder, part: Value, positions: Positions, axis: int, size: int) -> Value:
    """Return zeros of this size along an axis, to which the numbers of `part` are added at these positions."""
    sources: list[list[int]] = [[] for _ in range(size)]
    for source, position in enumerate(positions.reshape(-1).tolist()):
        sources[position].append(source)
    most = max(len(s) for s in sources)
    nothing = positions.size  # the position of a zero that is appended
    table = np.array([[*s, *[nothing] * (most - len(s))] for s in sources], np.int64)
    memory_axis = part.perm[axis]
    name = part.name
    if (table == nothing).any():
        before, after = [0] * len(part.shape), [0] * len(part.shape)
        after[memory_axis] = 1
        name = g.op("Pad", name, g.constant(np.array([*before, *after], np.int64)))
    shape = (*part.shape[:axis], size, *part.shape[axis + 1 :])
    columns = [g.op("Gather", name, g.constant(column), axis=memory_axis) for column in table.T]
    total = columns[0]
    for column in columns[1:]:
        total = g.op("Add", total, column)
    return Value(total, shape, part.perm)


def positions_of(g: GraphBuilder, value: Value) -> Positions | None:
    """Return the integers of a constant, or None if the value is not a constant."""
    tensor = g.constant_tensor(value.name)
    if tensor is None:
        return None
    array = np.asarray(numpy_helper.to_array(tensor))
    return np.transpose(array, value.perm).astype(np.int64) if array.ndim else array.astype(np.int64)


@dataclass(frozen=True)
class _Selection:
    """Known positions in one or several axes, as positions in a single axis that merges these axes.

    The merged axis is where the first indexed axis was if the axes are neighbours, else it is the first, as in torch.
    """

    order: tuple[int, ...]
    """axes of the source, with the indexed axes side by side"""
    where: int
    """the merged axis"""
    sizes: tuple[int, ...]
    """sizes of the indexed axes"""
    rest: tuple[Any, ...]
    """sizes of the other axes"""
    positions: Positions

    @property
    def merged(self) -> tuple[Any, ...]:
        """Shape of the source with the merged axis."""
        return (*self.rest[: self.where], math.prod(self.sizes), *self.rest[self.where :])

    @property
    def selected(self) -> tuple[Any, ...]:
        """Shape of the selected numbers, in torch's order."""
        return (*self.rest[: self.where], *self.positions.shape, *self.rest[self.where :])

    def take(self, g: GraphBuilder, x: Value) -> Value:
        """Return the selected numbers of x."""
        whole = g.reshape(g.permute(x, self.order), self.merged)
        return g.reshape(take(g, whole, self.positions, self.where), self.selected)

    def put(self, g: GraphBuilder, values: Value) -> Value:
        """Return zeros in the shape of the source, to which the values are added at the positions."""
        flat = g.reshape(values, (*self.rest[: self.where], self.positions.size, *self.rest[self.where :]))
        whole = put(g, flat, self.positions, self.where, math.prod(self.sizes))
        split = g.reshape(whole, (*self.rest[: self.where], *self.sizes, *self.rest[self.where :]))
        return g.permute(split, [self.order.index(axis) for axis in range(len(self.order))])


def _selection(shape: tuple[Any, ...], axes: Sequence[int], indices: Sequence[Positions]) -> _Selection:
    sizes = tuple(shape[axis] for axis in axes)
    if not all(isinstance(size, int) for size in sizes):
        raise NotImplementedError("rows of a batch are selected, but each row must be computed from itself alone")
    grid = np.broadcast_arrays(*indices)
    wrapped = tuple(np.where(i < 0, i + size, i) for i, size in zip(grid, sizes, strict=True))
    where = axes[0] if list(axes) == list(range(axes[0], axes[-1] + 1)) else 0
    order = [axis for axis in range(len(shape)) if axis not in axes]
    rest = tuple(shape[axis] for axis in order)
    order[where:where] = axes
    return _Selection(tuple(order), where, sizes, rest, np.asarray(np.ravel_multi_index(wrapped, sizes)))


def _known(g: GraphBuilder, indices: Sequence[Value | None]) -> tuple[list[int], list[Positions] | None]:
    """Return the indexed axes, and the positions in each of them, or None if they are computed on the device."""
    axes = [axis for axis, index in enumerate(indices) if index is not None]
    known = [positions_of(g, index) for index in indices if index is not None]
    found = [positions for positions in known if positions is not None]
    return axes, found if len(found) == len(axes) else None


def _index(call: Call) -> Value:
    """Translate x[i, j, ...]."""
    g = call.g
    x, indices = call.args
    axes, known = _known(g, indices)
    if known is not None:
        return _selection(x.shape, axes, known).take(g, x)
    if len(axes) != 1:
        raise NotImplementedError("positions in several axes are computed from data: use torch.where")
    return _gather_rows(call, x, indices[axes[0]], axes[0])


def _gather_rows(call: Call, x: Value, index: Value, axis: int) -> Value:
    return plain(call.g.op("Gather", call.g.ordered(x).name, call.g.ordered(index).name, axis=axis), call.shape)


def _index_put(call: Call) -> Value:
    """Translate the addition or the assignment of values at positions."""
    g = call.g
    x, indices, values = call.args[:3]
    add = bool(call.get(3, "accumulate", False))
    axes, known = _known(g, indices)
    if known is None:
        if axes != [0] or not add or not g.is_zero(x):
            raise NotImplementedError("values are assigned at positions that are computed from data: use torch.where")
        return _add_rows(g, values, g.ordered(indices[0]), call.shape)
    chosen = _selection(x.shape, axes, known)
    if not add and len(np.unique(chosen.positions)) < chosen.positions.size:
        raise NotImplementedError("two values are assigned to the same position")
    return _onto(g, x, chosen.put(g, g.expand(values, chosen.selected)), add, chosen)


def _onto(g: GraphBuilder, base: Value, part: Value, add: bool, chosen: _Selection) -> Value:
    """Return the base with a part added, or in place of what it has at the chosen positions."""
    if g.is_zero(base):
        return part
    kept = g.ordered(base).name
    if not add:
        keep = np.ones(math.prod(chosen.sizes), np.float32)
        keep[chosen.positions.reshape(-1)] = 0
        shape = [1] * len(base.shape)
        for axis, size in zip(chosen.order[chosen.where :], chosen.sizes, strict=False):
            shape[axis] = size
        kept = g.op("Mul", kept, g.constant(keep.reshape(shape)))
    return plain(g.op("Add", kept, g.ordered(part).name), base.shape)


def _add_rows(g: GraphBuilder, rows: Value, index: Value, shape: tuple[Any, ...]) -> Value:
    """Return zeros [V, d], to each row of which those rows are added that have its number as index."""
    count, width = math.prod(index.shape), shape[1:]
    flat = g.reshape(rows, (count, *width)).name
    numbers = g.reshape(index, (count, *(1 for _ in width)))
    zeros = g.op("ConstantOfShape", g.constant(np.array(shape, np.int64)))
    wide = g.expand(numbers, (count, *width)).name
    return plain(g.op("ScatterElements", zeros, wide, flat, axis=0, reduction="add"), shape)


def _embedding(call: Call) -> Value:
    return _gather_rows(call, call.args[0], call.args[1], 0)


def _embedding_gradient(call: Call) -> Value:
    """Translate the gradient of the rows of an embedding. The row `padding_idx` has none."""
    g = call.g
    grad, index, rows, padding, by_frequency = call.args
    if by_frequency:
        raise NotImplementedError("scale_grad_by_freq is set")
    index = g.ordered(index)
    grad = g.ordered(grad)
    if padding >= 0:
        other = g.op("Not", g.op("Equal", index.name, g.constant(np.array(padding, np.int64))))
        mask = g.reshape(plain(g.mask(other), index.shape), (*index.shape, 1))
        grad = plain(g.op("Mul", grad.name, mask.name), grad.shape)
    return _add_rows(g, grad, index, (rows, grad.shape[-1]))


def _slice_gradient(call: Call) -> Value:
    grad, shape, axis, start, end, step = call.args
    axis %= len(shape)
    return _put_slice(call.g, grad, np.arange(shape[axis])[start:end:step], axis, shape[axis])


def _select_gradient(call: Call) -> Value:
    grad, shape, axis, index = call.args
    axis %= len(shape)
    single = call.g.reshape(grad, (*grad.shape[:axis], 1, *grad.shape[axis:]))
    return _put_slice(call.g, single, np.array([index % shape[axis]]), axis, shape[axis])


def _put_slice(g: GraphBuilder, part: Value, positions: Positions, axis: int, size: int) -> Value:
    """Return zeros with the numbers of `part` at the positions of a slice."""
    if (np.diff(positions) != 1).any():
        return put(g, part, positions, axis, size)
    if len(positions) == size:
        return part
    before, after = [0] * len(part.shape), [0] * len(part.shape)
    before[part.perm[axis]], after[part.perm[axis]] = int(positions[0]), size - 1 - int(positions[-1])
    name = g.op("Pad", part.name, g.constant(np.array([*before, *after], np.int64)))
    return Value(name, (*part.shape[:axis], size, *part.shape[axis + 1 :]), part.perm)


def _slice_scatter(call: Call) -> Value:
    """Translate a tensor of which a slice is replaced."""
    g = call.g
    base, part = call.args[:2]
    axis = call.get(2, "dim", 0) % len(base.shape)
    if part.shape[axis] == base.shape[axis]:
        return part  # type: ignore[no-any-return]
    if not isinstance(base.shape[axis], int):
        raise NotImplementedError("values are assigned to some rows of a batch")
    positions = np.arange(base.shape[axis])[slice(call.get(3, "start"), call.get(4, "end"), call.get(5, "step", 1))]
    return _replaced(g, base, part, positions, axis)


def _select_scatter(call: Call) -> Value:
    base, part, axis, index = call.args
    axis %= len(base.shape)
    single = call.g.reshape(part, (*part.shape[:axis], 1, *part.shape[axis:]))
    return _replaced(call.g, base, single, np.array([index % base.shape[axis]]), axis)


def _replaced(g: GraphBuilder, base: Value, part: Value, positions: Positions, axis: int) -> Value:
    if len(positions) == base.shape[axis]:
        return part
    chosen = _selection(base.shape, [axis], [positions])
    return _onto(g, base, _put_slice(g, part, positions, axis, base.shape[axis]), False, chosen)


def _index_select(call: Call) -> Value:
    x, axis, index = call.args
    axis %= len(x.shape)
    known = positions_of(call.g, index)
    return _gather_rows(call, x, index, axis) if known is None else _selection(x.shape, [axis], [known]).take(call.g, x)


def _flip(call: Call) -> Value:
    value: Value = call.args[0]
    for axis in call.args[1]:
        value = take(call.g, value, np.arange(value.shape[axis])[::-1], axis % len(value.shape))
    return value


def _windows(call: Call) -> Value:
    """Translate the windows along an axis; the numbers of a window become the last axis."""
    x, axis, size, step = call.args
    axis %= len(x.shape)
    starts = np.arange(0, x.shape[axis] - size + 1, step)
    chosen = _selection(x.shape, [axis], [starts[:, None] + np.arange(size)])
    taken = chosen.take(call.g, x)
    axes = list(range(len(taken.shape)))
    axes.append(axes.pop(axis + 1))
    return call.g.permute(taken, axes)


def _gather(call: Call) -> Value:
    x, axis, index = (*call.args[:3],)
    axis %= len(x.shape)
    if any(a != b for i, (a, b) in enumerate(zip(x.shape, index.shape, strict=True)) if i != axis):
        raise NotImplementedError("the index of gather has fewer positions than the tensor along another axis")
    name = call.g.op("GatherElements", call.g.ordered(x).name, call.g.ordered(index).name, axis=axis)
    return plain(name, call.shape)


def _scatter(reduction: str) -> Callable[[Call], Value]:
    def translate(call: Call) -> Value:
        x, axis, index, source = call.args
        index = call.g.ordered(index)
        if not isinstance(source, Value):
            source = call.g.expand(call.number(source), index.shape)
        names = [call.g.expand(v, s).name for v, s in ((x, call.shape), (index, index.shape), (source, index.shape))]
        return plain(call.g.op("ScatterElements", *names, axis=axis % len(x.shape), reduction=reduction), call.shape)

    return translate


INDEXING: dict[Any, Callable[[Call], Any]] = {
    **dict.fromkeys((_aten.index.Tensor, _aten._unsafe_index.Tensor), _index),
    **dict.fromkeys((_aten.index_put.default, _aten._unsafe_index_put.default), _index_put),
    _aten.index_select.default: _index_select,
    _aten.embedding.default: _embedding,
    _aten.embedding_dense_backward.default: _embedding_gradient,
    _aten.slice_backward.default: _slice_gradient,
    _aten.select_backward.default: _select_gradient,
    _aten.slice_scatter.default: _slice_scatter,
    _aten.select_scatter.default: _select_scatter,
    _aten.flip.default: _flip,
    _aten.unfold.default: _windows,
    _aten.gather.default: _gather,
    **dict.fromkeys((_aten.scatter.src, _aten.scatter.value), _scatter("none")),
    _aten.scatter_add.default: _scatter("add"),
}
"""Translations by torch operator."""
