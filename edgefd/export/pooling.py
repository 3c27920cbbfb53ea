"""Pooling over windows that do not overlap, and its gradients as the ONNX operators that are fast on a CPU.

Max-pooling is a chain of splits and maxima over the columns, then over the rows of each window. ONNX Runtime's own
MaxPool with indices costs 10 to 40 times as much.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from edgefd.export.call import Call
from edgefd.export.graph_builder import CHANNELS_LAST, GraphBuilder, Value, plain

_aten = torch.ops.aten


@dataclass(frozen=True)
class PoolGeometry:
    """Windows of a pooling operator that do not overlap. Rows and columns after the last whole window are unused."""

    kh: int
    kw: int
    height: int
    """number of windows along the vertical axis"""
    width: int
    """number of windows along the horizontal axis"""

    @property
    def covered(self) -> tuple[int, int]:
        """The numbers of rows and columns that the windows cover."""
        return self.height * self.kh, self.width * self.kw


def pool_options(options: Sequence[Any]) -> tuple[Any, ...]:
    """Return torch's arguments of max-pooling after the tensor: kernel, stride, padding, dilation and ceil_mode."""
    defaults: tuple[Any, ...] = ((), (0,), (1,), False)
    return (*options, *defaults[len(options) - 1 :])


def whole_windows(x: Value, options: Sequence[Any]) -> PoolGeometry | None:
    """Return the windows of max-pooling if they are whole and do not overlap, else None.

    `options` are torch's arguments after the tensor.
    """
    kernel, stride, padding, dilation, ceil_mode = pool_options(options)
    kh, kw = kernel if len(kernel) == 2 else (kernel[0], kernel[0])
    steps = tuple(stride) if len(stride) == 2 else (stride[0],) * 2 if stride else (kh, kw)
    whole = x.shape[2] % kh == 0 and x.shape[3] % kw == 0
    if steps != (kh, kw) or any(padding) or any(d != 1 for d in dilation) or (ceil_mode and not whole):
        return None
    return PoolGeometry(kh, kw, x.shape[2] // kh, x.shape[3] // kw)


def _mean_geometry(x: Value, options: Sequence[Any]) -> PoolGeometry:
    """Return the windows of average pooling. `edgefd.export.resampling` replaces other windows in the trace."""
    geometry = whole_windows(x, options[:2])
    if geometry is None:
        raise NotImplementedError("windows that overlap are not supported here")
    return geometry


def max_pool(g: GraphBuilder, x: Value, p: PoolGeometry) -> Value:
    """Return the largest number of each window. Incomplete windows at the end are left out, as in torch."""
    n, c = x.shape[:2]
    _, across = _columns_max(g, x, p)
    maxima = running_max(g, _split(g, across, (n * p.height, p.kh, p.width * c), p.kh))
    pooled = g.reshape(plain(maxima[-1], (n * p.height, 1, p.width * c)), (n, p.height, p.width, c))
    return g.permute(pooled, CHANNELS_LAST)


def max_pool_gradient(g: GraphBuilder, grad: Value, x: Value, p: PoolGeometry) -> Value:
    """Return the gradient of max-pooling.

    It goes to the first largest number of each window, in row-major order: torch's rule for ties.
    """
    n, c = x.shape[:2]
    columns, across = _columns_max(g, x, p)
    rows = _split(g, across, (n * p.height, p.kh, p.width * c), p.kh)
    row_maxima = running_max(g, rows)
    last = g.arranged(grad, CHANNELS_LAST)
    flat = g.reshape(plain(last.name, last.memory), (n * p.height, 1, p.width * c)).name
    parts = max_gradients(g, flat, rows, row_maxima)
    tall = g.reshape(
        plain(g.op("Concat", *parts, axis=1), (n * p.height, p.kh, p.width * c)),
        (n * p.height * p.kh * p.width, 1, c),
    )
    column_maxima = running_max(g, columns)
    wide = g.op("Concat", *max_gradients(g, tall.name, columns, column_maxima), axis=1)
    return _uncropped(g, plain(wide, (n * p.height * p.kh * p.width, p.kw, c)), x, p)


def _avg_pool(call: Call) -> Value:
    """Translate the mean of each window."""
    g = call.g
    x, *options = call.args
    p = _mean_geometry(x, options)
    n, c = x.shape[:2]
    across = _sum(g, _split(g, _cropped(g, x, p), (n * p.height * p.kh * p.width, p.kw, c), p.kw))
    down = _sum(g, _split(g, across, (n * p.height, p.kh, p.width * c), p.kh))
    mean = g.op("Mul", down, g.constant(np.float32(1 / (p.kh * p.kw))))
    rows = plain(mean, (n * p.height, 1, p.width * c))
    return g.permute(g.reshape(rows, (n, p.height, p.width, c)), CHANNELS_LAST)


def _avg_pool_backward(call: Call) -> Value:
    """Translate the gradient of average pooling: equal shares for all numbers of a window."""
    g = call.g
    grad, x, *options = call.args
    p = _mean_geometry(x, options)
    n, c = x.shape[:2]
    last = g.arranged(grad, CHANNELS_LAST)
    share = g.op("Mul", last.name, g.constant(np.float32(1 / (p.kh * p.kw))))
    rows = g.reshape(plain(share, last.memory), (n * p.height, 1, p.width * c)).name
    tall = plain(g.op("Concat", *([rows] * p.kh), axis=1), (n * p.height, p.kh, p.width * c))
    columns = g.reshape(tall, (n * p.height * p.kh * p.width, 1, c)).name
    wide = plain(g.op("Concat", *([columns] * p.kw), axis=1), (n * p.height * p.kh * p.width, p.kw, c))
    return _uncropped(g, wide, x, p)


def _cropped(g: GraphBuilder, x: Value, p: PoolGeometry) -> str:
    """Return the rows and columns of x that the windows cover, with channels last."""
    last = g.arranged(x, CHANNELS_LAST)
    if x.shape[2:] == p.covered:
        return last.name
    zero, end, axes = (g.constant(np.array(v, np.int64)) for v in ([0, 0], list(p.covered), [1, 2]))
    return g.op("Slice", last.name, zero, end, axes)


def _uncropped(g: GraphBuilder, part: Value, x: Value, p: PoolGeometry) -> Value:
    """Return the gradient of all of x from that of the covered rows and columns: it is zero elsewhere."""
    n, c, h, w = x.shape
    height, width = p.covered
    image = g.reshape(part, (n, height, width, c)).name
    if (h, w) != (height, width):
        image = g.op("Pad", image, g.constant(np.array([0, 0, 0, 0, 0, h - height, w - width, 0], np.int64)))
    return Value(image, x.shape, CHANNELS_LAST)


def _split(g: GraphBuilder, name: str, shape: tuple[Any, ...], parts: int) -> tuple[str, ...]:
    """Split [a, parts, b] into `parts` tensors [a, 1, b]."""
    whole = g.op("Reshape", name, g.constant(np.array([d if isinstance(d, int) else -1 for d in shape], np.int64)))
    return g.node("Split", whole, n=parts, axis=1, num_outputs=parts) if parts > 1 else (whole,)


def _columns_max(g: GraphBuilder, x: Value, p: PoolGeometry) -> tuple[tuple[str, ...], str]:
    """Return the columns of each window, and the maximum over them."""
    n, c = x.shape[:2]
    columns = _split(g, _cropped(g, x, p), (n * p.height * p.kh * p.width, p.kw, c), p.kw)
    return columns, running_max(g, columns)[-1]


def running_max(g: GraphBuilder, parts: tuple[str, ...]) -> tuple[str, ...]:
    """Return the running maxima of tensors."""
    maxima = [parts[0]]
    for part in parts[1:]:
        maxima.append(g.op("Max", maxima[-1], part))
    return tuple(maxima)


def max_gradients(g: GraphBuilder, grad: str, parts: tuple[str, ...], maxima: tuple[str, ...]) -> list[str]:
    """Return the gradient of each part of a running maximum.

    A later part receives the gradient only where it is strictly larger than all earlier parts.
    """
    gradients = []
    for i in range(len(parts) - 1, 0, -1):
        share = g.op("Mul", grad, g.mask(g.op("Greater", parts[i], maxima[i - 1])))
        grad = g.op("Sub", grad, share)
        gradients.append(share)
    return [grad, *reversed(gradients)]


def _sum(g: GraphBuilder, parts: tuple[str, ...]) -> str:
    total = parts[0]
    for part in parts[1:]:
        total = g.op("Add", total, part)
    return total


MEAN_POOLING: dict[Any, Callable[[Call], Any]] = {
    _aten.avg_pool2d.default: _avg_pool,
    _aten.avg_pool2d_backward.default: _avg_pool_backward,
}
"""Translations by torch operator."""
