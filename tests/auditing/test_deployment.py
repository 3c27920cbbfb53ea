"""A coordinator records the same messages as a simulation, and an audit of it states what it cannot know."""

import json
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path

import numpy as np
import pytest
from edgefd_server.coordinator.open_run import OpenRun, create_checkpoint
from edgefd_server.coordinator.rounds import coordinate
from edgefd_server.coordinator.served_run import ServedRun

from edgefd.auditing.recording.read import open_recording
from edgefd.auditing.report.limits import largest_found, parse_limit
from edgefd.auditing.report.verdict import verdicts
from edgefd.auditing.request import parse_request, restrict_to_recording
from edgefd.auditing.run_audit import audit as audit_run
from edgefd.auditing.scope import DISCLOSURE
from edgefd.config.load import load_config
from edgefd.core.errors import UserError
from edgefd.core.knowledge import Knowledge
from edgefd.data.build_federation import OWNERS
from edgefd.data.datasets import load_dataset
from edgefd.federation.changes import Exchanged
from edgefd.federation.plan import RoundPlan
from edgefd.federation.progress import Progress
from edgefd.federation.report import Exchange, Report
from edgefd.rounds.loop import RoundResult
from edgefd.runs.prepare import PreparedRun, prepare
from edgefd.runs.record import KNOWLEDGE, record_messages
from edgefd.runs.terms import terms_of
from edgefd.simulation.engine import InProcess, open_transport, simulate
from tests.support.commands import QUICKSTART, audit

SETTINGS = [
    *(
        "data.limit=400",
        "proxy.source=contributed",
        "train.rounds=2",
        "model.name=mlp",
        "baselines=[]",
        "method.n_clusters=3",
        "partition.n_clients=10",
    ),
    *("run.record_knowledge=true", "run.workers=0"),
]


class SimulatedFleet:
    """A simulated fleet that accepts the end of a run, as real devices do."""

    def __init__(self, transport: InProcess) -> None:
        self._transport = transport
        transport.start()

    def exchange(
        self, plan: RoundPlan, sampled: Sequence[int], teacher: Knowledge | None, exchanged: Exchanged
    ) -> Exchange:
        return self._transport.exchange(plan, sampled, teacher, exchanged)

    def finish(self, outcome: str) -> None:
        assert outcome == "complete"


@contextmanager
def open_fleet(prepared: PreparedRun) -> Iterator[SimulatedFleet]:
    transport = open_transport(prepared.config, prepared.federation)
    with closing(transport.pool):
        yield SimulatedFleet(transport)


