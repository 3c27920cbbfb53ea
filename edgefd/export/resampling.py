"""Interpolation and average pooling as products with constant matrices, one for each axis.

Each of them is a linear map along the vertical axis, and one along the horizontal axis. The matrix of such a map is
what torch's operator makes of the identity matrix. The gradient is the product with the transposed matrix.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import _disable_current_modes

_aten = torch.ops.aten


@functools.lru_cache(maxsize=256)
def _matrix(operator: Any, size: int, options: tuple[Any, ...]) -> Tensor:
    """Return the matrix M, [size, new size], of an operator that maps a row vector v to v M."""
    with _disable_current_modes():
        columns = operator(torch.eye(size, dtype=torch.float64).view(1, size, 1, size), *options)
        matrix: Tensor = columns[0, :, 0].float().contiguous()
        return matrix


def _along(x: Tensor, matrix: Tensor, axis: int) -> Tensor:
    """Multiply the vectors along an axis by a matrix."""
    if _is_identity(matrix):
        return x
    return torch.matmul(x.movedim(axis, -1), matrix).movedim(-1, axis)


def _is_identity(matrix: Tensor) -> bool:
    with _disable_current_modes():
        return matrix.shape[0] == matrix.shape[1] and torch.equal(matrix, torch.eye(len(matrix)))


def _forward(x: Tensor, matrices: tuple[Tensor, Tensor]) -> Tensor:
    return _along(_along(x, matrices[1], 3), matrices[0], 2)


def _backward(grad: Tensor, matrices: tuple[Tensor, Tensor]) -> Tensor:
    with _disable_current_modes():
        vertical, horizontal = (matrix.t().contiguous() for matrix in matrices)
    return _along(_along(grad, vertical, 2), horizontal, 3)


Matrices = Callable[..., tuple[Tensor, Tensor] | None]
"""Function from the shape of a tensor and the arguments of an operator to the matrices (vertical, horizontal)."""


def _interpolation(operator: Any, aligned: bool) -> Matrices:
    def matrices(shape: Sequence[int], size: Sequence[int], *options: Any) -> tuple[Tensor, Tensor]:
        corners, scales = (options[:1], options[1:]) if aligned else ((), options)
        scales = (*scales, None, None)[:2]
        vertical, horizontal = (
            _matrix(operator, shape[2 + i], ((1, size[i]), *corners, None, scales[i])) for i in (0, 1)
        )
        return vertical, horizontal

    return matrices


def _mean(
    shape: Sequence[int],
    kernel: Sequence[int],
    stride: Sequence[int] = (),
    padding: Sequence[int] = (0,),
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor: int | None = None,
) -> tuple[Tensor, Tensor] | None:
    """Return the matrices of average pooling, or None for whole windows, which `edgefd.export.pooling` translates."""
    kernel, stride, padding = (_pair(v) for v in (kernel, stride or kernel, padding))
    whole = shape[2] % kernel[0] == 0 and shape[3] % kernel[1] == 0
    if kernel == stride and not any(padding) and divisor is None and (whole or not ceil_mode):
        return None
    each = None if divisor is None else 1
    vertical, horizontal = (
        _matrix(
            _aten.avg_pool2d.default,
            shape[2 + i],
            ((1, kernel[i]), (1, stride[i]), (0, padding[i]), ceil_mode, count_include_pad, each),
        )
        for i in (0, 1)
    )
    with _disable_current_modes():
        return vertical, horizontal if divisor is None else horizontal / divisor


def _replicated(shape: Sequence[int], padding: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Return the matrices of a padding with the numbers at the edge."""
    left, right, *vertical = padding
    top, bottom = vertical or (0, 0)
    pad = _aten.replication_pad2d.default
    return _matrix(pad, shape[2], ((top, bottom, 0, 0),)), _matrix(pad, shape[3], ((left, right, 0, 0),))


def _adaptive_mean(shape: Sequence[int], size: Sequence[int]) -> tuple[Tensor, Tensor]:
    vertical, horizontal = (_matrix(_aten._adaptive_avg_pool2d.default, shape[2 + i], ((1, size[i]),)) for i in (0, 1))
    return vertical, horizontal


def _pair(values: Sequence[int]) -> tuple[int, int]:
    return (values[0], values[-1])


