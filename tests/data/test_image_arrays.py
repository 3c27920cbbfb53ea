"""Axes, size and colours of arrays: found where they are clear, asked for where they are not."""

import numpy as np
import pytest
from PIL import Image

from edgefd.core.errors import UserError
from edgefd.data.image_arrays import channels_first, model_layout, resized, with_channels

RNG = np.random.default_rng(0)


@pytest.mark.parametrize(
    ("shape", "dtype", "result"),
    [
        ((2, 8, 9), "uint8", (2, 1, 8, 9)),
        ((2, 28, 28), "float32", (2, 1, 28, 28)),
        ((2, 6, 100), "float32", (2, 6, 100)),
        ((2, 8, 8), "float32", (2, 8, 8)),
        ((2, 8, 9, 3), "uint8", (2, 3, 8, 9)),
        ((2, 8, 9, 1), "float32", (2, 1, 8, 9)),
        ((2, 3, 8, 9), "uint8", (2, 3, 8, 9)),
        ((2, 8, 9, 4), "uint8", (2, 4, 8, 9)),
        ((2, 2, 8, 9), "uint8", (2, 2, 8, 9)),
        ((2, 12, 64, 64), "float32", (2, 12, 64, 64)),
        ((2, 64, 64, 12), "float32", (2, 12, 64, 64)),
        ((2, 5), "float32", (2, 5)),
    ],
)
def test_channels_are_found_by_the_sizes(shape: tuple[int, ...], dtype: str, result: tuple[int, ...]) -> None:
    x = RNG.integers(0, 255, shape).astype(dtype)
    y = channels_first(x)
    assert y.shape == result
    if x.ndim == 4 and shape != result:
        assert y[1, 0, 3, 2] == x[1, 3, 2, 0]


@pytest.mark.parametrize("shape", [(2, 3, 8, 3), (2, 1, 8, 3), (2, 5, 6, 7)])
def test_unclear_channels_are_asked_for(shape: tuple[int, ...]) -> None:
    x = np.zeros(shape, np.uint8)
    with pytest.raises(UserError, match=r"set data\.channels_last to true or false"):
        channels_first(x)
    assert model_layout(x, False).shape == shape
    assert model_layout(x, True).shape == (shape[0], shape[3], shape[1], shape[2])


def test_windows_of_steps_and_channels_are_turned_on_request() -> None:
    x = RNG.normal(size=(2, 100, 6))
    np.testing.assert_array_equal(model_layout(x, True), x.transpose(0, 2, 1))
    with pytest.raises(UserError, match="channels_last is for images and windows"):
        model_layout(x[0], True)


@pytest.mark.parametrize("dtype", ["uint8", "float32"])
def test_images_are_resized_as_pillow_resizes_them(dtype: str) -> None:
    x = RNG.integers(0, 255, (3, 3, 9, 14), np.uint8)
    if dtype == "uint8":
        whole = [np.asarray(Image.fromarray(i.transpose(1, 2, 0)).resize((7, 5), Image.Resampling.BILINEAR)) for i in x]
        np.testing.assert_array_equal(resized(x, (5, 7)), np.stack(whole).transpose(0, 3, 1, 2))
    small, exact = resized(x.astype(dtype), (5, 7)), resized(x.astype(np.float32), (5, 7))
    assert small.dtype == np.dtype(dtype)
    assert np.abs(small - exact).max() <= 1
    np.testing.assert_array_equal(resized(np.full((1, 1, 4, 4), 9, dtype), (16, 2)), np.full((1, 1, 16, 2), 9))


def test_grey_and_colour_are_converted_as_pillow_converts_them() -> None:
    x = RNG.integers(0, 255, (2, 3, 6, 5), np.uint8)
    grey = with_channels(x, 1)
    pillow = [np.asarray(Image.fromarray(i.transpose(1, 2, 0)).convert("L")) for i in x]
    np.testing.assert_array_equal(grey[:, 0], pillow)
    assert np.abs(with_channels(x.astype(np.float32), 1) - grey).max() <= 0.51
    np.testing.assert_array_equal(with_channels(grey, 3), np.repeat(grey, 3, 1))


def test_only_images_can_be_resized() -> None:
    for x in (np.zeros((2, 5)), np.zeros((2, 6, 100)), np.zeros((2, 4, 8, 8))):
        with pytest.raises(UserError, match="are for images with 1 or 3 channels, not for samples of shape"):
            model_layout(x, size=(4, 4))
