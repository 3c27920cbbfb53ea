"""Reading a bundle: every difference from the manifest is refused."""

import lzma
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest

from edgefd.core.errors import UserError
from edgefd.core.npz import npz_bytes
from edgefd.wire.bundle_manifest import FILES
from edgefd.wire.bundle_reader import read_bundle
from edgefd.wire.packing import pack, pack_arrays, unpack
from tests.support.bundles import edit, replace_file, small_bundle


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_bundle(tmp_path_factory.mktemp("bundle") / "b")


@pytest.fixture
def bundle(exported: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(exported, tmp_path / "b"))


@pytest.mark.parametrize("name", FILES)
def test_a_flipped_byte_in_any_file_is_refused(bundle: Path, name: str) -> None:
    blob = bytearray((bundle / name).read_bytes())
    blob[len(blob) // 2] ^= 1
    (bundle / name).write_bytes(blob)
    with pytest.raises(UserError, match=name):
        read_bundle(bundle)


def test_a_manifest_that_names_other_files_is_refused(bundle: Path) -> None:
    edit(bundle, lambda m: m["files"].update({"../x": m["files"]["init.xz"]}))
    with pytest.raises(UserError, match="exactly"):
        read_bundle(bundle)


def test_a_newer_schema_is_refused(bundle: Path) -> None:
    edit(bundle, lambda m: m.update(schema=99))
    with pytest.raises(UserError, match="update edgefd"):
        read_bundle(bundle)


def test_an_older_schema_is_refused(bundle: Path) -> None:
    edit(bundle, lambda m: m.update(schema=1))
    with pytest.raises(UserError, match="export the bundle again"):
        read_bundle(bundle)


@pytest.mark.parametrize(
    ("key", "value"),
    [("heldout", 1.5), ("terms", {"method": "edgefd"}), ("terms", None), ("batch", 0), ("n_clients", float("inf"))],
)
def test_a_manifest_that_is_incomplete_or_out_of_range_is_refused(bundle: Path, key: str, value: object) -> None:
    edit(bundle, lambda m: m.update({key: value}))
    with pytest.raises(UserError, match=r"manifest\.json is"):
        read_bundle(bundle)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("units", {}),
        ("units", {"dtype": "int64"}),
        ("units", {"low": 3, "high": 1}),
        ("units", {"high": float("inf")}),
        ("units", {"mean": [0, 0], "std": [1, 1]}),
        ("units", {"mean": [], "std": []}),
        ("units", {"std": [-1]}),
        ("units", {"step": [1, 1]}),
        ("units", {"step": [float("nan")]}),
        ("units", {"step": None}),
        ("scale", [10, 2]),
        ("scale", [[], []]),
        ("scale", [[1, 2], [1, 2]]),
        ("scale", [[1], [0]]),
        ("scale", [[1], [-1]]),
        ("scale", [[float("nan")], [1]]),
        ("scale", [[1], [1, 1]]),
        ("shape", []),
    ],
)
def test_units_and_scales_that_fit_no_samples_are_refused(bundle: Path, key: str, value: object) -> None:
    edit(bundle, lambda m: m.update({key: {**m["units"], **value} if value and isinstance(value, dict) else value}))
    refusal = r"manifest\.json(: units| is incomplete|: scale| is not the manifest of a bundle: it holds)"
    with pytest.raises(UserError, match=refusal):
        read_bundle(bundle)


def test_a_file_larger_than_in_the_manifest_is_refused(bundle: Path) -> None:
    with (bundle / "init.xz").open("ab") as file:
        file.write(b"x")
    with pytest.raises(UserError, match="larger"):
        read_bundle(bundle)


def test_a_graph_with_external_data_is_refused(bundle: Path, tmp_path: Path) -> None:
    model = onnx.load_from_string(read_bundle(bundle).graphs.step)
    path = tmp_path / "external.onnx"
    onnx.save(model, path, save_as_external_data=True, location="weights", size_threshold=0)
    replace_file(bundle, "train_step.onnx.xz", pack(path.read_bytes()))
    with pytest.raises(UserError, match="outside"):
        read_bundle(bundle)


@pytest.mark.parametrize("name", ["manifest.json", "init.xz"])
@pytest.mark.parametrize("kind", ["pipe", "link", "folder"])
def test_what_is_not_a_plain_file_is_refused_without_waiting(bundle: Path, name: str, kind: str) -> None:
    path = bundle / name
    blob = path.read_bytes()
    path.unlink()
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    else:
        (bundle.parent / name).write_bytes(blob)
        path.symlink_to(bundle.parent / name)
    with pytest.raises(UserError, match=rf"cannot read .*{name}: {name} is not a plain file: copy or export"):
        read_bundle(bundle)


def xz(size: int, dictionary: int = 2**16) -> bytes:
    """Return a stream of this many zeros, about 7,000 times smaller."""
    filters = [{"id": lzma.FILTER_LZMA2, "preset": 0, "dict_size": dictionary}]
    packer = lzma.LZMACompressor(lzma.FORMAT_XZ, lzma.CHECK_CRC32, filters=filters)
    piece = bytes(2**20)
    return b"".join([*(packer.compress(piece) for _ in range(size >> 20)), packer.flush()])


@pytest.mark.parametrize("name", ["model.onnx.xz", "train_step.onnx.xz", "init.xz", "proxy.xz"])
@pytest.mark.parametrize("blob", [b"", b"no stream", pack(b"abc") + b"more", pack(b"abc")[:-4]], ids=repr)
def test_files_that_are_not_one_whole_stream_are_refused(bundle: Path, name: str, blob: bytes) -> None:
    replace_file(bundle, name, blob)
    with pytest.raises(UserError, match=rf"{name} does not hold .* xz stream.*: export the bundle again") as caught:
        read_bundle(bundle)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["init.xz", "proxy.xz"])
