"""Structural similarity of images (SSIM; Wang et al., 2004, "Image quality assessment")."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from edgefd.core.arrays import Float64

WINDOW = 8  # side of a window in pixels, which all have the same weight
_C1 = 0.01**2
_C2 = 0.03**2


def ssim(a: npt.NDArray[np.floating], b: npt.NDArray[np.floating]) -> Float64:
    """Return the structural similarity of images whose values are in [0, 1], at one scale.

    The mean over all 8 x 8 windows that lie inside the image, and over channels, of

        (2 mu_a mu_b + C1) (2 sigma_ab + C2) / ((mu_a^2 + mu_b^2 + C1) (sigma_a^2 + sigma_b^2 + C2))

    with C1 = 0.01^2, C2 = 0.03^2, and a window's mean mu, variance sigma^2 and covariance sigma_ab. 1 for the same
    image; it can be below 0.

    Args:
        a: images [..., channels, height, width].
        b: images of the same size; the leading axes are broadcast.

    Raises:
        ValueError: if a side is shorter than the window.
    """
    if min(a.shape[-2:]) < WINDOW:
        raise ValueError(f"images of {a.shape[-2]} x {a.shape[-1]} are smaller than a window of {WINDOW} x {WINDOW}")
    x, y = a.astype(np.float64), b.astype(np.float64)
    mu_a, mu_b = _means(x), _means(y)
    var_a, var_b, cov = _means(x * x) - mu_a**2, _means(y * y) - mu_b**2, _means(x * y) - mu_a * mu_b
    brightness = (2 * mu_a * mu_b + _C1) / (mu_a**2 + mu_b**2 + _C1)
    structure = (2 * cov + _C2) / (var_a + var_b + _C2)
    similarity: Float64 = (brightness * structure).mean(axis=(-3, -2, -1))
    return similarity


def _means(x: Float64) -> Float64:
    """Return the mean of every window, from sums over all rectangles that begin in the corner."""
    corner = np.zeros((*x.shape[:-2], x.shape[-2] + 1, x.shape[-1] + 1))
    corner[..., 1:, 1:] = x.cumsum(-2).cumsum(-1)
    w = WINDOW
    sums = corner[..., w:, w:] - corner[..., :-w, w:] - corner[..., w:, :-w] + corner[..., :-w, :-w]
    means: Float64 = sums / w**2
    return means
