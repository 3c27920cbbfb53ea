"""The device: what it refuses, and what survives."""

import dataclasses
import hashlib
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
from edgefd_client.cli import main
from edgefd_client.doctor import selftest
from edgefd_client.sources import CsvWindows, ImageFolder, NpzSource, private_data
from edgefd_client.state import DeviceState, load_state, save_state
from PIL import Image

from edgefd.core.errors import RunError, UserError
from edgefd.export.write_bundle import export_bundle
from edgefd.federation.terms import FederationTerms
from edgefd.learners.batches import labelled
from edgefd.learners.models import build_model
from edgefd.learners.onnx_learner import OnnxLearner, Sessions
from edgefd.wire.bundle_manifest import FILES
from edgefd.wire.bundle_reader import read_bundle
from tests.support.bundles import edit, replace_file

SHAPE = (1, 16, 16)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("bundle") / "b"
    proxy = np.random.default_rng(0).standard_normal((20, *SHAPE)).astype(np.float32)
    terms = FederationTerms("edgefd", {"n_clusters": 2}, "float16", 0, 3, hashlib.sha256(proxy.tobytes()).hexdigest())
    model = build_model("cnn_small", SHAPE, 3, 0)
    export_bundle(out, model, "cnn_small", "adam", 8, proxy, (10.0, 2.0), 0.1, terms)
    return out


@pytest.fixture
def bundle(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "b"))


@pytest.mark.parametrize("name", FILES)
def test_a_flipped_byte_is_refused(bundle: Path, name: str) -> None:
    blob = bytearray((bundle / name).read_bytes())
    blob[len(blob) // 2] ^= 1
    (bundle / name).write_bytes(blob)
    with pytest.raises(UserError, match=name):
        read_bundle(bundle)


def test_a_manifest_that_asks_for_more_is_refused(bundle: Path) -> None:
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
    ("key", "value"), [("heldout", 1.5), ("terms", {"method": "edgefd"}), ("terms", None), ("batch", 0)]
)
def test_a_manifest_that_is_out_of_range_is_refused(bundle: Path, key: str, value: object) -> None:
    edit(bundle, lambda m: m.update({key: value}))
    with pytest.raises(UserError, match=r"manifest\.json is"):
        read_bundle(bundle)


def test_an_oversized_file_is_refused(bundle: Path) -> None:
    with (bundle / "init.npz").open("ab") as file:
        file.write(b"x")
    with pytest.raises(UserError, match="larger"):
        read_bundle(bundle)


def test_external_data_is_refused(bundle: Path, tmp_path: Path) -> None:
    model = onnx.load(bundle / "train_step.onnx")
    path = tmp_path / "external.onnx"
    onnx.save(model, path, save_as_external_data=True, location="weights", size_threshold=0)
    replace_file(bundle, "train_step.onnx", path.read_bytes())
    with pytest.raises(UserError, match="outside"):
        read_bundle(bundle)


def learner_of(folder: Path) -> OnnxLearner:
    b = read_bundle(folder)
    return OnnxLearner(Sessions(b.graphs), b.init)


def test_a_step_that_is_not_finite_leaves_the_state(bundle: Path) -> None:
    learner = learner_of(bundle)
    before = learner.state()
    good = labelled(np.ones((5, *SHAPE), np.float32), np.zeros(5, np.int64), 3)
    bad = labelled(np.full((5, *SHAPE), np.nan, np.float32), np.zeros(5, np.int64), 3)
    with pytest.raises(RunError, match="not finite"):
        learner.train([good, bad], 0.01)
    after = learner.state()
    assert all(np.array_equal(before[n], after[n]) for n in before)
    assert learner.train([good], 0.01) > 0


def device_state(round: int, learner: dict[str, np.ndarray]) -> DeviceState:
    acceptance = np.full(4, round, np.float32)
    return DeviceState("digest", "run", 0, round, learner, acceptance, "of", b"report %d" % round)


def test_state_survives_torn_and_foreign_files(tmp_path: Path, bundle: Path) -> None:
    states = [device_state(r, learner_of(bundle).state()) for r in range(3)]
    assert load_state(tmp_path / "s", "digest") is None
    for state in states:
        save_state(tmp_path / "s", state)
    newest = load_state(tmp_path / "s", "digest")
    assert newest is not None
    assert newest.round == 2
    assert all(np.array_equal(newest.learner[n], states[2].learner[n]) for n in states[2].learner)
    assert newest.report == b"report 2"
    with pytest.raises(UserError, match="no whole state"):
        load_state(tmp_path / "s", "another")
    torn = tmp_path / "s" / "state.a"  # generations 0 and 2
    torn.write_bytes(torn.read_bytes()[:-7])
    previous = load_state(tmp_path / "s", "digest")
    assert previous is not None
    assert previous.round == 1
    save_state(tmp_path / "s", dataclasses.replace(states[2], round=7))
    again = load_state(tmp_path / "s", "digest")
    assert again is not None
    assert again.round == 7


def test_a_full_disk_leaves_the_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    state = device_state(0, {})
    save_state(tmp_path, state)

    def full(handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("edgefd_client.state.os.fsync", full)
    with pytest.raises(RunError, match="No space left"):
        save_state(tmp_path, dataclasses.replace(state, round=1))
    kept = load_state(tmp_path, "digest")
    assert kept is not None
    assert kept.round == 0
    assert not (tmp_path / "state.part").exists()


def test_sources(tmp_path: Path, bundle: Path) -> None:
    read = read_bundle(bundle)
    image = np.full((16, 16), 12, np.uint8)
    np.savez(tmp_path / "d.npz", x=image[None, None], y=np.array([2]))
    (tmp_path / "images" / "2").mkdir(parents=True)
    Image.fromarray(image).save(tmp_path / "images" / "2" / "a.png")
    (tmp_path / "d.csv").write_text(",".join(["2", *["12"] * 256]) + "\n")
    csv, images = CsvWindows(tmp_path / "d.csv", SHAPE), ImageFolder(tmp_path / "images", SHAPE)
    for source in (NpzSource(tmp_path / "d.npz"), images, csv):
        x, y = private_data(source, read)
        assert x.dtype == np.float32
        assert (x == 1).all()
        assert y.tolist() == [2]
    np.savez(tmp_path / "d.npz", x=image[None, None], y=np.array([3]))
    with pytest.raises(UserError, match="0 to 2"):
        private_data(NpzSource(tmp_path / "d.npz"), read)


def test_the_command(bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert selftest(read_bundle(bundle)) <= 1e-5
    main(["doctor", "--bundle", str(bundle), "--state", str(tmp_path)])
    assert "self-test" in capsys.readouterr().out
    np.save(tmp_path / "x.npy", np.zeros((4, *SHAPE), np.uint8))
    main(["infer", "--bundle", str(bundle), "--input", str(tmp_path / "x.npy")])
    assert len(capsys.readouterr().out.split()) == 4
    with pytest.raises(SystemExit) as stop:
        main(["infer", "--bundle", str(tmp_path / "none"), "--input", str(tmp_path / "x.npy")])
    assert stop.value.code == 2
    assert capsys.readouterr().err.count("\n") == 1
