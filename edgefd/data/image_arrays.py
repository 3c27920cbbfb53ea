"""Order of the axes, size and colours of samples in arrays."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from edgefd.core.errors import UserError, require

SQUARE = 16
"""smallest side of square samples [n, side, side] of floating-point numbers that are taken for grey images"""
_RGB = (19595, 38470, 7471)  # 65536 times the luma of ITU-R 601-2, as Pillow computes grey from colour


def model_layout(
    x: npt.NDArray[Any],
    channels_last: bool | Literal["auto"] = "auto",
    size: tuple[int, int] | None = None,
    channels: int | None = None,
    source: str = "x",
) -> npt.NDArray[Any]:
    """Return samples with their channels first, and images in the given size and colours.

    Args:
        x: samples [n, ...].
        channels_last: whether the last axis holds the channels; "auto" = see `channels_first`.
        size: height and width to which images are resized; None = as they are.
        channels: 1 = grey, 3 = colour; None = as they are.
        source: beginning of errors.

    Returns:
        images [n, C, H, W], windows [n, C, L], or other samples as they are.

    Raises:
        UserError: if the order of the axes cannot be found, or samples that are not images should be changed.
    """
    if channels_last == "auto":
        x = channels_first(x, source)
    elif channels_last and x.ndim in (3, 4):
        x = np.ascontiguousarray(np.moveaxis(x, -1, 1))
    elif channels_last:
        raise UserError(f"{source}: data.channels_last is for images and windows, not for shape {list(x.shape[1:])}")
    if (size or channels) and not is_image(x.shape[1:]):
        raise UserError(
            f"{source}: data.image_size and data.channels are for images with 1 or 3 channels, not for samples of "
            f"shape {list(x.shape[1:])}: remove them"
        )
    if channels is not None:
        x = with_channels(x, channels)
    return x if size is None else resized(x, size)


def is_image(shape: Sequence[int]) -> bool:
    """Return whether the shape of a sample is that of an image: 1 or 3 channels, height and width."""
    return len(shape) == 3 and shape[0] in (1, 3)


def channels_first(x: npt.NDArray[Any], source: str = "x") -> npt.NDArray[Any]:
    """Return images as [n, C, H, W] from [n, C, H, W], [n, H, W, C] or, if they are grey, [n, H, W].

    Samples with three axes are grey images if they are uint8, or square with sides of `SQUARE` or more. Otherwise they
    are windows [n, C, L]. With four axes, the channels are the axis of size 1 or 3, or else the one of size 4 or less,
    or else the one that differs from two equal axes.

    Raises:
        UserError: if both the second and the last axis can hold the channels.
    """
    if x.ndim == 3 and (x.dtype == np.uint8 or SQUARE <= x.shape[1] == x.shape[2]):
        return x[:, None]
    if x.ndim != 4:
        return x
    first, height, last = x.shape[1], x.shape[2], x.shape[3]
    for channels in (first in (1, 3), last in (1, 3)), (first <= 4, last <= 4), (height == last, first == height):
        if channels[0] != channels[1]:
            return x if channels[0] else np.ascontiguousarray(x.transpose(0, 3, 1, 2))
    raise UserError(
        f"{source}: samples of shape {list(x.shape[1:])} may have {first} or {last} channels: set "
        "data.channels_last to true or false"
    )


def with_channels(x: npt.NDArray[Any], channels: int) -> npt.NDArray[Any]:
    """Return images [n, 1 or 3, H, W] in grey (`channels` = 1) or in colour (3), uint8 or float as they were."""
    if x.shape[1] == channels:
        return x
    if channels == 3:
        return np.repeat(x, 3, 1)
    if x.dtype == np.uint8:
        luma: npt.NDArray[np.uint32] = np.einsum("nchw,c->nhw", x, np.array(_RGB, np.uint32))
        return ((luma + 0x8000) >> 16).astype(np.uint8)[:, None]
    grey: npt.NDArray[np.float64] = np.einsum("nchw,c->nhw", x, np.array(_RGB) / 65536)
    return grey.astype(x.dtype)[:, None]


def resized(x: npt.NDArray[Any], size: tuple[int, int]) -> npt.NDArray[Any]:
    """Return images [n, C, height, width], bilinearly interpolated; pixels are averaged where images become smaller.

    The ratio of height to width may change.

    Raises:
        UserError: if Pillow is not installed.
    """
    if x.shape[2:] == size:
        return x
    require("images", "PIL")
    from PIL import Image

    pixels = x if x.dtype == np.uint8 else x.astype(np.float32)
    out = np.empty((*x.shape[:2], *size), pixels.dtype)
    for i, image in enumerate(pixels):
        for c, channel in enumerate(image):
            out[i, c] = Image.fromarray(channel).resize(size[::-1], Image.Resampling.BILINEAR)
    return out
