"""Convolution in groups of channels, the gradient of its weight, and the geometry of all convolutions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from edgefd.export.graph_builder import GraphBuilder, Value, plain


@dataclass(frozen=True)
class ConvGeometry:
    """Geometry of a 2-d convolution. Pairs are (vertical, horizontal)."""

    stride: Sequence[int]
    padding: Sequence[int]
    dilation: Sequence[int]
    groups: int

    @classmethod
    def of(cls, stride: Sequence[int], padding: Sequence[int], dilation: Sequence[int], groups: int) -> ConvGeometry:
        """Return the geometry; a single number stands for both axes."""
        across, edge, apart = ([v[0], v[-1]] for v in (stride, padding, dilation))
        return cls(across, edge, apart, groups)

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


def grouped(g: GraphBuilder, x: Value, weight: Value, bias: Value | None, geometry: ConvGeometry) -> Value:
    """Return a convolution in groups of channels.

    The operator Conv of ONNX Runtime is used: there is no large matrix product that could be faster.
    """
    optional_bias = (bias.name,) if bias is not None else ()
    inputs = (g.ordered(x).name, g.ordered(weight).name, *optional_bias)
    name = g.op("Conv", *inputs, **geometry.attributes(weight))
    return plain(name, (x.shape[0], weight.shape[0], *geometry.output_size(x, weight)))


def grouped_weight_gradient(g: GraphBuilder, grad: Value, x: Value, weight: Value, geometry: ConvGeometry) -> Value:
    """Return the gradient of the weight of a convolution in groups of channels."""
    if geometry.groups == x.shape[1] == weight.shape[0]:
        return _depthwise_weight_gradient(g, grad, x, weight, geometry)
    groups, (out, c, kh, kw) = geometry.groups, weight.shape
    n, pixels = x.shape[0], grad.shape[2] * grad.shape[3]
    parts = [
        g.reshape(plain(part, (n, groups * c, *grad.shape[2:])), (n, groups, c, pixels)).name
        for part in slices(g, g.ordered(x).name, grad.shape[2:], (kh, kw), geometry)
    ]
    taps = g.op("Concat", *parts, axis=2) if len(parts) > 1 else parts[0]  # [n, groups, kh * kw * c, pixels]
    rows = g.reshape(grad, (n, groups, out // groups, pixels)).name
    products = g.op("MatMul", rows, g.op("Transpose", taps, perm=[0, 1, 3, 2]))
    total = g.op("ReduceSum", products, g.constant(np.array([0], np.int64)), keepdims=0)
    matrix = g.reshape(plain(total, (groups, out // groups, kh * kw * c)), (out, kh, kw, c))
    return g.ordered(g.permute(matrix, (0, 3, 1, 2)))


def _depthwise_weight_gradient(g: GraphBuilder, grad: Value, x: Value, weight: Value, geometry: ConvGeometry) -> Value:
    """Return dW[c, 0, i, j] = the sum over samples and positions of grad times the input of kernel position (i, j)."""
    channels, _, kh, kw = weight.shape
    kernel_inputs = slices(g, g.ordered(x).name, grad.shape[2:], (kh, kw), geometry)
    grad_name, axes = g.ordered(grad).name, g.constant(np.array([0, 2, 3], np.int64))
    sums = [g.op("ReduceSum", g.op("Mul", grad_name, part), axes, keepdims=0) for part in kernel_inputs]
    rows = [g.reshape(plain(name, (channels,)), (1, channels)).name for name in sums]
    taps = g.permute(plain(g.op("Concat", *rows, axis=0), (kh * kw, channels)), (1, 0))
    return g.reshape(taps, weight.shape)


def slices(
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
