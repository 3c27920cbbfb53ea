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

from edgefd.wire.bundle_reader import read_bundle
from tests.support.bundles import SHAPE, small_bundle
from tests.support.federations import ExportedFederation, coordinate

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


def test_infer_prints_one_label_per_sample(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bundle = small_bundle(tmp_path / "b")
    np.save(tmp_path / "x.npy", np.zeros((4, *SHAPE), np.uint8))
    main(["infer", "--bundle", str(bundle), "--input", str(tmp_path / "x.npy")])
    labels = capsys.readouterr().out.split()
    assert len(labels) == 4
    assert set(labels) <= {"0", "1", "2"}


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
