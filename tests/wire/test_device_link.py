"""The released protocol, on which devices in the field rely, and the bytes in docs/reference/wire-format.md."""

import dataclasses
import hashlib
import importlib.util
import itertools
import re
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from edgefd_proto import edgefd_pb2 as pb

from edgefd.core.knowledge import Knowledge, empty, replaced
from edgefd.federation.changes import changes_since, digest_of, published
from edgefd.federation.plan import RoundPlan
from edgefd.federation.report import Report
from edgefd.federation.terms import FederationTerms, parse_terms
from edgefd.federation.training import Training
from edgefd.selection import selection_of
from edgefd.wire import messages as wire
from edgefd.wire.device_link import PROTOCOL, identity_message, read_identity, read_terms, terms_message
from tests.support.expectations import report_like, shape_of
from tests.support.votes import votes

ROOT = Path(__file__).parents[2]
DOCUMENT = ROOT / "docs" / "reference" / "wire-format.md"

LABELS = Knowledge(np.array([2, 5, 6]), np.eye(10, dtype=np.float32)[[1, 9, 4]], np.ones(3, np.float32))
KNOWLEDGE = Knowledge(np.array([2, 5]), np.array([[0.25, 0.75], [1, 0]], np.float32), np.array([1, 0.5], np.float32))
HELD = Knowledge(np.arange(8), np.tile(np.array([[0.25, 0.75]], np.float32), (8, 1)), np.ones(8, np.float32))
NEWER = replaced(HELD, HELD.ids < 7, empty(2))
NEWER = replaced(NEWER, NEWER.ids != 3, votes([3], [[1, 0]]))
CHANGES = changes_since(published(published(None, HELD, 0, 0.0), NEWER, 1, 0.0), digest_of(HELD))
REST = 0.03125
KEPT = Knowledge(
    np.array([2, 5]),
    np.array(
        [[REST, REST, 0.5, REST, REST, REST, REST, 0.25, REST, REST], [0, 0, 0, 0.25, 0.75] + [0] * 5], np.float32
    ),
    np.array([1, 0.5], np.float32),
)
TERMS = FederationTerms(
    "fedmd",
    {},
    "float16",
    7,
    2,
    "ab" * 32,
    training=Training(rounds=3, optimizer="sgd", lr=0.5, final_lr=0.25),
    selection=selection_of({"name": "random", "budget": 0.5}),
)
REPORT = wire.encode_report(Report(1, 3, empty(2), {"heldout_accuracy": 0.5}), "float16")
SAMPLES = b"\x00\xff\x10\x20"
OFFER = pb.ContributeRequest(
    protocol=PROTOCOL, client=1, rows=2, dtype="uint8", shape=(1, 1, 2), sha256=hashlib.sha256(SAMPLES).digest()
)
PIECE = pb.ContributeRequest(samples=SAMPLES)
PIECE.MergeFrom(OFFER)
EXAMPLES = {
    "knowledge float32": wire.encode(KNOWLEDGE, "float32"),
    "knowledge float16": wire.encode(KNOWLEDGE, "float16"),
    "knowledge uint8": wire.encode(KNOWLEDGE, "uint8"),
    "knowledge uint4": wire.encode(KNOWLEDGE, "uint4"),
    "knowledge int8": wire.encode(KNOWLEDGE, "int8"),
    "knowledge kept": wire.encode(KEPT, "float16"),
    "knowledge simplex15": wire.encode(KNOWLEDGE, "simplex15"),
    "knowledge changes": wire.encode(NEWER, "float16", CHANGES),
    "knowledge labels": wire.encode(LABELS, "float16"),
    "plan": wire.encode_plan(RoundPlan(2, np.array([0, 1, 5]))),
    "terms": terms_message(TERMS).SerializeToString(),
    "report": REPORT,
    "join": pb.JoinRequest(protocol=PROTOCOL, client=1, terms=identity_message(TERMS)).SerializeToString(),
    "ask": pb.TaskRequest(session=b"\x01\x02", after=-1).SerializeToString(),
    "idle": pb.TaskReply(idle=pb.Idle()).SerializeToString(),
    "told": pb.TaskRequest(session=b"\x01\x02", after=3, told=True).SerializeToString(),
    "complete": pb.TaskReply(end=pb.End()).SerializeToString(),
    "offer": OFFER.SerializeToString(),
    "samples": PIECE.SerializeToString(),
    "contributed": pb.ContributeReply(have=2, low=0.0, high=255.0).SerializeToString(),
    "submit": pb.SubmitRequest(session=b"\x01\x02", run="r", round=3, report=REPORT).SerializeToString(),
}


