"""Convolution and its gradients as the ONNX operators that are fast on a CPU.

A convolution is two gathers (im2col) and one matrix product with channels last. The gathered buffer also serves the
gradient of the weight. ONNX Runtime's own Where and Expand cost 10 to 40 times as much.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from edgefd.export.call import Call
from edgefd.export.graph_builder import CHANNELS_LAST, GraphBuilder, Value, plain
from edgefd.export.grouped_convolution import ConvGeometry, grouped, grouped_weight_gradient, slices
from edgefd.export.reductions import column_sums

_aten = torch.ops.aten
_FEW = 4  # channels; for so few, gathering is slower than slicing


def _convolution(call: Call) -> Value:
    """Translate z = W * x + b, and the transposed convolution."""
    g = call.g
    x, weight, bias, stride, padding, dilation, transposed, output_padding, groups = call.args
    if len(x.shape) == 3:
        one = ([1, *stride], [0, *padding], [1, *dilation], [0, *output_padding])
        image = _apply(
            g, _as_image(g, x), _as_image(g, weight), bias, ConvGeometry(*one[:3], groups), transposed, one[3]
        )
        return g.squeeze(image, 2)
    _check_supported(x)
    return _apply(g, x, weight, bias, ConvGeometry.of(stride, padding, dilation, groups), transposed, output_padding)


def _apply(
    g: GraphBuilder,
    x: Value,
    weight: Value,
    bias: Value | None,
    geometry: ConvGeometry,
    transposed: bool,
    output_padding: Sequence[int],
) -> Value:
    if transposed:
        return _transposed(g, x, weight, bias, geometry, output_padding)
    return _plain(g, x, weight, bias, geometry) if geometry.groups == 1 else grouped(g, x, weight, bias, geometry)


def _as_image(g: GraphBuilder, x: Value) -> Value:
    """Return a tensor [a, b, L] as images [a, b, 1, L]."""
    return g.unsqueeze(x, 2)


def _plain(g: GraphBuilder, x: Value, weight: Value, bias: Value | None, geometry: ConvGeometry) -> Value:
    """Return a convolution with one group. Its memory has channels last."""
    n, out = x.shape[0], weight.shape[0]
    height, width = geometry.output_size(x, weight)
    columns, few = _im2col(g, x, weight, geometry)
    in_column_order = g.ordered(g.permute(weight, (2, 3, 1, 0)))  # [kh, kw, C, O]
    matrix = g.reshape(in_column_order, (weight.shape[1] * weight.shape[2] * weight.shape[3], out)).name
    optional_bias = (bias.name,) if bias is not None else ()
    product = g.op("Gemm", columns, matrix, *optional_bias, transA=int(few))
    rows = g.reshape(plain(product, (n * height * width, out)), (n, height, width, out))
    return g.permute(rows, CHANNELS_LAST)


def _transposed(
    g: GraphBuilder, x: Value, weight: Value, bias: Value | None, geometry: ConvGeometry, more: Sequence[int]
) -> Value:
    """Return a transposed convolution, whose result has `more` rows and columns at the end."""
    inputs = (g.ordered(x).name, g.ordered(weight).name, *(() if bias is None else (bias.name,)))
    name = g.op("ConvTranspose", *inputs, output_padding=list(more), **geometry.attributes(weight))
    sizes = [
        (size - 1) * s - 2 * p + d * (k - 1) + 1 + rest
        for size, s, p, d, k, rest in zip(
            x.shape[2:], geometry.stride, geometry.padding, geometry.dilation, weight.shape[2:], more, strict=True
        )
    ]
    return plain(name, (x.shape[0], weight.shape[1] * geometry.groups, *sizes))


def _convolution_backward(call: Call) -> tuple[Value | None, Value | None, Value | None]:
    """Translate the gradients of a convolution with respect to (x, weight, bias)."""
    g = call.g
    grad, x, weight, _, stride, padding, dilation, transposed, _, groups, needed = call.args
    if len(x.shape) == 3:
        geometry = ConvGeometry([1, *stride], [0, *padding], [1, *dilation], groups)
        grad, x, weight = (_as_image(g, v) for v in (grad, x, weight))
        grad_x, grad_weight, grad_bias = _gradients(g, grad, x, weight, geometry, transposed, needed)
        return g.squeeze(grad_x, 2) if grad_x else None, g.squeeze(grad_weight, 2) if grad_weight else None, grad_bias
    _check_supported(x)
    return _gradients(g, grad, x, weight, ConvGeometry.of(stride, padding, dilation, groups), transposed, needed)


def _gradients(
    g: GraphBuilder,
    grad: Value,
    x: Value,
    weight: Value,
    geometry: ConvGeometry,
    transposed: bool,
    needed: Sequence[bool],
) -> tuple[Value | None, Value | None, Value | None]:
    """Return the gradients of those of (x, weight, bias) that are needed.

    A transposed convolution is the gradient of a convolution. So its gradient of x is a convolution, and in its
    gradient of the weight, x and the gradient of the result have changed their places.
    """
    last = g.arranged(grad, CHANNELS_LAST)
    pixels = last.shape[0] * last.shape[2] * last.shape[3]
    flat = g.reshape(plain(last.name, last.memory), (pixels, grad.shape[1]))
    grad = Value(last.name, grad.shape, CHANNELS_LAST)
    grad_x = grad_weight = grad_bias = None
    if needed[0] and transposed:
        grad_x = _apply(g, grad, weight, None, geometry, False, ())
    elif needed[0]:
        grad_x = _transposed(g, grad, weight, None, geometry, geometry.unused_size(x, weight, grad.shape[2:]))
    source, result = (grad, x) if transposed else (x, grad)
    if needed[1] and geometry.groups > 1:
        grad_weight = grouped_weight_gradient(g, result, source, weight, geometry)
    elif needed[1]:
        grad_weight = _weight_gradient(g, _as_rows(g, result) if transposed else flat, source, weight, geometry)
    if needed[2]:
        grad_bias = column_sums(g, flat)
    return grad_x, grad_weight, grad_bias


def _as_rows(g: GraphBuilder, x: Value) -> Value:
    """Return the pixels of images as rows, [N * pixels, C]."""
    last = g.arranged(x, CHANNELS_LAST)
    return g.reshape(plain(last.name, last.memory), (x.shape[0] * x.shape[2] * x.shape[3], x.shape[1]))


CONVOLUTIONS: dict[Any, Callable[[Call], Any]] = {
    _aten.convolution.default: _convolution,
    _aten.convolution_backward.default: _convolution_backward,
}
"""Translations by torch operator."""


def _check_supported(x: Value) -> None:
    if len(x.shape) != 4:
        raise NotImplementedError(f"a {len(x.shape) - 2}-d convolution is not supported: use conv1d or conv2d")


def _weight_gradient(g: GraphBuilder, flat: Value, x: Value, weight: Value, geometry: ConvGeometry) -> Value:
    """Return dW as a matrix product of the gradient `flat`, [N * pixels, O], and the columns of x."""
    rows, _ = flat.shape
    out, c, kh, kw = weight.shape
    columns, few = _im2col(g, x, weight, geometry)
    if few:
        product = plain(g.op("Gemm", columns, flat.name), (kh * kw * c, out))
        return g.ordered(g.permute(g.reshape(product, (kh, kw, c, out)), (3, 2, 0, 1)))
    # twice as fast as a product that transposes; the reshapes keep ONNX Runtime from turning it into one
    cube = g.reshape(flat, (1, rows, out)).name
    transposed = g.reshape(plain(g.op("Transpose", cube, perm=[0, 2, 1]), (1, out, rows)), (out, rows))
    product = plain(g.op("Gemm", transposed.name, columns), (out, kh * kw * c))
    return g.ordered(g.permute(g.reshape(product, (out, kh, kw, c)), (0, 3, 1, 2)))


def _im2col(g: GraphBuilder, x: Value, weight: Value, geometry: ConvGeometry) -> tuple[str, bool]:
    """Return the inputs of each output pixel, [N * pixels, kh * kw * C], and False.

    If there are few channels, return the transposed matrix and True.
    """
    few = x.shape[1] <= _FEW
    columns_of = _sliced if few else _gathered
    return columns_of(g, x, weight, geometry), few


def _sliced(g: GraphBuilder, x: Value, weight: Value, geometry: ConvGeometry) -> str:
    """Return columns [kh * kw * C, N * pixels], computed with kh * kw slices."""
    n, c = x.shape[:2]
    kh, kw = weight.shape[2:]
    height, width = geometry.output_size(x, weight)
    planes = g.ordered(g.permute(x, (1, 0, 2, 3))).name
    parts = slices(g, planes, (height, width), (kh, kw), geometry)
    columns = g.op("Concat", *parts, axis=0)
    return g.reshape(plain(columns, (kh * kw * c, n, height, width)), (kh * kw * c, n * height * width)).name


def _gathered(g: GraphBuilder, x: Value, weight: Value, geometry: ConvGeometry) -> str:
    """Return columns [N * pixels, kh * kw * C] from two gathers: kw neighbours in a row, then kh rows of those."""
    n, c, h, w = x.shape
    kh, kw = weight.shape[2:]
    stride, padding, dilation = geometry.stride, geometry.padding, geometry.dilation
    height, width = geometry.output_size(x, weight)
    last = g.arranged(x, CHANNELS_LAST)
    pixels = g.reshape(plain(last.name, last.memory), (n, h * w, c)).name
    if any(padding):  # one more pixel, of zeros, represents all pixels outside the image
        pixels = g.op("Pad", pixels, g.constant(np.array([0, 0, 0, 0, 1, 0], np.int64)))
    padded_height = h + 2 * padding[0]
    y, across, j = np.meshgrid(np.arange(padded_height) - padding[0], np.arange(width), np.arange(kw), indexing="ij")
    column = across * stride[1] + j * dilation[1] - padding[1]
    inside = (y >= 0) & (y < h) & (column >= 0) & (column < w)
    near = np.where(inside, y * w + column, h * w).reshape(-1)
    strips = g.op("Gather", pixels, g.constant(near.astype(np.int64)), axis=1)
    strips = g.reshape(plain(strips, (n, padded_height * width * kw, c)), (n, padded_height * width, kw * c)).name
    down, across, i = np.meshgrid(np.arange(height), np.arange(width), np.arange(kh), indexing="ij")
    rows = ((down * stride[0] + i * dilation[0]) * width + across).reshape(-1)
    columns = g.op("Gather", strips, g.constant(rows.astype(np.int64)), axis=1)
    return g.reshape(plain(columns, (n, height * width * kh, kw * c)), (n * height * width, kh * kw * c)).name