def test_streams_that_unpack_to_more_or_less_are_refused(bundle: Path, name: str) -> None:
    whole = unpack((bundle / name).read_bytes(), 2**24)
    for blob, message in ((whole + b"x", "unpacks to more than"), (whole[:-1], f"unpacks to {len(whole) - 1} bytes")):
        replace_file(bundle, name, pack(blob))
        with pytest.raises(UserError, match=f"{name} does not hold .*{message}"):
            read_bundle(bundle)


@pytest.mark.parametrize(
    "packed",
    [
        {"rows": 2**40},
        {"rows": 10**30},
        {"rows": 0},
        {"rows": -1},
        {"rows": True},
        {"rows": 19},
        {"dtype": "float64"},
        {"dtype": "uint8"},
        {"dtype": "uint8", "planes": True},
        {"differences": [1]},
        {"dtype": "uint8", "planes": False, "differences": [0]},
        {"dtype": "uint8", "planes": False, "differences": [4]},
        {"dtype": "uint8", "planes": False, "differences": [2, 2]},
        {"dtype": "uint8", "planes": False, "differences": [1, 2, 3]},
    ],
    ids=str,
)
def test_a_description_that_does_not_fit_the_samples_is_refused(bundle: Path, packed: dict[str, object]) -> None:
    edit(bundle, lambda m: m["proxy"].update(packed))
    with pytest.raises(UserError, match=r"manifest\.json is incomplete|proxy\.xz does not hold"):
        read_bundle(bundle)


BOMB = """
import resource, sys
from pathlib import Path
from edgefd.core.errors import UserError
from edgefd.wire.bundle_reader import read_bundle
from edgefd.wire.packing import pack, pack_arrays, unpack
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
try:
    read_bundle(Path(sys.argv[1]))
except UserError as error:
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before, error)
"""


@pytest.mark.parametrize(
    ("name", "blob", "message"),
    [
        ("proxy.xz", xz(400 << 20), "more than"),
        ("init.xz", xz(400 << 20), "more than"),
        ("proxy.xz", xz(1 << 20, 2**30), "not an xz stream: Memory usage limit exceeded"),
        ("train_step.onnx.xz", xz(1 << 20, 2**30), "not an xz stream: Memory usage limit exceeded"),
    ],
    ids=["400 MiB of proxy", "400 MiB of parameters", "a dictionary of 1 GiB", "a dictionary of 1 GiB for a graph"],
)
def test_a_bomb_is_refused_before_its_memory_is_taken(bundle: Path, name: str, blob: bytes, message: str) -> None:
    replace_file(bundle, name, blob)
    done = subprocess.run([sys.executable, "-c", BOMB, str(bundle)], capture_output=True, text=True, check=True)
    kilobytes, _, error = done.stdout.partition(" ")
    assert message in error
    assert int(kilobytes) < 64 * 1024


@pytest.mark.parametrize("text", ["[" * 100_000, '{"a":' * 100_000, "NaN", "[]", '{"schema": 1e400}', "9" * 5000])
def test_a_manifest_that_is_hard_to_parse_is_refused(bundle: Path, text: str) -> None:
    (bundle / "manifest.json").write_text(text)
    with pytest.raises(UserError, match=r"manifest\.json is not the manifest of a bundle") as caught:
        read_bundle(bundle)
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize(
    ("name", "array"),
    [
        ("lr", np.zeros(3, np.float32)),
        ("lr", np.array("x")),
        ("targets", np.float32(1)),
        ("targets", np.zeros((10**6, 3), np.float32)),
        ("targets", np.zeros((9, 3), np.float32)),
        ("targets", np.zeros((0, 3), np.float32)),
        ("sums", np.zeros(3, np.float32)),
        ("sums", np.zeros(10**7, np.float32)),
        ("largest", np.zeros(1, np.float32)),
        ("another", np.zeros(1, np.float32)),
        ("loss", np.full((), np.nan, np.float32)),
    ],
)
def test_a_selftest_that_does_not_fit_the_model_is_refused(bundle: Path, name: str, array: np.ndarray) -> None:
    with np.load(bundle / "selftest.npz") as arrays:
        replace_file(bundle, "selftest.npz", npz_bytes({**arrays, name: array}))
    with pytest.raises(UserError, match=r"selftest\.npz does not hold one training step of this model"):
        read_bundle(bundle)


@pytest.mark.parametrize("file", ["proxy.xz", "init.xz"])
def test_numbers_that_are_not_finite_are_refused(bundle: Path, file: str) -> None:
    size = len(unpack((bundle / file).read_bytes(), 2**24)) // 4
    edit(bundle, lambda m: m["proxy"].update(planes=True))
    replace_file(bundle, file, pack_arrays({"x": np.full(size, np.inf, np.float32)}))
    with pytest.raises(UserError, match=r"init\.xz and proxy\.xz must hold finite numbers"):
        read_bundle(bundle)


@pytest.mark.parametrize("name", ["targets", "sums", "largest", "second_moment"])
def test_a_selftest_without_a_part_is_refused(bundle: Path, name: str) -> None:
    with np.load(bundle / "selftest.npz") as arrays:
        replace_file(bundle, "selftest.npz", npz_bytes({n: a for n, a in arrays.items() if n != name}))
    with pytest.raises(UserError, match="does not hold one training step"):
        read_bundle(bundle)