def _rule(matrices: Matrices) -> Callable[..., Any]:
    def decomposed(x: Tensor, *options: Any) -> Any:
        found = matrices(x.shape, *options)
        return NotImplemented if found is None else _forward(x, found)

    return decomposed


def _pooling_gradient(matrices: Matrices) -> Callable[..., Any]:
    def decomposed(grad: Tensor, x: Tensor, *options: Any) -> Any:
        found = matrices(x.shape, *options, *([grad.shape[2:]] if matrices is _adaptive_mean else []))
        return NotImplemented if found is None else _backward(grad, found)

    return decomposed


def _interpolation_gradient(matrices: Matrices) -> Callable[..., Any]:
    def decomposed(grad: Tensor, size: Sequence[int], shape: Sequence[int], *options: Any) -> Any:
        found = matrices(shape, size, *options)
        return NotImplemented if found is None else _backward(grad, found)

    return decomposed


def _in_one_row(rule: Callable[..., Any]) -> Callable[..., Any]:
    """Return the rule of an operator on rows, [n, C, L], from that of the operator on images."""

    def forward(x: Tensor, size: Sequence[int], *options: Any) -> Any:
        *corners, scale = options or (None,)
        return rule(x.unsqueeze(2), (1, size[0]), *corners, None, scale).squeeze(2)

    return forward


def _row_gradient(rule: Callable[..., Any]) -> Callable[..., Any]:
    def backward(grad: Tensor, size: Sequence[int], shape: Sequence[int], *options: Any) -> Any:
        *corners, scale = options or (None,)
        image = (*shape[:2], 1, shape[2])
        return rule(grad.unsqueeze(2), (1, size[0]), image, *corners, None, scale).squeeze(2)

    return backward


_INTERPOLATIONS = {  # operator → (its gradient, whether it has the option align_corners)
    _aten.upsample_nearest2d: (_aten.upsample_nearest2d_backward, False),
    _aten._upsample_nearest_exact2d: (_aten._upsample_nearest_exact2d_backward, False),
    _aten.upsample_bilinear2d: (_aten.upsample_bilinear2d_backward, True),
    _aten.upsample_bicubic2d: (_aten.upsample_bicubic2d_backward, True),
    _aten._upsample_bilinear2d_aa: (_aten._upsample_bilinear2d_aa_backward, True),
    _aten._upsample_bicubic2d_aa: (_aten._upsample_bicubic2d_aa_backward, True),
}
_IN_ONE_ROW = {  # operator → (its gradient, the same operator on images, whether it has the option align_corners)
    _aten.upsample_nearest1d: (_aten.upsample_nearest1d_backward, _aten.upsample_nearest2d, False),
    _aten._upsample_nearest_exact1d: (_aten._upsample_nearest_exact1d_backward, _aten._upsample_nearest_exact2d, False),
    _aten.upsample_linear1d: (_aten.upsample_linear1d_backward, _aten.upsample_bilinear2d, True),
}


def _rules() -> dict[Any, Callable[..., Any]]:
    rules: dict[Any, Callable[..., Any]] = {
        _aten.avg_pool2d.default: _rule(_mean),
        _aten.avg_pool2d_backward.default: _pooling_gradient(_mean),
        _aten.replication_pad2d.default: _rule(_replicated),
        _aten.replication_pad2d_backward.default: _pooling_gradient(_replicated),
        _aten._adaptive_avg_pool2d.default: _rule(_adaptive_mean),
        _aten._adaptive_avg_pool2d_backward.default: _pooling_gradient(_adaptive_mean),
    }
    for operator, (gradient, aligned) in _INTERPOLATIONS.items():
        matrices = _interpolation(operator.default, aligned)
        rules |= {operator.default: _rule(matrices), gradient.default: _interpolation_gradient(matrices)}
    for operator, (gradient, on_images, aligned) in _IN_ONE_ROW.items():
        matrices = _interpolation(on_images.default, aligned)
        rules |= {
            operator.default: _in_one_row(_rule(matrices)),
            gradient.default: _row_gradient(_interpolation_gradient(matrices)),
        }
    return rules


RESAMPLING = _rules()
"""Decompositions by torch operator."""
