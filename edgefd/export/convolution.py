"""Convolution and its gradients as the ONNX operators that are fast on a CPU.

A convolution is two gathers (im2col) and one matrix product with channels last. The gathered buffer also serves the
gradient of the weight. ONNX Runtime's own Where and Expand cost 10 to 40 times as much.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from edgefd.export.call import Call
from edgefd.export.graph_builder import CHANNELS_LAST, GraphBuilder, Value, plain
from edgefd.export.reductions import column_sums

_aten = torch.ops.aten
_FEW = 4  # channels; for so few, gathering is slower than slicing


@dataclass(frozen=True)
class ConvGeometry:
    """Geometry of a 2-d convolution. Pairs are (vertical, horizontal)."""

    stride: Sequence[int]
    padding: Sequence[int]
    dilation: Sequence[int]
    groups: int

    def output_size(self, x: Value, weight: Value) -> tuple[int, int]:
        """Return (height, width) of the output."""
        height, width = (
            (size + 2 * p - d * (k - 1) - 1) // s + 1
            for size, p, d, k, s in zip(
                x.shape[2:], self.padding, self.dilation, weight.shape[2:], self.stride, strict=True
            )
        )
        return height, width

    def unused_size(self, x: Value, weight: Value, output: Sequence[int]) -> list[int]:
        """Return the numbers of last rows and columns of x that no output of size `output` depends on."""
        return [
            size - ((after - 1) * s - 2 * p + d * (k - 1) + 1)
            for size, after, s, p, d, k in zip(
                x.shape[2:], output, self.stride, self.padding, self.dilation, weight.shape[2:], strict=True
            )
        ]

    def attributes(self, weight: Value) -> dict[str, Any]:
        """Return the attributes of the ONNX operators Conv and ConvTranspose."""
        return {
            "kernel_shape": list(weight.shape[2:]),
            "strides": list(self.stride),
            "pads": [*self.padding, *self.padding],
            "dilations": list(self.dilation),
            "group": self.groups,
        }


def _convolution(call: Call) -> Value:
    """Translate z = W * x + b. The memory of z has channels last, and channels second for depthwise convolutions."""
    g = call.g
    x, weight, bias, stride, padding, dilation, transposed, _, groups = call.args
    geometry = ConvGeometry(stride, padding, dilation, groups)
    _check_supported(x, weight, transposed, groups)
    if groups > 1:
        return _depthwise(g, x, weight, bias, geometry)
    n, out = x.shape[0], weight.shape[0]
    height, width = geometry.output_size(x, weight)
    columns, few = _im2col(g, x, weight, geometry)
    in_column_order = g.ordered(g.permute(weight, (2, 3, 1, 0)))  # [kh, kw, C, O]
    matrix = g.reshape(in_column_order, (weight.shape[1] * weight.shape[2] * weight.shape[3], out)).name
    optional_bias = (bias.name,) if bias is not None else ()
    product = g.op("Gemm", columns, matrix, *optional_bias, transA=int(few))
    rows = g.reshape(plain(product, (n * height * width, out)), (n, height, width, out))
    return g.permute(rows, CHANNELS_LAST)


def _convolution_backward(call: Call) -> tuple[Value | None, Value | None, Value | None]:
    """Translate the gradients of a convolution with respect to (x, weight, bias)."""
    g = call.g
    grad, x, weight, _, stride, padding, dilation, transposed, _, groups, (x_needed, weight_needed, bias_needed) = (
        call.args
    )
    geometry = ConvGeometry(stride, padding, dilation, groups)
    _check_supported(x, weight, transposed, groups)
    last = g.arranged(grad, CHANNELS_LAST)
    flat = g.reshape(plain(last.name, last.memory), (x.shape[0] * grad.shape[2] * grad.shape[3], weight.shape[0]))
    grad_x = grad_weight = grad_bias = None
    if x_needed:
        unused = geometry.unused_size(x, weight, grad.shape[2:])
        source = g.ordered(Value(last.name, grad.shape, CHANNELS_LAST)).name
        attributes = geometry.attributes(weight)
        grad_x = plain(g.op("ConvTranspose", source, weight.name, output_padding=unused, **attributes), x.shape)
    if weight_needed and groups > 1:
        grad_weight = _depthwise_weight_gradient(g, grad, x, weight, geometry)
    elif weight_needed:
        grad_weight = _weight_gradient(g, flat, x, weight, geometry)
    if bias_needed:
        grad_bias = column_sums(g, flat)
    return grad_x, grad_weight, grad_bias


CONVOLUTIONS: dict[Any, Callable[[Call], Any]] = {
    _aten.convolution.default: _convolution,
    _aten.convolution_backward.default: _convolution_backward,
}
"""Translations by torch operator."""


def _check_supported(x: Value, weight: Value, transposed: bool, groups: int) -> None:
    depthwise = groups == x.shape[1] == weight.shape[0]
    if len(x.shape) != 4 or transposed or not (groups == 1 or depthwise):
        kind = "transposed" if transposed else f"{len(x.shape) - 2}-d" if len(x.shape) != 4 else "grouped"
        raise NotImplementedError(f"a {kind} convolution is not supported: use a plain or depthwise conv2d")


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


def _depthwise(g: GraphBuilder, x: Value, weight: Value, bias: Value | None, geometry: ConvGeometry) -> Value:
    """Return a convolution with one kernel per channel.

    The operator Conv of ONNX Runtime is used: there is no matrix product that could be faster.
    """
    optional_bias = (bias.name,) if bias is not None else ()
    inputs = (g.ordered(x).name, g.ordered(weight).name, *optional_bias)
    name = g.op("Conv", *inputs, **geometry.attributes(weight))
    return plain(name, (x.shape[0], weight.shape[0], *geometry.output_size(x, weight)))


def _depthwise_weight_gradient(g: GraphBuilder, grad: Value, x: Value, weight: Value, geometry: ConvGeometry) -> Value:
    """Return dW[c, 0, i, j] = the sum over samples and positions of grad times the input of kernel position (i, j)."""
    channels, _, kh, kw = weight.shape
    kernel_inputs = _slices(g, g.ordered(x).name, grad.shape[2:], (kh, kw), geometry)
    grad_name, axes = g.ordered(grad).name, g.constant(np.array([0, 2, 3], np.int64))
    sums = [g.op("ReduceSum", g.op("Mul", grad_name, part), axes, keepdims=0) for part in kernel_inputs]
    rows = [g.reshape(plain(name, (channels,)), (1, channels)).name for name in sums]
    taps = g.permute(plain(g.op("Concat", *rows, axis=0), (kh * kw, channels)), (1, 0))
    return g.reshape(taps, weight.shape)


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
    parts = _slices(g, planes, (height, width), (kh, kw), geometry)
    columns = g.op("Concat", *parts, axis=0)
    return g.reshape(plain(columns, (kh * kw * c, n, height, width)), (kh * kw * c, n * height * width)).name


def _slices(
    g: GraphBuilder, planes: str, output: Sequence[int], kernel: tuple[int, int], geometry: ConvGeometry
) -> list[str]:
    """Return the inputs of each of the kh * kw kernel positions from planes [a, b, H, W]: tensors [a, b, *output]."""
    if any(geometry.padding):
        pads = [0, 0, *geometry.padding, 0, 0, *geometry.padding]
        planes = g.op("Pad", planes, g.constant(np.array(pads, np.int64)))
    axes, steps = g.constant(np.array([2, 3], np.int64)), g.constant(np.array(geometry.stride, np.int64))
    parts = []
    for i in range(kernel[0]):
        for j in range(kernel[1]):
            start = np.array([i * geometry.dilation[0], j * geometry.dilation[1]], np.int64)
            end = start + (np.array(output) - 1) * np.array(geometry.stride) + 1
            parts.append(g.op("Slice", planes, g.constant(start), g.constant(end), axes, steps))
    return parts


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
