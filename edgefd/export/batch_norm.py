"""Batch normalisation over the rows of a batch that are not padding, as ONNX nodes.

With c channels, n = rows times positions, and sums over the rows that are not padding (m = 1 there, 0 elsewhere):
    mean = sum(m x) / n,  var = sum(m (x - mean)^2) / n,  y = (x - mean) / sqrt(var + eps) weight + bias.
For a batch of one row, mean and var are the running statistics, as in `edgefd.learners.torch_learner`. All sums are
products of matrices with channels last, as the convolutions of this package give them.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from edgefd.export.call import Call
from edgefd.export.graph_builder import GraphBuilder, Value, plain

_aten = torch.ops.aten


@dataclass(frozen=True)
class _Rows:
    """A tensor [B, C, ...] as a matrix of B * positions rows and C columns."""

    g: GraphBuilder
    shape: tuple[Any, ...]

    @property
    def perm(self) -> tuple[int, ...]:
        """The memory order with channels last."""
        axes = len(self.shape)
        return (0, axes - 1, *range(1, axes - 1))

    @property
    def channels(self) -> int:
        """Number of columns."""
        return int(self.shape[1])

    @property
    def size(self) -> int:
        """Number of rows of the matrix."""
        return int(math.prod(self.shape)) // self.channels

    def matrix(self, value: Value) -> str:
        """Return a tensor of this shape as a matrix."""
        last = self.g.arranged(value, self.perm)
        return self.g.reshape(plain(last.name, last.memory), (self.size, self.channels)).name

    def value(self, matrix: str) -> Value:
        """Return a matrix as a tensor of this shape."""
        memory = (self.shape[0], *self.shape[2:], self.channels)
        return self.g.permute(self.g.reshape(plain(matrix, (self.size, self.channels)), memory), self.perm)

    def row_mask(self, shape: tuple[int, int]) -> str:
        """Return m for each entry of the first axis of the tensor, in this shape."""
        g, rows = self.g, self.shape[0]
        if g.rows is None or rows % g.rows.shape[0]:  # the first axis is not that of the rows
            return g.constant(np.ones(shape, np.float32))
        each = self._repeated(g.reshape(g.rows, (g.rows.shape[0], 1)), rows // g.rows.shape[0])
        return g.reshape(each, shape).name

    def mask(self) -> str:
        """Return m for each row of the matrix, [size, 1]."""
        rows = self.shape[0]
        each = self._repeated(plain(self.row_mask((rows, 1)), (rows, 1)), self.size // rows)
        return self.g.reshape(each, (self.size, 1)).name

    def _repeated(self, column: Value, times: int) -> Value:
        ones = self.g.op("ConstantOfShape", self.g.constant(np.array([1, times], np.int64)), value=self.g.one)
        return plain(self.g.op("MatMul", column.name, ones), (column.shape[0], times))

    def total(self, matrix: str) -> str:
        """Return the sum of each column over the rows that are not padding, [1, C].

        Positions are summed before rows: one sum over all would round flat images away, which have many equal values.
        """
        g, rows, positions = self.g, self.shape[0], self.size // self.shape[0]
        ones = g.op("ConstantOfShape", g.constant(np.array([1, positions], np.int64)), value=g.one)
        cube = g.reshape(plain(matrix, (self.size, self.channels)), (rows, positions, self.channels)).name
        sums = g.reshape(plain(g.op("MatMul", ones, cube), (rows, 1, self.channels)), (rows, self.channels)).name
        return g.op("MatMul", self.row_mask((1, rows)), sums)

    def count(self) -> str:
        """Return n, [1, 1]."""
        g, rows = self.g, self.shape[0]
        total = g.op("ReduceSum", self.row_mask((rows, 1)), g.constant(np.array([0], np.int64)), keepdims=1)
        return g.op("Mul", total, self.number(self.size // rows))

    def line(self, value: Value) -> str:
        """Return a vector with a number for each channel as [1, C]."""
        return self.g.reshape(value, (1, self.channels)).name

    def vector(self, line: str) -> Value:
        """Return [1, C] as a vector."""
        return self.g.reshape(plain(line, (1, self.channels)), (self.channels,))

    def several(self) -> str:
        """Return whether the batch has several rows."""
        g = self.g
        if g.rows is None:
            return g.constant(np.array(True))
        rows = g.op("ReduceSum", g.rows.name, g.constant(np.array([0], np.int64)), keepdims=0)
        return g.op("Greater", rows, g.constant(np.float32(1.5)))

    def number(self, value: float) -> str:
        """Return a constant number."""
        return self.g.constant(np.float32(value))


def _batch_norm(call: Call) -> tuple[Value, Value, Value, Value | None, Value | None]:
    """Translate to (y, mean, 1 / sqrt(var + eps), new running mean, new running variance)."""
    g = call.g
    x, _, _, running_mean, running_var, training, momentum, _ = call.args
    r = _Rows(g, x.shape)
    if not training:
        mean, var = r.line(running_mean), r.line(running_var)
        scale, out = _normalised(r, g.arranged(x, r.perm).name, mean, var, call)
        return Value(out, x.shape, r.perm), r.vector(mean), r.vector(scale), None, None
    if g.rows is None:
        raise NotImplementedError("its predictions depend on other rows: set track_running_stats=True")
    matrix = r.matrix(x)
    mean = batch_mean = g.op("Div", r.total(matrix), r.count())
    if running_mean is not None:
        mean = g.op("Where", r.several(), mean, r.line(running_mean))
    difference = g.op("Sub", matrix, mean)  # of several rows; for one row, nothing reads `batch_var`
    var = batch_var = g.op("Div", r.total(g.op("Mul", difference, difference)), r.count())
    new_mean = new_var = None
    if running_mean is not None:
        var = g.op("Where", r.several(), var, r.line(running_var))
        unbiased = g.op("Mul", batch_var, g.op("Div", r.count(), g.op("Sub", r.count(), r.number(1))))
        new_mean = _running(r, running_mean, batch_mean, momentum)
        new_var = _running(r, running_var, unbiased, momentum)
    scale, out = _normalised(r, matrix, mean, var, call)
    return r.value(out), r.vector(mean), r.vector(scale), new_mean, new_var


def _running(r: _Rows, old: Value, new: str, momentum: float) -> Value:
    """Return (1 - momentum) old + momentum new, or old for a batch of one row."""
    g, line = r.g, r.line(old)
    mean = g.op("Add", g.op("Mul", line, r.number(1 - momentum)), g.op("Mul", new, r.number(momentum)))
    return r.vector(g.op("Where", r.several(), mean, line))


def _normalised(r: _Rows, x: str, mean: str, var: str, call: Call) -> tuple[str, str]:
    """Return 1 / sqrt(var + eps), and (x - mean) / sqrt(var + eps) weight + bias, for any x with channels last."""
    g, weight, bias, eps = r.g, *call.args[1:3], call.args[7]
    scale = g.op("Reciprocal", g.op("Sqrt", g.op("Add", var, r.number(eps))))
    factor = scale if weight is None else g.op("Mul", scale, r.line(weight))
    out = g.op("Mul", g.op("Sub", x, mean), factor)
    return scale, out if bias is None else g.op("Add", out, r.line(bias))


def _batch_norm_backward(call: Call) -> tuple[Value | None, Value | None, Value | None]:
    """Translate the gradients with respect to (x, weight, bias). Rows of padding have gradients of 0.

    With s = 1 / sqrt(var + eps), d = x - mean and g the gradient of y: dbias = sum(g), dweight = s sum(g d),
    dx = s weight (g - m (dbias / n + d s^2 sum(g d) / n)), without the term in brackets for fixed statistics.
    """
    g = call.g
    grad, x, weight, running_mean, running_var, mean, scale, training, eps, needed = call.args
    r = _Rows(g, x.shape)
    gradient = r.matrix(grad)
    if training:
        mean_line, scale_line = r.line(mean), r.line(scale)
    else:
        mean_line = r.line(running_mean)
        scale_line = g.op("Reciprocal", g.op("Sqrt", g.op("Add", r.line(running_var), r.number(eps))))
    bias_line = r.total(gradient)
    d = g.op("Sub", r.matrix(x), mean_line)
    product = r.total(g.op("Mul", gradient, d))
    grad_x = None
    if needed[0]:
        factor = scale_line if weight is None else g.op("Mul", scale_line, r.line(weight))
        out = g.op("Mul", gradient, factor)
        if training:
            by_count = g.op("Div", factor, r.count())
            if running_mean is not None:
                by_count = g.op("Mul", by_count, g.op("Cast", r.several(), to=1))
            squared = g.op("Mul", scale_line, scale_line)
            from_var = g.op("Mul", d, g.op("Mul", g.op("Mul", squared, product), by_count))
            from_mean = g.op("Add", from_var, g.op("Mul", bias_line, by_count))
            out = g.op("Sub", out, g.op("Mul", from_mean, r.mask()))
        grad_x = r.value(out)
    grad_weight = r.vector(g.op("Mul", product, scale_line)) if needed[1] else None
    return grad_x, grad_weight, r.vector(bias_line) if needed[2] else None


def _with(call: Call, *statistics: Any) -> Call:
    """Return the call as one of batch normalisation with these statistics and this mode after weight and bias."""
    return replace(call, args=(*call.args[:3], *statistics, *call.args[-2:]))


BATCH_NORM: dict[Any, Callable[[Call], Any]] = {
    _aten._native_batch_norm_legit_functional.default: _batch_norm,
    _aten.native_batch_norm.default: _batch_norm,
    _aten._native_batch_norm_legit.default: _batch_norm,
    _aten._native_batch_norm_legit.no_stats: lambda call: _batch_norm(_with(call, None, None, True))[:3],
    _aten._native_batch_norm_legit_no_training.default: lambda call: _batch_norm(_with(call, *call.args[3:5], False))[
        :3
    ],
    _aten.native_batch_norm_backward.default: _batch_norm_backward,
}
"""Translations by torch operator."""
