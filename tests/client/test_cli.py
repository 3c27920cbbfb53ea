"""The command `edgefd-client`: its output, its exit codes, and the packages that it needs."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from edgefd_client.cli import main
from edgefd_client.doctor import selftest
from edgefd_client.flower_node import node_round

from edgefd.core.errors import UserError
from edgefd.core.yaml_files import dump_yaml, parse_yaml
from edgefd.federation.device_profile import read_profiles
from edgefd.wire.bundle_reader import read_bundle
from edgefd.wire.device_link import terms_message
from tests.support.bundles import SHAPE, small_bundle
from tests.support.device_links import open_device_link
from tests.support.federations import ExportedFederation, coordinate
from tests.support.one_line import one_line

ROOT = Path(__file__).parents[2]
WITHOUT_HEAVY_PACKAGES = """
import sys

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in "torch flwr sklearn scipy pydantic typer rich pandas".split():
            raise ImportError(f"{name} must not be imported on a device")

sys.meta_path.insert(0, Refuse())
from edgefd_client.cli import main
main(sys.argv[1:])
"""


def test_doctor_tests_a_training_step(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bundle = small_bundle(tmp_path / "b")
    assert selftest(read_bundle(bundle)) <= 1e-5
    main(["doctor", "--bundle", str(bundle), "--state", str(tmp_path)])
    assert "self-test" in capsys.readouterr().out


def test_doctor_measures_a_profile_that_a_simulation_reads(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edgefd_client.measure.SECONDS", 0.0)
    bundle, file = small_bundle(tmp_path / "b"), tmp_path / "board.yaml"
    main(["doctor", "--bundle", str(bundle), "--state", str(tmp_path), "--profile", str(file)])
    assert "s a step" in capsys.readouterr().out
    profile = read_profiles([file])["board"]
    manifest = read_bundle(bundle).manifest
    assert (list(profile.step_seconds), profile.step_rows) == ([manifest.model], manifest.batch)
    assert profile.step_seconds[manifest.model] > 0
    assert profile.filter_row_seconds > 0
    sections = parse_yaml(file.read_text())
    sections["board"] |= {"up_mbit": 7, "step_seconds": {"other": 3.5}}
    file.write_text(dump_yaml(sections))
    main(["doctor", "--bundle", str(bundle), "--state", str(tmp_path), "--profile", str(file)])
    again = read_profiles([file])["board"]  # another model is added, and the filled-in link stays
    assert set(again.step_seconds) == {"other", manifest.model}
    assert (again.up_mbit, again.step_seconds["other"]) == (7, 3.5)


@pytest.mark.parametrize(
    ("content", "arguments", "words"),
    [
        (None, [], ("--profile", "--bundle")),
        ("x: {flops: 1}", ["--bundle", "b"], ("other profiles than board",)),
        ("board: {step_seconds: {cnn: 1}, step_rows: 3}", ["--bundle", "b"], ("steps of 3 rows",)),
    ],
)
def test_doctor_refuses_a_profile_that_it_cannot_write_in_one_line(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    content: str | None,
    arguments: list[str],
    words: tuple[str, ...],
) -> None:
    small_bundle(tmp_path / "b")
    monkeypatch.chdir(tmp_path)
    if content is not None:
        Path("board.yaml").write_text(content)
    with pytest.raises(SystemExit) as stop:
        main(["doctor", "--profile", "board.yaml", *arguments])
    assert stop.value.code == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert all(word in error for word in words)


def test_infer_prints_one_label_per_sample(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bundle = small_bundle(tmp_path / "b")
    np.save(tmp_path / "x.npy", np.zeros((4, *SHAPE), np.uint8))
    main(["infer", "--bundle", str(bundle), "--input", str(tmp_path / "x.npy")])
    labels = capsys.readouterr().out.split()
    assert len(labels) == 4
    assert set(labels) <= {"0", "1", "2"}


@pytest.mark.parametrize(
    ("x", "words"),
    [
        (np.full((20, *SHAPE), 0.5, np.float32), ("x.npy", "uint8 from 0 to 255", "float from 0.5 to 0.5")),
        (np.full((20, *SHAPE), 256), ("uint8 from 0 to 255", "int64 from 256 to 256")),
        (np.full((20, *SHAPE), np.nan), ("NaN",)),
        (np.zeros((20, 16, 16), np.uint8), ("[1, 16, 16]", "[20, 16, 16]")),
        (np.zeros((0, *SHAPE), np.uint8), ("[0, 1, 16, 16]",)),
    ],
)
def test_infer_refuses_samples_in_other_units_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], x: np.ndarray, words: tuple[str, ...]
) -> None:
    bundle = small_bundle(tmp_path / "b")
    np.save(tmp_path / "x.npy", x)
    with pytest.raises(SystemExit) as stop:
        main(["infer", "--bundle", str(bundle), "--input", str(tmp_path / "x.npy"), "--out", str(tmp_path / "out.npy")])
    assert stop.value.code == 2
    printed = capsys.readouterr()
    assert (printed.out, printed.err.count("\n")) == ("", 1)
    for word in words:
        assert word in printed.err
    assert not (tmp_path / "out.npy").exists()


def test_infer_refuses_files_that_are_not_npy_and_outputs_that_are_folders_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = small_bundle(tmp_path / "b")
    x = np.arange(4 * 256).reshape(4, *SHAPE).astype(np.uint8)
    np.save(tmp_path / "x.npy", x)
    np.savez(tmp_path / "x.npz", x=x)
    (tmp_path / "latest").symlink_to(bundle)
    cases = [
        ("x.npz", "out.npy", "save the samples with numpy.save"),
        ("b", "out.npy", "b: Is a directory\n"),
        ("x.npy", "latest", "latest: it is a folder; name a file"),
    ]
    for given, out, words in cases:
        with pytest.raises(SystemExit) as stop:
            main(["infer", "--bundle", str(bundle), "--input", str(tmp_path / given), "--out", str(tmp_path / out)])
        printed = capsys.readouterr()
        assert (stop.value.code, printed.out, printed.err.count("\n")) == (2, "", 1)
        assert words in printed.err
    assert (tmp_path / "latest").is_symlink()


def test_a_client_number_beyond_the_federation_is_refused_without_a_coordinator(
    federation: ExportedFederation, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    paths = ["--bundle", str(federation.bundle), "--data", str(federation.data[1]), "--state", str(tmp_path / "s")]
    with pytest.raises(SystemExit) as stop:
        main(["run", *paths, "--exchange", str(tmp_path / "x"), "--client", "99"])
    assert stop.value.code == 2
    assert "--client must be from 0 to " in capsys.readouterr().err
    assert not (tmp_path / "s").exists()


def test_infer_warns_of_samples_far_from_the_proxy_set(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bundle = small_bundle(tmp_path / "b")
    x = np.random.default_rng(0).normal(10, 2, (20, *SHAPE)).clip(0, 255).round().astype(np.uint8)
    for samples, far in ((x, False), (x + 100, True)):
        np.save(tmp_path / "x.npy", samples)
        main(["infer", "--bundle", str(bundle), "--input", str(tmp_path / "x.npy")])
        printed = capsys.readouterr()
        assert len(printed.out.split()) == 20  # a warning changes no result
        assert ("far from the proxy set: all values: mean and deviation 110 and 2" in printed.err) is far


def test_a_device_whose_data_are_in_other_units_never_joins(federation: ExportedFederation, tmp_path: Path) -> None:
    own = dict(np.load(federation.data[1]))
    own |= {name: (own[name] / 255).astype(np.float32) for name in ("x", "x_heldout")}
    np.savez(tmp_path / "float01.npz", **own)
    device = ["--bundle", str(federation.bundle), "--data", str(tmp_path / "float01.npz"), "--client", "1"]
    with federation.open(tmp_path / "x"), open_device_link(federation) as link:
        exchange = sorted((tmp_path / "x").rglob("*"))
        for n, where in enumerate((["--exchange", str(tmp_path / "x")], ["--server", link.address])):
            state = tmp_path / f"state{n}"
            command = [sys.executable, "-m", "edgefd_client", "run", *device, *where, "--state", str(state)]
            done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
            one_line(done, 2, "float01.npz: the samples of the federation are uint8 from 0 to 255", "float from 0 to 1")
            assert not state.exists()
        assert sorted((tmp_path / "x").rglob("*")) == exchange
        assert link.sessions.joined() == set()


def test_a_flower_node_tells_the_coordinator_nothing_of_its_data(
    federation: ExportedFederation, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own = dict(np.load(federation.data[1]))
    np.savez(tmp_path / "d.npz", **(own | {"x": (own["x"] / 255).astype(np.float32)}))
    terms = terms_message(federation.read().manifest.terms).SerializeToString()
    node = {
        "bundle": str(federation.bundle),
        "data": str(tmp_path / "d.npz"),
        "state": str(tmp_path / "s"),
        "client": 1,
    }
    with pytest.raises(UserError) as error:
        node_round({"run": "r", "terms": terms, "plan": b""}, node)
    assert str(error.value) == "client 1 cannot use its own data: the reason is in the log of the device"
    assert "float from 0 to 1" in capsys.readouterr().out


def test_a_missing_bundle_is_one_line_and_exit_code_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["infer", "--bundle", str(tmp_path / "none"), "--input", str(tmp_path / "x.npy")])
    assert stop.value.code == 2
    assert capsys.readouterr().err.count("\n") == 1


def start(federation: ExportedFederation, folder: Path, client: int) -> subprocess.Popen[str]:
    """Start the device of a client in a process that cannot import torch, Flower or other heavy packages."""
    arguments = ["run", "--bundle", str(federation.bundle), "--data", str(federation.data[client])]
    arguments += ["--client", str(client), "--state", str(folder / f"s{client}"), "--exchange", str(folder / "x")]
    path = os.pathsep.join(str(ROOT / part) for part in ("", "proto", "client"))
    pipe = subprocess.PIPE
    command = [sys.executable, "-c", WITHOUT_HEAVY_PACKAGES, *arguments]
    return subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, env={"PYTHONPATH": path})


def test_run_needs_no_heavy_package_and_prints_a_line_per_round(federation: ExportedFederation, tmp_path: Path) -> None:
    processes = [start(federation, tmp_path, i) for i in range(3)]
    try:
        with federation.open(tmp_path / "x") as transport:
            assert len(coordinate(federation, transport)) == 3
        for process in processes:
            out, err = process.communicate(timeout=30)
            assert (process.returncode, err) == (0, "")
            lines = out.splitlines()
            assert len(lines) == 5
            assert lines[1].startswith("round 0: held-out accuracy ")
            assert "rows, " in lines[1]
            assert lines[-1] == "the run is complete"
    finally:
        for process in processes:
            process.kill()


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 0), (signal.SIGINT, 130)])
def test_a_signal_ends_run_with_its_exit_code(
    federation: ExportedFederation, tmp_path: Path, number: int, code: int
) -> None:
    with federation.open(tmp_path / "x"):
        process = start(federation, tmp_path, 0)
    try:
        assert process.stdout is not None
        assert process.stdout.readline().startswith("client 0: ")
        process.send_signal(number)
        _, err = process.communicate(timeout=20)
        assert process.returncode == code
        assert err.count("\n") == (code == 130)
    finally:
        process.kill()


def test_waiting_for_the_coordinator_is_logged_on_stderr(federation: ExportedFederation, tmp_path: Path) -> None:
    process = start(federation, tmp_path, 0)
    try:
        assert process.stderr is not None
        assert process.stderr.readline().endswith(f"waiting for the coordinator to open {tmp_path / 'x'}\n")
        process.send_signal(signal.SIGTERM)
        out, _ = process.communicate(timeout=20)
        assert (process.returncode, out) == (0, "")
    finally:
        process.kill()
