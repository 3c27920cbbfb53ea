"""npz and npy files of others: headers that lie, bombs and pickles are refused before anything is allocated."""

import io
import resource
import struct
import zipfile
from contextlib import suppress

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgefd.core.npz import npy_array, npz_arrays, npz_bytes

LIMIT = 2**20
ARRAYS = {"x": np.arange(12, dtype=np.float32).reshape(3, 4), "name": np.array("edgefd"), "none": np.zeros((0, 3))}


def npy(shape: str, descr: str = "'<f4'", data: bytes = b"") -> bytes:
    """Return the bytes of an npy file with this header, which need not be true."""
    header = f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}}}\n".encode()
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + data


def npz(**members: bytes) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, blob in members.items():
            archive.writestr(f"{name}.npy", blob)
    return file.getvalue()


def test_arrays_are_read_as_they_were_written() -> None:
    for compressed in (True, False):
        arrays = npz_arrays(npz_bytes(ARRAYS, compressed), LIMIT)
        assert arrays.keys() == ARRAYS.keys()
        for name, expected in ARRAYS.items():
            assert arrays[name].dtype == expected.dtype
            assert np.array_equal(arrays[name], expected)
    file = io.BytesIO()
    np.save(file, ARRAYS["x"])
    assert np.array_equal(npy_array(io.BytesIO(file.getvalue()), len(file.getvalue())), ARRAYS["x"])


BAD = {
    "claims 2^40 rows": (npy(f"({2**40}, 4)"), "does not have the size of its file"),
    "claims 2^40 empty rows": (npy(f"({2**40}, 0)"), "does not have the size of its file"),
    "claims 2^40 empty names": (npy(f"({2**40},)", "'<U0'"), "does not have the size of its file"),
    "negative shape": (npy("(-1, 4)"), "does not have the size|negative"),
    "more data than rows": (npy("(1,)", data=bytes(8)), "does not have the size of its file"),
    "pickle": (npy("(1,)", "'|O'", b"cposix\nsystem\n."), "pickles"),
    "pickle in a field": (npy("(1,)", "[('a', '|O')]", bytes(8)), "pickles"),
    "deep header": (npy("(" * 3000), "Cannot parse header|not a whole|too many nested|memory"),
    "header of code": (npy("__import__('os').system('true')"), "malformed node"),
    "no header": (b"", "not a whole|EOF|magic"),
    "unknown format": (b"\x93NUMPY\x09\x00" + bytes(20), "unknown format"),
}


@pytest.mark.filterwarnings("ignore")  # of numpy and of the parser, about the header
@pytest.mark.parametrize("kind", BAD)
def test_a_header_that_lies_is_refused_before_anything_is_allocated(kind: str) -> None:
    blob, message = BAD[kind]
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(ValueError, match=message) as caught:
        npz_arrays(npz(x=blob), LIMIT)
    assert "\n" not in str(caught.value)
    with pytest.raises(ValueError, match=message):
        npy_array(io.BytesIO(blob), len(blob))
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 20_000  # kB


def test_a_bomb_is_refused_by_its_size() -> None:
    zeros = np.zeros(2**24, np.uint8)
    bomb = npz_bytes({"x": zeros})
    assert len(bomb) < 2**15
    with pytest.raises(ValueError, match=f"unpacks to more than {LIMIT} bytes"):
        npz_arrays(bomb, LIMIT)
    assert npz_arrays(bomb, 2**25)["x"].size == 2**24


def test_a_directory_that_understates_a_member_does_not_unpack_more() -> None:
    """The central directory says 200 bytes, but the packed data are a bomb."""
    blob = bytearray(npz(x=npy(f"({2**22},)", data=bytes(2**24))))
    at = blob.rindex(b"PK\x01\x02")
    blob[at + 24 : at + 28] = struct.pack("<I", 200)
    with pytest.raises(ValueError, match=r"does not have the size of its file|Bad CRC"):
        npz_arrays(bytes(blob), LIMIT)


@pytest.mark.filterwarnings("ignore")
@given(st.data())
def test_a_damaged_file_is_an_error_of_one_kind(data: st.DataObject) -> None:
    blob = bytearray(npz_bytes(ARRAYS))
    for _ in range(data.draw(st.integers(1, 4))):
        blob[data.draw(st.integers(0, len(blob) - 1))] = data.draw(st.integers(0, 255))
    blob = blob[: data.draw(st.integers(0, len(blob)))] if data.draw(st.booleans()) else blob
    with suppress(ValueError):
        npz_arrays(bytes(blob), LIMIT)
