"""2 x 2 max-pooling followed by a rectifier, in one pass over the memory.

In a small convolutional network, torch's own pooling takes a fifth of a training step on one core: with few channels it
does not vectorise, it stores 8-byte indices, and its backward pass first clears the whole plane.
"""

from __future__ import annotations

import functools
import logging
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numba
import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from edgefd.core.arrays import Float32

_LOG = logging.getLogger(__name__)

Places = npt.NDArray[np.uint8]
"""The position of the largest of the four numbers of each window, row by row; `_CUT` where the rectifier gives 0."""

_FIRST, _SECOND, _THIRD, _FOURTH, _CUT = (np.uint8(i) for i in range(5))  # bytes, so that the loops vectorise


def pool_relu(x: Tensor) -> Tensor:
    """Return relu(max_pool2d(x, 2)) of finite x, float32 [n, C, H, W]. Values and gradients have the bits of torch.

    If several numbers of a window are the largest, the first of them, row by row, receives the gradient, as in torch.
    The fast loops serve plain tensors in channels-last order. All other tensors (in a trace for export, under
    `torch.vmap`, or in the default memory order) go through torch.
    """
    if type(x) is not Tensor or torch._C._functorch.is_batchedtensor(x) or not _fits(x):
        return F.relu(F.max_pool2d(x, 2))
    out: Tensor = _PoolRelu.apply(x)  # type: ignore[no-untyped-call]
    return out


def _fits(x: Tensor) -> bool:
    last = x.ndim == 4 and x.shape[1] > 1 and x.is_contiguous(memory_format=torch.channels_last)
    return last and x.dtype == torch.float32 and x.shape[2] % 2 == x.shape[3] % 2 == 0 and x.device.type == "cpu"


class _PoolRelu(torch.autograd.Function):
    """The two loops as torch operators, so that `edgefd.learners.step_recorder` can record them."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        y: Tensor
        y, ctx.places = torch.ops.edgefd.pool_relu.default(x)
        return y

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        out: Tensor = torch.ops.edgefd.pool_relu_backward.default(gradient, ctx.places)
        return out


def _forward(x: Tensor) -> tuple[Tensor, Tensor]:
    rows = x.detach().permute(0, 2, 3, 1)
    n, height, width, channels = rows.shape
    y = torch.empty(n, height // 2, width // 2, channels)
    places = torch.empty(y.shape, dtype=torch.uint8)
    _pool(rows.numpy(), y.numpy(), places.numpy())
    return y.permute(0, 3, 1, 2), places


def _backward(gradient: Tensor, places: Tensor) -> Tensor:
    g = gradient.permute(0, 2, 3, 1).contiguous()
    n, height, width, channels = g.shape
    out = torch.empty(n, 2 * height, 2 * width, channels)
    _spread(g.numpy(), places.numpy(), out.numpy())
    return out.permute(0, 3, 1, 2)


_library = torch.library.Library("edgefd", "DEF")  # type: ignore[no-untyped-call]
_library.define("pool_relu(Tensor x) -> (Tensor, Tensor)")  # type: ignore[no-untyped-call]
_library.define("pool_relu_backward(Tensor gradient, Tensor places) -> Tensor")  # type: ignore[no-untyped-call]
_library.impl("pool_relu", _forward, "CPU")  # type: ignore[no-untyped-call]
_library.impl("pool_relu_backward", _backward, "CPU")  # type: ignore[no-untyped-call]


def _pool_loops(x: Float32, y: Float32, places: Places) -> None:
    zero = np.float32(0)
    n, height, width, channels = y.shape
    for i in range(n):
        for r in range(height):
            for q in range(width):
                for c in range(channels):
                    first, second = x[i, 2 * r, 2 * q, c], x[i, 2 * r, 2 * q + 1, c]
                    third, fourth = x[i, 2 * r + 1, 2 * q, c], x[i, 2 * r + 1, 2 * q + 1, c]
                    best, place = first, _FIRST
                    if second > best:
                        best, place = second, _SECOND
                    if third > best:
                        best, place = third, _THIRD
                    if fourth > best:
                        best, place = fourth, _FOURTH
                    if best <= 0:
                        best, place = zero, _CUT
                    y[i, r, q, c] = best
                    places[i, r, q, c] = place


def _spread_loops(g: Float32, places: Places, out: Float32) -> None:
    zero = np.float32(0)
    n, height, width, channels = g.shape
    for i in range(n):
        for r in range(height):
            for q in range(width):
                for c in range(channels):
                    v, place = g[i, r, q, c], places[i, r, q, c]
                    out[i, 2 * r, 2 * q, c] = v if place == _FIRST else zero
                    out[i, 2 * r, 2 * q + 1, c] = v if place == _SECOND else zero
                    out[i, 2 * r + 1, 2 * q, c] = v if place == _THIRD else zero
                    out[i, 2 * r + 1, 2 * q + 1, c] = v if place == _FOURTH else zero


def _compiled(loops: Callable[..., None], *types: str) -> Callable[..., None]:
    """Compile a function for these types of arguments, and cache its code if a folder for it can be written."""
    signature = f"void({', '.join(types)})"
    if _has_cache_folder():
        with suppress(RuntimeError, OSError):  # the folder cannot be written, or the disk is full
            return numba.njit(signature, nogil=True, cache=True)(loops)
    _say_that_code_is_not_cached()
    return numba.njit(signature, nogil=True)(loops)


@functools.cache
def _say_that_code_is_not_cached() -> None:
    _LOG.info("every process takes a second to compile code: set NUMBA_CACHE_DIR to a folder in which it can be kept")


def _has_cache_folder() -> bool:
    """Return whether numba knows a folder. Without a home folder, it would write to one that is named `~`."""
    in_tree = os.access(Path(__file__).with_name("__pycache__"), os.W_OK)
    chosen = os.environ.get("NUMBA_CACHE_DIR") or os.environ.get("XDG_CACHE_HOME")
    return in_tree or bool(chosen) or os.path.expanduser("~") != "~"


_IMAGES, _BYTES = "float32[:,:,:,::1]", "uint8[:,:,:,::1]"
_pool = _compiled(_pool_loops, _IMAGES, _IMAGES, _BYTES)
_spread = _compiled(_spread_loops, _IMAGES, _BYTES, _IMAGES)
