"""Structural similarity against its closed forms."""

import numpy as np
import pytest

from edgefd.auditing.measures.ssim import ssim

C1, C2 = 0.01**2, 0.03**2
CHECKS = np.indices((12, 10)).sum(0)[None] % 2 * 2.0 - 1  # [1, 12, 10], of +1 and -1: all windows have the same moments


def test_the_similarity_of_equal_images_is_one() -> None:
    x = np.random.default_rng(0).random((4, 3, 11, 9)).astype(np.float32)
    np.testing.assert_allclose(ssim(x, x), 1)
    assert ssim(x[0], x).argmax() == 0


@pytest.mark.parametrize(("mean", "shift"), [(0.5, 0.1), (0.3, 0.4), (0.2, 0.0)])
def test_a_brighter_image_follows_the_closed_form(mean: float, shift: float) -> None:
    a = mean + 0.1 * CHECKS
    expected = (2 * mean * (mean + shift) + C1) / (mean**2 + (mean + shift) ** 2 + C1)
    np.testing.assert_allclose(ssim(a, a + shift), expected)


def test_contrast_and_its_sign_follow_the_closed_form() -> None:
    def with_contrast(by: float) -> np.ndarray:
        return 0.5 + by * CHECKS

    for by in (0.2, -0.1, 0.0):
        expected = (2 * 0.1 * by + C2) / (0.1**2 + by**2 + C2)
        np.testing.assert_allclose(ssim(with_contrast(0.1), with_contrast(by)), expected)
    assert ssim(with_contrast(0.1), with_contrast(-0.1)) < 0


def test_the_similarity_is_the_mean_over_windows_and_channels() -> None:
    r = np.random.default_rng(1)
    a, b = r.random((2, 2, 10, 9))

    def window(i: int, j: int, c: int) -> float:
        x, y = a[c, i : i + 8, j : j + 8], b[c, i : i + 8, j : j + 8]
        cov = ((x - x.mean()) * (y - y.mean())).mean()
        means = (2 * x.mean() * y.mean() + C1) / (x.mean() ** 2 + y.mean() ** 2 + C1)
        return float(means * (2 * cov + C2) / (x.var() + y.var() + C2))

    by_window = [window(i, j, c) for i in range(3) for j in range(2) for c in range(2)]
    np.testing.assert_allclose(ssim(a, b), np.mean(by_window))
    with pytest.raises(ValueError, match="7 x 9 are smaller than a window of 8 x 8"):
        ssim(a[:, :7], b[:, :7])