def documented() -> dict[str, bytes]:
    """Read the examples of the document: `example: NAME`, then a block of hex with comments after #."""
    examples = re.findall(r"`example: ([a-z0-9 ]+)`\n\n((?:    .*\n)+)", DOCUMENT.read_text())
    return {name: bytes.fromhex(re.sub(r"#.*", "", block)) for name, block in examples}


def check_module() -> ModuleType:
    """Load proto/check.py."""
    spec = importlib.util.spec_from_file_location("proto_check", ROOT / "proto" / "check.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_document_shows_the_bytes_that_are_sent() -> None:
    examples = documented()
    assert set(examples) == set(EXAMPLES)
    for name, data in EXAMPLES.items():
        assert examples[name] == data, f"{name}: {data.hex(' ')}"


def test_the_documented_examples_decode_to_the_described_values() -> None:
    examples = documented()
    for codec in ("float32", "float16"):
        assert wire.decode(examples[f"knowledge {codec}"], shape_of(KNOWLEDGE, codec)).equals(KNOWLEDGE)
    held = dataclasses.replace(shape_of(HELD, "float16"), held=HELD)
    assert wire.decode(examples["knowledge changes"], held).equals(NEWER)
    plan = wire.decode_plan(examples["plan"], 6)
    assert (plan.round, plan.ids.tolist(), plan.evaluate, plan.closing) == (2, [0, 1, 5], True, False)
    expected = report_like(Report(1, 3, empty(2), {"heldout_accuracy": 0.5}), "float16")
    assert wire.decode_report(examples["report"], expected).metrics == {"heldout_accuracy": 0.5}
    assert read_terms(pb.Terms.FromString(examples["terms"])) == TERMS
    assert TERMS.differences(read_identity(pb.JoinRequest.FromString(examples["join"]).terms)) == []


def test_terms_are_sent_with_their_defence() -> None:
    defended = dataclasses.replace(TERMS, defence={"name": "top_k", "k": 2, "calibrate": False})
    assert read_terms(terms_message(defended)) == defended
    assert TERMS.differences(defended) == ["defence"]
    assert parse_terms(dataclasses.asdict(defended)) == defended


def test_released_fields_values_and_calls_have_not_changed() -> None:
    module = check_module()
    released = (ROOT / "proto" / "released.txt").read_text()
    assert not module.changed(released)
    assert set(released.split("\n")) - {""} == set(module.interface()), "new lines: run proto/check.py --release"


@pytest.mark.parametrize("change", [("round = 2", "round = 3"), ("TYPE_UINT32", "TYPE_UINT64"), ("NextTask", "Next")])
def test_a_change_of_a_released_line_is_detected(change: tuple[str, str]) -> None:
    released = (ROOT / "proto" / "released.txt").read_text()
    assert change[0] in released
    assert check_module().changed(released.replace(*change))


def test_every_field_of_the_proto_is_documented() -> None:
    lines = (ROOT / "proto" / "edgefd_proto" / "edgefd.proto").read_text().split("\n")
    for above, line in itertools.pairwise(lines):
        if re.search(r" = \d+;$", line) or line.startswith(("message", "enum", "service", "  rpc", "  oneof")):
            assert above.strip().startswith("//"), line
