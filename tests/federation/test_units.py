"""Units of samples: other kinds and ranges are refused, and samples far from the proxy set are named."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgefd.core.errors import UserError
from edgefd.data.datasets import find_dataset, load_dataset
from edgefd.federation.units import MAX_CHANNELS, Units, channel_statistics, far_from, in_units, n_channels, units_of

PIXELS = Units("uint8", 0.0, 255.0, (0.0,), (1.0,))
SENSOR = Units("float32", -4.0, 4.0, (0.0,), (1.0,))
RNG = np.random.default_rng(0)


def images(dtype: str = "uint8") -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (20, 1, 4, 4)).astype(dtype)


@pytest.mark.parametrize(
    ("x", "words"),
    [
        (images() / 255, ("are uint8 from 0 to 255, but these are float from 0", "before they were divided by 255")),
        ((images() / 255).astype(np.float16), ("these are float from 0",)),
        (images() > 127, ("not bool",)),
        ((images() > 127).astype(np.float32), ("these are float from 0 to 1",)),
        ((images() > 127).astype(np.uint8), ("are uint8 from 0 to 255, but these are uint8 from 0 to 1",)),
        ((images() > 127).astype(np.int64), ("these are int64 from 0 to 1",)),
        (images("float32") - 128, ("these are float from -128",)),
        (images("float64") * 1.001, ("float from 0 to 255.255",)),
        (images("int32") * 257, ("are uint8 from 0 to 255, but these are int32 from 0 to 65535",)),
        (images("int16") - 1, ("int16 from -1 to 254",)),
        (np.where(images() == 7, np.nan, 1.0), ("sample 2 (from 0) holds NaN or infinite",)),
        (images("complex64"), ("not complex64",)),
        (images("object"), ("not object",)),
        (np.zeros((0, 1, 4, 4), np.uint8), ("there are no samples",)),
    ],
)
def test_samples_of_another_kind_than_uint8_are_refused_with_both_ranges(x: np.ndarray, words: tuple[str, ...]) -> None:
    with pytest.raises(UserError) as error:
        in_units(x, PIXELS, "d.npz")
    assert str(error.value).startswith("d.npz: ")
    for word in words:
        assert word in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "dtype", ["uint8", "int16", ">i2", "uint16", "int32", "int64", ">u8", "float16", "float32", "float64", ">f4", ">f8"]
)
def test_whole_numbers_from_0_to_255_are_pixels_in_any_type_and_byte_order(dtype: str) -> None:
    x = in_units(images(dtype), PIXELS, "d.npz")
    assert x.dtype == np.uint8
    np.testing.assert_array_equal(x, images())


def test_zeros_and_ones_are_pixels_of_a_federation_that_has_no_others() -> None:
    units = Units("uint8", 0.0, 1.0, (0.0,), (1.0,))
    for dtype in (np.float32, np.int64, np.uint8):
        assert in_units((images() > 127).astype(dtype), units, "d.npz").dtype == np.uint8


@pytest.mark.parametrize(
    ("x", "word"),
    [
        (images(), "are float32 from -4 to 4, but these are uint8 from 0 to 255"),
        (np.full((3, 6, 9), 2000, np.int16), "but these are int16 from 2000 to 2000"),
        (np.full((3, 6, 9), np.inf), "NaN or infinite"),
        (np.full((3, 6, 9), 1e300), "too large for float32"),
        (np.full((3, 6, 9), True), "not bool"),
    ],
)
def test_samples_of_another_kind_than_float_are_refused(x: np.ndarray, word: str) -> None:
    with pytest.raises(UserError, match=word):
        in_units(x, SENSOR, "d.npz")


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", ">f4", ">f8", "int8", "int64"])
def test_numbers_in_the_range_of_a_float_federation_become_float32(dtype: str) -> None:
    values = np.array([[-4.0, -1.0, 0.0, 3.0]] * 2).astype(dtype)
    x = in_units(values, SENSOR, "d.npz")
    assert x.dtype == np.dtype("=f4")
    np.testing.assert_array_equal(x, values.astype(np.float32))


@pytest.mark.parametrize("field", [{"dtype": "int64"}, {"low": 2.0}, {"high": np.inf}, {"std": (-1.0,)}, {"mean": ()}])
def test_impossible_units_are_refused(field: dict[str, object]) -> None:
    values = {"dtype": "uint8", "low": 0.0, "high": 1.0, "mean": (0.0,), "std": (1.0,)} | field
    with pytest.raises(ValueError, match="units"):
        Units(**values)  # type: ignore[arg-type]


def test_wide_samples_have_one_mean_and_one_deviation() -> None:
    for shape in ((MAX_CHANNELS,), (MAX_CHANNELS + 1,), (3, 4, 4), (6, 20)):
        x = RNG.normal(size=(15, *shape))
        mean, std = channel_statistics(x)
        assert len(mean) == len(std) == n_channels(shape) == (1 if shape[0] > MAX_CHANNELS else shape[0])
        assert np.isclose(np.mean(mean), x.mean())


SCENES = RNG.normal(size=(200, 3, 8, 8)) * [[[1.0]], [[2.0]], [[0.5]]] + [[[0.0]], [[1.0]], [[-1.0]]]
TABLE = RNG.normal(size=(200, 5)) * [1, 20, 0.1, 3, 5] + [0, 100, 0, -7, 2]


def warning(x: np.ndarray, of: np.ndarray, n_classes: int = 10) -> str | None:
    return far_from(x, units_of(of.astype(np.float32), of), n_classes, "d.npz")


def test_channels_in_another_unit_or_order_are_named_with_both_numbers() -> None:
    assert warning(SCENES[:50], SCENES) is None
    g = SCENES[:50] * [[[9.81]], [[1.0]], [[1.0]]]
    text = warning(g, SCENES)
    assert text is not None
    assert text.startswith("d.npz: the samples lie far from the proxy set: channel 0 (from 0): mean and deviation ")
    assert f"{g[:, 0].mean():.4g} and {g[:, 0].std():.4g} [{SCENES[:, 0].mean():.4g} and " in text
    assert "channel 1" not in text
    assert "channel 2" in str(warning(SCENES[:50, [0, 2, 1]], SCENES))  # another order
    assert "channel 1" in str(warning(SCENES[:50] / [[[1.0]], [[9.81]], [[1.0]]], SCENES))


def test_windows_whose_values_are_in_another_order_are_far() -> None:
    time = np.arange(100) / 100
    windows = np.sin(2 * np.pi * (time * [[3], [2], [1]] + RNG.random((60, 3, 1)))) + 0.05 * RNG.normal(
        size=(60, 3, 100)
    )
    interleaved = windows.transpose(0, 2, 1).reshape(windows.shape)  # step after step, as a recorder writes them
    assert np.allclose(channel_statistics(interleaved), channel_statistics(windows), atol=0.1)
    assert "median step between neighbouring values" in str(warning(interleaved, windows))
    assert warning(windows[:20], windows) is None
    assert warning(windows[:20] * 0.5, windows) is None  # someone who moves less


@pytest.mark.parametrize(("factor", "shift"), [(1000, 0), (0.001, 0), (1, 60)])
def test_one_column_in_another_unit_is_named(factor: float, shift: float) -> None:
    other = TABLE[:40].copy()
    other[:, 3] = other[:, 3] * factor + shift
    text = str(warning(other, TABLE))
    assert "column 3 (from 0)" in text
    assert text.count("column ") == 1
    assert warning(TABLE[:40], TABLE) is None


@pytest.mark.parametrize("factor", [255, 1000, 1 / 255, 1e-3])
@pytest.mark.parametrize("of", [SCENES, TABLE[:, :1] * [1, 1, 1] + RNG.normal(size=(200, 3))])
def test_float_samples_of_which_most_channels_differ_by_a_large_factor_are_refused(
    of: np.ndarray, factor: float
) -> None:
    with pytest.raises(UserError, match=r"d\.npz: the samples are in other units than the proxy set: c\w+ 0"):
        warning(of[:50] * factor, of)


def test_a_column_that_only_some_clients_have_is_not_far() -> None:
    rare = TABLE.copy()
    rare[:, 4] = np.arange(200) % 100 == 0  # 1 in 2 rows of the reference, as a one-hot column
    own = rare[:60].copy()
    own[:, 4] = np.arange(60) < 20
    assert warning(own, rare) is None
    own[:, 4] = 0
    assert warning(own, rare) is None  # constant


@pytest.mark.parametrize("factor", [3.9, 1 / 9])
def test_one_channel_alone_may_vary_more_or_less_than_two_channels(factor: float) -> None:
    of = np.random.default_rng(0).normal(size=(200, 6, 20)).astype(np.float32)
    one, two, much = of.copy(), of.copy(), of.copy()
    one[:, 3] *= factor
    two[:, 3:5] *= factor
    much[:, 3] *= factor * factor
    assert warning(one, of) is None  # the smartwatch data of one exercise of one person
    assert "channel 3 (from 0)" in str(warning(two, of))
    assert "channel 3 (from 0)" in str(warning(much, of))


def test_few_samples_and_constant_samples_say_little_but_do_not_fail() -> None:
    for few in (SCENES[:1], SCENES[:9] * 9.81, SCENES[:9] * 0, SCENES[:1] * 1e-6, SCENES[:0]):
        assert warning(few, SCENES) is None
    for few, of in ((SCENES[:1] * 255, SCENES), (TABLE[:2] * 1e6 + 1e6, TABLE)):
        with pytest.raises(UserError, match="in other units"):
            warning(few, of)
    constant = np.zeros((30, 3, 8, 8))
    assert warning(constant, constant) is None
    assert warning(np.zeros((30, 5)), np.zeros((30, 5))) is None


@given(
    factor=st.sampled_from([1e-6, 0.1, 1.0, 30.0, 1e5]),
    shift=st.sampled_from([-1e3, 0.0, 5.0]),
    change=st.sampled_from([0.001, 0.2, 1.0, 2.5, 5.0, 9.81, 30.0]),
    table=st.booleans(),
)
@settings(deadline=None)
def test_the_comparison_does_not_depend_on_the_unit_of_both(
    factor: float, shift: float, change: float, table: bool
) -> None:
    of = TABLE if table else SCENES
    own = of[:60].copy()
    own[:, 1] *= change
    for scaled_by in (factor, 1.0):
        a, b = own * scaled_by + shift * scaled_by, of * scaled_by + shift * scaled_by
        far = warning(a, b) is not None
        if scaled_by == factor:
            expected = far
    assert far == expected


def test_digits_of_one_class_are_near_and_other_codings_are_far() -> None:
    d = load_dataset("mnist_mini")
    units = units_of(d.x_train, d.x_train[::10])
    for label in range(10):
        x = d.x_train[d.y_train == label]
        assert far_from(x, units, 10, "d") is None
        for other in (255 - x, x // 16):
            assert "all values: mean and deviation" in str(far_from(other, units, 10, "d"))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mnist", "fashion_mnist", "cifar10", "watch"])
def test_clients_of_one_class_or_one_person_of_real_data_are_near(name: str) -> None:
    if find_dataset(name) is None:
        pytest.skip(f"{name} is not in EDGEFD_DATA")
    d = load_dataset(name)
    units = units_of(d.x_train, d.x_train[::10])
    groups = [d.y_train] if d.group_train is None else [d.y_train, d.group_train]
    for group in groups:
        for one in np.unique(group):
            assert far_from(d.x_train[group == one], units, d.n_classes, name) is None
            if name == "watch":
                x = d.x_train[group == one]
                text = far_from(x.transpose(0, 2, 1).reshape(x.shape), units, d.n_classes, name)
                assert "median step between neighbouring values" in str(text)
    assert far_from(d.x_test, units, d.n_classes, name) is None
    for group in [] if d.group_train is None else np.unique(d.group_train):
        for label in range(d.n_classes):
            rows = d.x_train[(d.group_train == group) & (d.y_train == label)]
            assert far_from(rows, units, d.n_classes, name) is None
