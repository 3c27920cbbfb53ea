"""The seal of a recording: each altered recording is refused in one line, and an honest one is accepted."""

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from edgefd.auditing.recording.read import open_recording, reports
from edgefd.auditing.recording.seal import check_seal
from edgefd.auditing.request import parse_request
from edgefd.auditing.run_audit import audit
from edgefd.core.errors import UserError
from edgefd.runs.record import KNOWLEDGE, SEALED_OF_RUN


def exchange(a: Path, b: Path) -> None:
    first, second = a.read_bytes(), b.read_bytes()
    a.write_bytes(second)
    b.write_bytes(first)


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


ALTERED: dict[str, tuple[Callable[[Path], object], str]] = {
    "swapped models": (
        lambda k: exchange(k / "models/0001/2.npz", k / "models/0001/3.npz"),
        "models/0001/2.npz is not",
    ),
    "last models": (lambda k: shutil.rmtree(k / "models/0001"), "models/0001/0.npz is missing"),
    "all models": (lambda k: shutil.rmtree(k / "models"), "did not end"),
    "report of another client": (
        lambda k: exchange(k / "rounds/0001/reports/2.bin", k / "rounds/0001/reports/3.bin"),
        "reports/2.bin is not what the run wrote",
    ),
    "report of another round": (
        lambda k: exchange(k / "rounds/0000/reports/2.bin", k / "rounds/0001/reports/2.bin"),
        "reports/2.bin is not what the run wrote",
    ),
    "missing round": (lambda k: shutil.rmtree(k / "rounds/0001"), "is missing from the recording"),
    "missing round with its seal": (
        lambda k: (shutil.rmtree(k / "rounds/0001"), (k / "seals/0001.json").unlink()),
        "0001.json is missing",
    ),
    "missing report": (lambda k: (k / "rounds/0000/reports/4.bin").unlink(), "4.bin is missing"),
    "added report": (lambda k: (k / "rounds/0000/reports/10.bin").write_bytes(b"x"), "was not written by the run"),
    "emptied file": (lambda k: (k / "claims.npz").write_bytes(b""), "claims.npz is not what the run wrote"),
    "changed settings": (
        lambda k: edit(k.parent / "config.yaml", "local_steps: 0", "local_steps: 1"),
        "config.yaml is not what the run wrote",
    ),
    "fewer rounds": (
        lambda k: edit(k.parent / "config.yaml", "  rounds: 2", "  rounds: 1"),
        "does not cover config.yaml",
    ),
    "corrupt seal": (lambda k: (k / "seals/0000.json").write_text("[1]"), "is no seal of a round"),
    "seal of other files": (
        lambda k: (k / "seals/0000.json").write_text('{"../../x.npz": "00"}'),
        "is no seal of a round",
    ),
}


@pytest.mark.parametrize("name", ALTERED)
def test_an_altered_recording_is_refused(name: str, run: Path) -> None:
    alter, message = ALTERED[name]
    alter(run / KNOWLEDGE)
    with pytest.raises(UserError) as caught:
        open_recording(run)
    assert message in str(caught.value)


def test_an_honest_recording_has_a_seal_of_all_its_files(recorded: Path) -> None:
    assert open_recording(recorded).seal == check_seal(recorded, 2)
    sealed = [name for p in (recorded / KNOWLEDGE / "seals").iterdir() for name in json.loads(p.read_text())]
    n_files = sum(p.is_file() and p.parent.name != "seals" for p in (recorded / KNOWLEDGE).rglob("*"))
    assert len(sealed) == len(set(sealed)) == n_files + 2


def reseal(knowledge: Path) -> None:
    """Write the seals of the files that are there, as a forger would."""
    for path in (knowledge / "seals").iterdir():
        names = json.loads(path.read_text())
        files = {name: (knowledge.parent if name in SEALED_OF_RUN else knowledge) / name for name in names}
        seal = {name: hashlib.sha256(file.read_bytes()).hexdigest() for name, file in files.items() if file.is_file()}
        path.write_text(json.dumps(seal))


FORGED: dict[str, tuple[Callable[[Path], object], str]] = {
    "all rounds": (lambda k: shutil.rmtree(k / "rounds"), "teacher.bin is missing"),
    "a report": (lambda k: (k / "rounds/0001/reports/3.bin").unlink(), "3.bin is missing"),
    "last models": (lambda k: shutil.rmtree(k / "models/0001"), "models/0001/0.npz is missing"),
    "models of all rounds": (
        lambda k: [shutil.rmtree(k / "models" / name) for name in ("0000", "0001")],
        "models/0000/0.npz is missing",
    ),
    "a final model": (lambda k: (k / "models/final/3.npz").unlink(), "final/3.npz is missing"),
    "a damaged teacher": (lambda k: (k / "rounds/0001/teacher.bin").write_bytes(b"x"), "teacher.bin is corrupt"),
    "damaged weights": (lambda k: (k / "claims.npz").write_bytes(b"x"), "claims.npz is corrupt"),
    "a damaged model": (lambda k: (k / "models/final/3.npz").write_bytes(b"x"), "final/3.npz is corrupt"),
    "a model of NaN": (lambda k: fill(k / "models/0001/3.npz", np.nan), "0001/3.npz is not a model"),
    "a model of text": (lambda k: fill(k / "models/0001/3.npz", "x"), "0001/3.npz is not a model"),
}


def fill(path: Path, value: float | str) -> None:
    arrays = dict(np.load(path))
    np.savez(path, **{name: np.full(array.shape, value) for name, array in arrays.items()})


@pytest.mark.parametrize("name", FORGED)
def test_a_forged_seal_does_not_hide_what_is_missing_or_damaged(name: str, run: Path) -> None:
    alter, message = FORGED[name]
    alter(run / KNOWLEDGE)
    reseal(run / KNOWLEDGE)
    with pytest.raises(UserError) as caught:
        audit(run, parse_request(0, [], [], []), lambda _: lambda _: None)
    assert message in str(caught.value)
    assert not (run / "audit" / "audit.json").exists()


def test_a_report_in_the_place_of_another_one_is_refused_even_without_a_seal(run: Path) -> None:
    recording = open_recording(run)
    exchange(run / KNOWLEDGE / "rounds/0001/reports/2.bin", run / KNOWLEDGE / "rounds/0001/reports/3.bin")
    with pytest.raises(UserError, match=r"2\.bin is the report of client 3 in round 1"):
        reports(recording, 1)
    np.testing.assert_array_equal([r.client for r in reports(recording, 0)], range(10))
