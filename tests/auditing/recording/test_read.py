"""The reader of recordings: it returns what was sent, and refuses damaged or unsuitable runs in one line."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml

from edgefd.auditing.recording.read import open_recording, parameters, reports, teacher_after
from edgefd.core.errors import UserError
from edgefd.federation.plan import RoundPlan
from edgefd.federation.progress import Progress
from edgefd.rounds.participation import ParticipationConfig
from edgefd.rounds.server import server_round
from edgefd.runs.execute import make_server
from edgefd.runs.record import KNOWLEDGE
from edgefd.runs.terms import terms_of
from edgefd.wire import messages as wire
from tests.support.commands import audit
from tests.support.expectations import sent_and_received
from tests.support.one_line import one_line


def test_the_recording_holds_the_messages_that_were_sent(recorded: Path) -> None:
    recording = open_recording(recorded)
    summary = json.loads((recorded / "summary.json").read_text())
    config, codec = recording.config, terms_of(recording.config, recording.federation).codec
    sent = [reports(recording, r) for r in recording.rounds]
    up = sum(len(wire.encode(r.knowledge, codec)) for rs in sent for r in rs if len(r.knowledge))
    assert up == summary["bytes_up"]
    plan = RoundPlan(1, np.arange(len(recording.federation.proxy)))
    teacher = server_round(make_server(config, recording.federation), sent[-1], plan, Progress(1)).teacher
    assert teacher is not None
    decoded = sent_and_received(teacher, codec)
    assert teacher_after(recording, 1).equals(decoded)
    acceptance = np.load(recorded / KNOWLEDGE / "claims.npz")["claims"]
    for report in sent[0]:
        np.testing.assert_array_equal(report.knowledge.ids, np.flatnonzero(acceptance[report.client] > 0))
    assert recording.model_rounds == [0, 1]
    assert set(parameters(recording, "final", 3)) == set(parameters(recording, "0001", 3))


def test_the_recording_lists_the_members_of_every_client(recorded: Path) -> None:
    listed = json.loads((recorded / "partition.json").read_text())["clients"]
    data = open_recording(recorded).dataset
    federation = open_recording(recorded).federation
    for client_record, client in zip(listed, federation.clients, strict=True):
        np.testing.assert_array_equal(federation.scale(data.x_train[client_record["train_rows"]]), client.x)
        assert not set(client_record["train_rows"]) & set(client_record["heldout_rows"])


def test_members_that_overlap_are_refused(run: Path) -> None:
    partition = json.loads((run / "partition.json").read_text())
    partition["clients"][2]["heldout_rows"].append(partition["clients"][2]["train_rows"][0])
    (run / "partition.json").write_text(json.dumps(partition))
    one_line(audit(run), 2, "both a member and a non-member of client 2")


def test_a_corrupt_report_is_refused(run: Path) -> None:
    (run / KNOWLEDGE / "rounds" / "0001" / "reports" / "4.bin").write_bytes(b"nonsense")
    one_line(audit(run, "--level", "0"), 2, "4.bin is not what the run wrote")


def test_a_run_without_recorded_knowledge_is_refused_with_the_command_that_records_it(run: Path) -> None:
    shutil.rmtree(run / KNOWLEDGE)
    one_line(audit(run), 2, "no recorded knowledge", "run.record_knowledge=true")
    one_line(audit(run / "nothing"), 2, "is not the folder of a run")


def test_a_method_with_other_messages_is_refused(run: Path) -> None:
    config = yaml.safe_load((run / "config.yaml").read_text())
    (run / "config.yaml").write_text(yaml.safe_dump(config | {"method": {"name": "fkd"}}))
    one_line(audit(run), 2, "method fkd exchanges other messages", "cannot be audited yet")


def test_a_late_report_is_read_in_the_round_in_which_it_counts(run: Path) -> None:
    first, second = (run / KNOWLEDGE / "rounds" / round / "reports" / "2.bin" for round in ("0000", "0001"))
    recording = open_recording(run)
    second.write_bytes(first.read_bytes())
    late = replace(recording.config, coordinator=ParticipationConfig(min_reports=2, stale_reports="use"))
    assert [r.round for r in reports(replace(recording, config=late), 1)] == [1, 1, 0, *[1] * 7]
    with pytest.raises(UserError, match="the report is for round 0, not for round 1"):
        reports(recording, 1)