def served_run(prepared: PreparedRun) -> ServedRun:
    """Return what a coordinator of these clients would know."""
    federation = prepared.federation
    terms = terms_of(prepared.config, federation)
    return ServedRun(prepared.config, len(federation.clients), terms, federation.proxy, None, ())


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder as `edgefd serve` leaves it."""
    return serve(tmp_path_factory.mktemp("served") / "served", SETTINGS)


def serve(out: Path, settings: Sequence[str]) -> Path:
    """Coordinate a simulated fleet, and return the run folder."""
    prepared = prepare(load_config(Path(QUICKSTART), list(settings)))
    out.mkdir()
    with open_fleet(prepared) as transport:
        coordinate(
            OpenRun(served_run(prepared), out, create_checkpoint(prepared.config, out), False),
            transport,
        )
    return out


@pytest.mark.parametrize("owners", [True, False])
def test_a_run_with_collected_samples_is_recorded_and_audited(owners: bool, tmp_path: Path) -> None:
    x = load_dataset("mnist_mini").x_train[:60]
    np.savez(tmp_path / "proxy.npz", x=x, contributors=np.array(2))
    if owners:
        np.savez(tmp_path / OWNERS, owner=np.repeat([1, 3], 30))
    run = serve(tmp_path / "run", [*SETTINGS, "train.rounds=1", f"proxy.path={tmp_path / 'proxy.npz'}"])
    result = audit_run(run, parse_request(None, [], [], []), lambda _: lambda _: None)
    ledger = result["exposure"]["ledger"]
    assert ledger["raw_records_sent"] == 60
    sent = {row["client"]: row["raw_records_sent"] for row in ledger["clients"] if row["raw_records_sent"]}
    assert sent == ({1: 30, 3: 30} if owners else {})
    text = str(verdicts(result)["server"][0])
    assert ("which client sent which of them is not recorded" in text) == (not owners)
    np.savez(tmp_path / OWNERS, owner=np.zeros(3, np.int64))
    with pytest.raises(UserError, match="does not hold the contributors of the 60 samples"):
        open_recording(run)


def test_a_coordinator_records_the_messages_of_a_simulation(served: Path, tmp_path: Path) -> None:
    prepared = prepare(load_config(Path(QUICKSTART), SETTINGS))
    assert len(list(simulate(open_transport(prepared.config, prepared.federation), tmp_path))) == 3
    files = {p.relative_to(served): p.read_bytes() for p in (served / KNOWLEDGE / "rounds").rglob("*.bin")}
    recorded = (tmp_path / KNOWLEDGE / "rounds").rglob("*.bin")
    assert files == {p.relative_to(tmp_path): p.read_bytes() for p in recorded}
    assert len(files) == 3 * 10 + 2
    assert not (served / KNOWLEDGE / "models").exists()


def test_an_audit_of_a_coordinator_states_what_it_cannot_know(served: Path) -> None:
    done = audit(served)
    assert done.returncode == 0, done.stderr
    assert "level 0: this run was recorded by a coordinator" in done.stdout
    result = json.loads((served / "audit" / "audit.json").read_text())
    assert result["level"] == 0
    assert result["exposure"]["ledger"]["raw_records_sent"] == 40
    assert "no private data" in result["exposure"]["labels"]["reason"]
    shares = result["exposure"]["labels"]["estimated_shares"]
    assert [row.index(max(row)) for row in shares] == list(range(10))  # one class per client, inferred from its weights
    assert "lira" in result["not_tested"][0]
    assert "a coordinator has neither" in result["not_tested"][0]
    page = (served / "audit" / "audit.html").read_text()
    assert "The accuracy of the estimate is not known" in page


def test_attacks_that_need_private_data_are_refused(served: Path) -> None:
    recording = open_recording(served)
    with pytest.raises(UserError, match=r"--attack lira needs .* recorded by a coordinator"):
        restrict_to_recording(recording, parse_request(1, ["lira"], [], []))
    with pytest.raises(UserError, match=r"--level 1 needs .* use --level 0"):
        restrict_to_recording(recording, parse_request(1, [], [], []))
    assert restrict_to_recording(recording, parse_request(None, [], [], [])).attacks == tuple(DISCLOSURE)
    assert restrict_to_recording(recording, parse_request(None, ["ledger"], [], [])).level == 0
    with pytest.raises(UserError, match=r"--level 2 needs .* use --level 0"):
        restrict_to_recording(recording, parse_request(2, [], [], []))
    result = {"exposure": {"labels": {"reason": "none"}}, "membership": []}
    with pytest.raises(UserError, match="measures presence_auc"):
        largest_found(parse_limit("presence_auc>0.5"), result)


def test_a_repeated_round_replaces_the_recorded_one(tmp_path: Path) -> None:
    plan = RoundPlan(1, np.arange(3))
    row = Knowledge(np.array([1]), np.full((1, 10), 0.1, np.float32), np.ones(1, np.float32))
    for clients in ((0, 1, 2), (0, 2)):
        exchange = Exchange([Report(c, 1, row) for c in clients], 0, 0)
        record_messages(tmp_path, "float16", RoundResult(plan, exchange, Progress(2, row)))
    assert sorted(p.name for p in (tmp_path / "rounds" / "0001" / "reports").iterdir()) == ["0.bin", "2.bin"]
    assert (tmp_path / "rounds" / "0002" / "teacher.bin").is_file()
