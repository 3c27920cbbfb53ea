"""Max-pooling with any windows, and its gradient: overlapping, padded, dilated, incomplete or adaptive ones.

`edgefd.export.pooling` is faster for windows that do not overlap. Here, a window is a list of positions along the
vertical and along the horizontal axis. The maxima of all windows are a chain of maxima over their first positions,
their second positions, and so on.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from edgefd.export import pooling
from edgefd.export.call import Call
from edgefd.export.graph_builder import CHANNELS_LAST, GraphBuilder, Value
from edgefd.export.indexing import Positions, put, take
from edgefd.export.pooling import max_gradients, pool_options, running_max, whole_windows

_aten = torch.ops.aten

Windows = tuple[Positions, Positions]
"""Positions of the windows along the vertical and the horizontal axis, each [positions per window, windows]."""


def _windows_of(x: Value, options: Sequence[Any]) -> Windows:
    """Return the windows of max-pooling; `options` are torch's arguments after the tensor."""
    kernel, stride, padding, dilation, ceil_mode = pool_options(options)
    steps = stride or kernel
    geometry = [[v[min(i, len(v) - 1)] for v in (kernel, steps, padding, dilation)] for i in (0, 1)]
    vertical, horizontal = (_positions(x.shape[2 + i], geometry[i], bool(ceil_mode)) for i in (0, 1))
    return vertical, horizontal


def _adaptive_windows_of(x: Value, size: Sequence[int]) -> Windows:
    """Return the windows of adaptive max-pooling to this size."""
    vertical, horizontal = (_adaptive_positions(n, count) for n, count in zip(x.shape[2:], size, strict=True))
    return vertical, horizontal


def _positions(size: int, geometry: Sequence[int], ceil_mode: bool) -> Positions:
    kernel, stride, padding, dilation = geometry
    room = size + 2 * padding - dilation * (kernel - 1) - 1
    count = -(-room // stride) + 1 if ceil_mode else room // stride + 1
    if ceil_mode and (count - 1) * stride >= size + padding:
        count -= 1  # as in torch: a window starts inside the image or before it
    positions = np.arange(kernel)[:, None] * dilation + np.arange(count) * stride - padding
    inside = (positions >= 0) & (positions < size)
    first = positions[inside.argmax(0), np.arange(count)]
    return np.where(inside, positions, first)  # a repeated first position never receives a gradient of its own


def _adaptive_positions(size: int, count: int) -> Positions:
    starts = np.arange(count) * size // count
    ends = -(-(np.arange(count) + 1) * size // count)
    positions = starts + np.arange((ends - starts).max())[:, None]
    return np.where(positions < ends, positions, starts)


def _max_pool(g: GraphBuilder, x: Value, windows: Windows) -> Value:
    """Return the largest number of each window."""
    rows = _parts(g, _across(g, x, windows)[1], windows[0], 2)
    return Value(running_max(g, _names(rows))[-1], rows[0].shape, CHANNELS_LAST)


def _max_pool_gradient(g: GraphBuilder, grad: Value, x: Value, windows: Windows) -> Value:
    """Return the gradient, which goes to the first largest number of each window in row-major order, as in torch."""
    columns, across = _across(g, x, windows)
    tall = _spread(g, g.arranged(grad, CHANNELS_LAST), _parts(g, across, windows[0], 2), windows[0], 2, x.shape[2])
    return _spread(g, tall, columns, windows[1], 3, x.shape[3])


def _across(g: GraphBuilder, x: Value, windows: Windows) -> tuple[list[Value], Value]:
    """Return the horizontal positions of each window, and the maximum over them."""
    columns = _parts(g, g.arranged(x, CHANNELS_LAST), windows[1], 3)
    return columns, Value(running_max(g, _names(columns))[-1], columns[0].shape, CHANNELS_LAST)


def _parts(g: GraphBuilder, x: Value, positions: Positions, axis: int) -> list[Value]:
    return [take(g, x, each, axis) for each in positions]


def _names(parts: Sequence[Value]) -> tuple[str, ...]:
    return tuple(part.name for part in parts)


def _spread(g: GraphBuilder, grad: Value, parts: Sequence[Value], positions: Positions, axis: int, size: int) -> Value:
    """Return the gradient of the source of the parts, of which the gradient of the maximum is given."""
    names = _names(parts)
    shares = max_gradients(g, grad.name, names, running_max(g, names))
    memory_axis = CHANNELS_LAST[axis]
    joined = g.op("Concat", *shares, axis=memory_axis) if len(shares) > 1 else shares[0]
    shape = (*grad.shape[:axis], positions.size, *grad.shape[axis + 1 :])
    return put(g, Value(joined, shape, CHANNELS_LAST), positions, axis, size)


def _max(call: Call) -> tuple[Value, None]:
    x, *options = call.args
    whole = whole_windows(x, options)
    if whole is not None:
        return pooling.max_pool(call.g, x, whole), None
    return _max_pool(call.g, x, _windows_of(x, options)), None


def _max_backward(call: Call) -> Value:
    grad, x, *options, _ = call.args
    whole = whole_windows(x, options)
    if whole is not None:
        return pooling.max_pool_gradient(call.g, grad, x, whole)
    return _max_pool_gradient(call.g, grad, x, _windows_of(x, options))


def _adaptive_max(call: Call) -> tuple[Value, None]:
    x, size = call.args
    return _max_pool(call.g, x, _adaptive_windows_of(x, size)), None


def _adaptive_max_backward(call: Call) -> Value:
    grad, x, _ = call.args
    return _max_pool_gradient(call.g, grad, x, _adaptive_windows_of(x, grad.shape[2:]))


MAX_POOLING: dict[Any, Callable[[Call], Any]] = {
    _aten.max_pool2d_with_indices.default: _max,
    _aten.max_pool2d_with_indices_backward.default: _max_backward,
    _aten.adaptive_max_pool2d.default: _adaptive_max,
    _aten.adaptive_max_pool2d_backward.default: _adaptive_max_backward,
}
"""Translations by torch operator."""
