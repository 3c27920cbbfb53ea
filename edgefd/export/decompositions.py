"""The operators that a trace keeps whole, and those that it replaces by smaller ones.

torch's own decompositions come first. The functions here replace them where a device has a faster way.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch._decomp import core_aten_decompositions, get_decompositions

from edgefd.export.resampling import RESAMPLING

_aten = torch.ops.aten
_WHOLE = (  # `edgefd.export.operators` translates them whole, which is faster than their parts
    _aten.threshold_backward.default,
    _aten.convolution_backward.default,
    _aten.max_pool2d_with_indices_backward.default,
    _aten.avg_pool2d_backward.default,
    _aten.native_group_norm.default,
    _aten.native_layer_norm.default,
    _aten.embedding_dense_backward.default,
    _aten.slice_backward.default,
    _aten.select_backward.default,
    _aten.select_scatter.default,
)
_DECOMPOSED = (  # in addition to torch's core decompositions
    _aten.native_layer_norm_backward,
    _aten._log_softmax_backward_data,
    _aten._softmax_backward_data,
    _aten.gelu,
    _aten.gelu_backward,
    _aten.silu,
    _aten.silu_backward,
    _aten.leaky_relu,
    _aten.leaky_relu_backward,
    _aten.hardtanh,
    _aten.hardtanh_backward,
    _aten.elu,
    _aten.elu_backward,
    _aten.tanh_backward,
    _aten.sigmoid_backward,
    _aten.log_sigmoid_forward,
    _aten.log_sigmoid_backward,
    _aten._prelu_kernel,
    _aten._prelu_kernel_backward,
    _aten.hardswish,
    _aten.hardswish_backward,
    _aten.hardsigmoid,
    _aten.hardsigmoid_backward,
    _aten.softplus,
    _aten.softplus_backward,
    _aten.mish,
    _aten.mish_backward,
    _aten.unfold_backward,
    _aten._trilinear,
)


def decompositions() -> dict[Any, Callable[..., Any]]:
    """Return the table of decompositions for a trace."""
    table = {**core_aten_decompositions(), **get_decompositions(_DECOMPOSED)}
    for operator in _WHOLE:
        table.pop(operator, None)
    return {**table, **_OWN, **RESAMPLING}


def _axes(x: Tensor, dim: Sequence[int] | int | None) -> list[int]:
    if dim is None:
        return list(range(x.dim()))
    return [dim] if isinstance(dim, int) else list(dim)


def _variance(
    x: Tensor, dim: Sequence[int] | None = None, correction: float | None = None, keepdim: bool = False
) -> Tensor:
    return _variance_and_mean(x, dim, correction, keepdim)[0]


def _variance_and_mean(
    x: Tensor, dim: Sequence[int] | None = None, correction: float | None = None, keepdim: bool = False
) -> tuple[Tensor, Tensor]:
    """Return sum((x - mean)^2) / (n - correction), and the mean."""
    axes = _axes(x, dim)
    count = 1
    for axis in axes:
        count = count * x.shape[axis]
    mean = x.mean(axes, keepdim=True)
    distance = x - mean
    variance = (distance * distance).sum(axes, keepdim=keepdim) / (count - (1 if correction is None else correction))
    return variance, mean if keepdim else mean.reshape(variance.shape)


def _vector_norm(
    x: Tensor, ord: float = 2, dim: Sequence[int] | None = None, keepdim: bool = False, dtype: Any = None
) -> Tensor:
    axes = _axes(x, dim)
    if ord == 2:
        return (x * x).sum(axes, keepdim=keepdim).sqrt()
    if ord == 1:
        return x.abs().sum(axes, keepdim=keepdim)
    if ord == float("inf"):
        return x.abs().amax(axes, keepdim=keepdim)
    return (x.abs() ** ord).sum(axes, keepdim=keepdim) ** (1 / ord)


def _log1p(x: Tensor) -> Tensor:
    return (x + 1).log()


def _expm1(x: Tensor) -> Tensor:
    """Return exp(x) - 1 = tanh(x / 2) (exp(x) + 1), which keeps the digits of a small x."""
    return (x * 0.5).tanh() * (x.exp() + 1)


def _safe_softmax(x: Tensor, dim: int, dtype: Any = None) -> Tensor:
    """Return the softmax, and zeros where all numbers are -inf.

    A constant of a graph is finite: the lowest number takes the place of -inf.
    """
    lowest = torch.finfo(torch.float32).min
    some = (x.amax(dim, keepdim=True) > lowest / 2).to(x.dtype)
    return torch.softmax(x, dim) * some


def _rms_norm(x: Tensor, shape: Sequence[int], weight: Tensor | None, eps: float | None) -> tuple[Tensor, Tensor]:
    """Return x / sqrt(mean(x^2) + eps) over the last axes, times weight, and the factor."""
    axes = list(range(x.dim() - len(shape), x.dim()))
    least = torch.finfo(x.dtype).eps if eps is None else eps
    factor = torch.rsqrt((x * x).mean(axes, keepdim=True) + least)
    return x * factor if weight is None else x * factor * weight, factor


def _instance_norm(
    x: Tensor, weight: Tensor | None, bias: Tensor | None, training: bool, momentum: float, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Return (x - mean) / sqrt(var + eps) per channel, times weight, plus bias; the mean and 1 / sqrt(var + eps)."""
    axes = [0, *range(2, x.dim())]
    shape = [1, -1, *[1] * (x.dim() - 2)]
    variance, mean = _variance_and_mean(x, axes, 0, True)
    factor = torch.rsqrt(variance + eps)
    out = (x - mean) * factor
    out = out if weight is None else out * weight.reshape(shape)
    return out if bias is None else out + bias.reshape(shape), mean.reshape(-1), factor.reshape(-1)


_OWN: dict[Any, Callable[..., Any]] = {
    _aten.var.correction: _variance,
    _aten.var_mean.correction: _variance_and_mean,
    _aten.linalg_vector_norm.default: _vector_norm,
    _aten.log1p.default: _log1p,
    _aten.expm1.default: _expm1,
    _aten._safe_softmax.default: _safe_softmax,
    _aten.rms_norm.default: lambda x, shape, weight=None, eps=None: _rms_norm(x, shape, weight, eps)[0],
    _aten._fused_rms_norm.default: _rms_norm,
    _aten._native_batch_norm_legit.no_stats: _instance_norm,
}
