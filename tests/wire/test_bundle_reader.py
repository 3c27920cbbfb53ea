"""Reading a bundle: every difference from the manifest is refused."""

import io
import os
import shutil
import struct
import zipfile
from pathlib import Path

import numpy as np
import onnx
import pytest

from edgefd.core.errors import UserError
from edgefd.core.npz import npz_bytes
from edgefd.wire.bundle_manifest import FILES
from edgefd.wire.bundle_reader import read_bundle
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
    edit(bundle, lambda m: m["files"].update({"../x": m["files"]["init.npz"]}))
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
    with (bundle / "init.npz").open("ab") as file:
        file.write(b"x")
    with pytest.raises(UserError, match="larger"):
        read_bundle(bundle)


def test_a_graph_with_external_data_is_refused(bundle: Path, tmp_path: Path) -> None:
    model = onnx.load(bundle / "train_step.onnx")
    path = tmp_path / "external.onnx"
    onnx.save(model, path, save_as_external_data=True, location="weights", size_threshold=0)
    replace_file(bundle, "train_step.onnx", path.read_bytes())
    with pytest.raises(UserError, match="outside"):
        read_bundle(bundle)


@pytest.mark.parametrize("name", ["manifest.json", "init.npz"])
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


def member(shape: str, data: bytes = b"") -> bytes:
    """Return an npz whose array x has this shape in its header."""
    header = f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}}}\n".encode()
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x.npy", b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + data)
    return file.getvalue()


@pytest.mark.parametrize(
    ("blob", "message"),
    [
        (member(f"({2**40}, 1, 16, 16)"), "does not have the size of its file"),
        (member(f"({2**40}, 0)"), "does not have the size of its file"),
        (member("(" * 4000), "does not hold plain arrays"),
        (b"PK\x05\x06" + bytes(18), r"proxy\.npz must hold x"),
        (b"", "does not hold plain arrays"),
    ],
    ids=["2^40 rows", "2^40 empty rows", "deep header", "no arrays", "empty"],
)
def test_arrays_whose_headers_lie_are_refused(bundle: Path, blob: bytes, message: str) -> None:
    replace_file(bundle, "proxy.npz", blob)
    with pytest.raises(UserError, match=message) as caught:
        read_bundle(bundle)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["[" * 100_000, '{"a":' * 100_000, "NaN", "[]", '{"schema": 1e400}', "9" * 5000])
def test_a_manifest_that_is_hard_to_parse_is_refused(bundle: Path, text: str) -> None:
    (bundle / "manifest.json").write_text(text)
    with pytest.raises(UserError, match=r"manifest\.json is not the manifest of a bundle") as caught:
        read_bundle(bundle)
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize(
    ("file", "name", "array"),
    [
        ("selftest.npz", "lr", np.zeros(3, np.float32)),
        ("selftest.npz", "lr", np.array("x")),
        ("selftest.npz", "targets", np.float32(1)),
        ("selftest.npz", "targets", np.zeros((10**6, 3), np.float32)),
        ("selftest.npz", "expected/model/" + "x" * 9, np.zeros(3, np.float32)),
        ("selftest.npz", "expected/loss", np.full((), np.nan, np.float32)),
        ("proxy.npz", "x", np.full((20, 1, 16, 16), np.inf, np.float32)),
        ("proxy.npz", "x", np.zeros((20, 1, 16, 16), np.complex64)),
    ],
)
def test_arrays_that_do_not_fit_the_model_are_refused(bundle: Path, file: str, name: str, array: np.ndarray) -> None:
    with np.load(bundle / file) as arrays:
        replace_file(bundle, file, npz_bytes({**arrays, name: array}))
    with pytest.raises(UserError, match=f"{file} (does not hold|must hold)"):
        read_bundle(bundle)


def test_a_selftest_without_its_result_is_refused(bundle: Path) -> None:
    with np.load(bundle / "selftest.npz") as arrays:
        replace_file(bundle, "selftest.npz", npz_bytes({n: a for n, a in arrays.items() if "expected/model" not in n}))
    with pytest.raises(UserError, match="does not hold one training step"):
        read_bundle(bundle)
