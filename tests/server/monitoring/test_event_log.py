"""The event log: limits of lines and of size, text from outside, and processes without free file descriptors."""

import json
import os
import stat
from pathlib import Path
from typing import Any

import pytest
from edgefd_server.monitoring import event_log
from edgefd_server.monitoring.event_log import LINES_PER_MINUTE, OLDER_FILES, json_log

from edgefd.core import line_limit
from edgefd.core.errors import RunError
from tests.support.descriptors import no_free_descriptors


def events(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def refuse(log: event_log.Log, times: int, device: str = "camera-1", line: str = "no") -> None:
    for _ in range(times):
        log("refused", call="Join", reason="terms", line=line, device=device, peer="ipv4:192.0.2.1:5")


def test_refusals_of_one_device_are_limited_and_the_rest_is_counted(tmp_path: Path) -> None:
    path = tmp_path / "link.jsonl"
    with json_log(path) as log:
        refuse(log, 10_000)
        refuse(log, 3, device="camera-2")
        log("report", client=1, round=0, bytes=5)
    written = events(path)
    assert [line["device"] for line in written if line["event"] == "refused"].count("camera-1") == LINES_PER_MINUTE
    assert [line["device"] for line in written if line["event"] == "refused"].count("camera-2") == 3
    (summary,) = [line for line in written if line["event"] == "left_out"]
    assert (summary["of"], summary["reason"], summary["sender"]) == ("refused", "terms", "camera-1")
    assert summary["lines"] == 10_000 - LINES_PER_MINUTE
    assert sum(line["event"] == "report" for line in written) == 1


def test_the_count_is_written_after_a_minute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with json_log(tmp_path / "link.jsonl") as log:
        refuse(log, 100)
        monkeypatch.setattr(line_limit, "WINDOW", 0.0)  # as if a minute had passed
        log("round", round=0)
        written = [line["event"] for line in events(tmp_path / "link.jsonl")]
    assert written == ["refused"] * LINES_PER_MINUTE + ["left_out", "round"]


def test_a_long_text_of_a_device_is_cut_and_its_control_characters_are_escaped(tmp_path: Path) -> None:
    path = tmp_path / "link.jsonl"
    with json_log(path) as log:
        refuse(log, 1, line="\x1b]0;title\x07" + "x" * 10**6)
    (line,) = events(path)
    assert line["line"].startswith("\\x1b]0;title\\x07xxx")
    assert path.stat().st_size < 2000


def test_a_large_log_begins_a_new_file_and_keeps_a_few_older_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(event_log, "MAX_BYTES", 1000)
    path = tmp_path / "link.jsonl"
    with json_log(path) as log:
        for number in range(100):
            log("round", round=number)
    names = sorted(file.name for file in tmp_path.iterdir())
    assert names == ["link.jsonl", *(f"link.jsonl.{n + 1}" for n in range(OLDER_FILES))]
    rounds = [line["round"] for name in reversed(names) for line in events(tmp_path / name)]
    assert rounds == list(range(100))[-len(rounds) :]
    assert len(rounds) > 20
    assert all(file.stat().st_size <= 1000 for file in tmp_path.iterdir())
    assert all(stat.S_IMODE(file.stat().st_mode) == 0o600 for file in tmp_path.iterdir())


def test_a_restarted_coordinator_continues_the_log(tmp_path: Path) -> None:
    for number in range(2):
        with json_log(tmp_path / "link.jsonl") as log:
            log("round", round=number)
    assert [line["round"] for line in events(tmp_path / "link.jsonl")] == [0, 1]


def test_the_log_is_written_while_all_file_descriptors_are_in_use(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(event_log, "MAX_BYTES", 1000)
    with json_log(tmp_path / "link.jsonl") as log:
        log("round", round=0)
        with no_free_descriptors():
            for number in range(1, 50):
                log("round", round=number)
        log("round", round=50)
    rounds = [e["round"] for name in ("link.jsonl.1", "link.jsonl") for e in events(tmp_path / name)]
    assert rounds == list(range(51))


def test_a_full_disk_ends_the_run_and_leaves_whole_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "link.jsonl"
    whole = os.write

    def half(descriptor: int, data: bytes) -> int:
        if len(data) < 20:
            raise OSError(28, "No space left on device")
        return whole(descriptor, data[:-10])

    with json_log(path) as log:
        log("round", round=0)
        with monkeypatch.context() as full:
            full.setattr(os, "write", half)
            with pytest.raises(RunError, match="No space left on device"):
                log("round", round=1)
    assert [line["round"] for line in events(path)] == [0]


def test_a_log_that_is_a_link_or_a_pipe_is_not_written(tmp_path: Path) -> None:
    """A run folder may come from somebody else, and is resumed."""
    (tmp_path / "target").write_text("key\n")
    (tmp_path / "link.jsonl").symlink_to(tmp_path / "target")
    os.mkfifo(tmp_path / "pipe.jsonl")
    for name in ("link.jsonl", "pipe.jsonl"):
        with json_log(tmp_path / name) as log, pytest.raises(RunError, match="cannot write"):
            log("report", client=1)
    assert (tmp_path / "target").read_text() == "key\n"
