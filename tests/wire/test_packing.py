"""Packing of samples and arrays: what is unpacked equals what was packed, to the bit."""

import contextlib
import lzma

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgefd.data.datasets import load_dataset
from edgefd.federation.clients import Scale, scale_of
from edgefd.wire.bundle_manifest import PackedSamples
from edgefd.wire.packing import pack, pack_arrays, pack_samples, unpack, unpack_arrays, unpack_samples

LIMIT = 2**26
SHAPES = st.sampled_from([(1,), (5,), (2, 7), (1, 6, 5), (3, 4, 6), (2, 1, 3)])


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 2**32), st.integers(1, 6), SHAPES, st.booleans(), st.booleans())
def test_pixels_come_back_to_the_bit(seed: int, rows: int, shape: tuple[int, ...], smooth: bool, columns: bool) -> None:
    raw = np.random.default_rng(seed).integers(0, 256, (rows, *shape)).astype(np.uint8)
    if smooth:
        raw = np.cumsum(raw % 3, axis=-1).astype(np.uint8)
    scale = scale_of(raw, by_column=columns)
    x = scale(raw)
    packed, blob = pack_samples(x, scale)
    assert packed.dtype == "uint8"
    out = unpack_samples(blob, packed, shape, scale, LIMIT)
    assert (out.dtype, out.shape, out.tobytes()) == (np.float32, x.shape, x.tobytes())


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 2**32), st.integers(1, 300), SHAPES, st.sampled_from(["normal", "few", "bits"]))
def test_other_numbers_come_back_to_the_bit(seed: int, rows: int, shape: tuple[int, ...], kind: str) -> None:
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((rows, *shape)).astype(np.float32)
    if kind == "few":
        x = np.round(x) + np.float32(0.25)
    elif kind == "bits":
        x = rng.integers(0, 2**32, x.shape, np.uint32).view(np.float32)
    scale = Scale((0.5,), (1.5,))
    packed, blob = pack_samples(x, scale)
    assert packed.dtype == "float32"
    assert unpack_samples(blob, packed, shape, scale, LIMIT).tobytes() == x.tobytes()


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 2**32), st.lists(st.sampled_from([(), (0,), (3,), (2, 5)]), max_size=4))
def test_arrays_come_back_by_name(seed: int, shapes: list[tuple[int, ...]]) -> None:
    rng = np.random.default_rng(seed)
    arrays = {str(i): rng.standard_normal(shape).astype(np.float32) for i, shape in enumerate(shapes)}
    out = unpack_arrays(pack_arrays(arrays), {name: array.shape for name, array in arrays.items()}, LIMIT)
    assert list(out) == list(arrays)
    assert all(out[name].shape == a.shape and out[name].tobytes() == a.tobytes() for name, a in arrays.items())


def test_a_proxy_set_takes_less_than_packed_pixels_or_float32() -> None:
    raw = load_dataset("mnist_mini").x_train[:600]
    scale = scale_of(raw)
    packed, blob = pack_samples(scale(raw), scale)
    assert packed.differences == ()  # digits on an empty ground: differences do not help
    assert len(blob) < 0.2 * raw.nbytes
    smooth = np.cumsum(np.cumsum(np.random.default_rng(0).integers(0, 2, (40, 3, 32, 32)), axis=-1), axis=-2)
    images = (smooth % 256).astype(np.uint8)
    scale = scale_of(images)
    packed, blob = pack_samples(scale(images), scale)
    assert {2, 3} <= set(packed.differences)
    assert len(blob) < 0.3 * len(pack(images.tobytes()))


def test_sizes_are_refused_before_anything_is_unpacked() -> None:
    blob = pack(bytes(100))
    for rows in (2**62, 10**30):
        with pytest.raises(ValueError, match="take more than"):
            unpack_samples(blob, PackedSamples(rows, "uint8", (), False), (1, 28, 28), Scale((0.0,), (1.0,)), LIMIT)
    with pytest.raises(ValueError, match="take more than"):
        unpack_arrays(blob, {"a": (2**40, 2**40)}, LIMIT)
    with pytest.raises(ValueError, match="unpacks to more than 99 bytes"):
        unpack(blob, 99)
    assert unpack(blob, 100) == bytes(100)


@settings(deadline=None, max_examples=300)
@given(st.data())
def test_changed_bytes_give_an_error_and_never_other_content(data: st.DataObject) -> None:
    blob = bytearray(pack(bytes(range(200))))
    place = data.draw(st.integers(0, len(blob) - 1))
    blob[place] ^= 1 << data.draw(st.integers(0, 7))
    with contextlib.suppress(ValueError):
        assert unpack(bytes(blob), 10**5) == bytes(range(200))


def test_any_tool_for_xz_unpacks_a_file() -> None:
    assert lzma.decompress(pack(b"graph")) == b"graph"
