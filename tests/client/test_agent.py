"""The agent: the same teachers as a simulation, and what it does with bad input, refusals and its own restart."""

import dataclasses
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from edgefd_client.agent import method_of, run_agent
from edgefd_client.cli import main
from edgefd_client.folder_link import join
from edgefd_client.link import Task
from edgefd_client.sources import NpzSource, client_data
from edgefd_client.state import exclusive_lock, load_state
from edgefd_server.folder_link.transport import check_new

from edgefd.core.errors import RunError, UserError
from edgefd.core.files import put
from edgefd.core.knowledge import Knowledge
from edgefd.defences.apply import defence_of
from edgefd.federation.plan import RoundPlan
from edgefd.federation.report import Report
from edgefd.methods import get_method
from edgefd.rounds.loop import run_rounds
from edgefd.rounds.participation import plans
from edgefd.runs.execute import make_plans, make_server_state
from edgefd.simulation.engine import open_transport
from edgefd.wire import messages as wire
from edgefd.wire.exchange_folder import COMPLETE, PLAN, report_file, round_folder
from tests.support.federations import Dealt, coordinate, dealt, quiet, same, small, undisturbed
from tests.support.waiting import until

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Dealt:
    return dealt(small(), tmp_path_factory.mktemp("federation"))


@dataclass
class Given:
    """A link that hands out what it is given."""

    tasks: list[Task]
    run: str = "test"
    submitted: list[tuple[int, bytes]] = field(default_factory=list)
    lose: bool = False
    """the device dies before it submits"""

    def next_task(self, after: int) -> Task | None:
        return next((t for t in self.tasks if t.plan.round > after), None)

    def submit(self, report: bytes, round: int) -> None:
        if self.lose:
            raise KeyboardInterrupt
        self.submitted.append((round, report))


def plan(made: Dealt, round: int = 0, **changes: Any) -> RoundPlan:
    config = made.prepared.config
    found = list(plans(config.seed, np.arange(len(made.prepared.federation.proxy)), config.train))[round]
    return dataclasses.replace(found, **changes)


def rows(made: Dealt, width: int = 10) -> Knowledge:
    n = len(made.prepared.federation.proxy)
    return Knowledge(np.arange(n), np.full((n, width), 1 / width, np.float32), np.ones(n, np.float32))


def agent(made: Dealt, link: Any, state: Path, client: int = 0) -> None:
    run_agent(link, made.read(), made.client(client), state, quiet)


def test_devices_over_a_folder_have_the_teachers_of_the_simulation(made: Dealt, tmp_path: Path) -> None:
    config, federation = made.prepared.config, made.prepared.federation
    transport = open_transport(config, federation)
    transport.start()
    todo = make_plans(config, federation)
    server = make_server_state(config, federation)
    simulated = [r.teacher for r in run_rounds(config.method, config.method_config, transport, todo, server=server)]
    assert same(undisturbed(made, tmp_path), [t for t in simulated if t is not None])


@pytest.mark.parametrize(
    "method", ["fkd", *(pytest.param(m, marks=pytest.mark.slow) for m in ("kt_pfl", "comet", "scarlet", "weighted_fd"))]
)
def test_so_do_methods_that_exchange_other_rows(method: str, tmp_path: Path) -> None:
    others = dealt(small(method=method), tmp_path / "federation")
    test_devices_over_a_folder_have_the_teachers_of_the_simulation(others, tmp_path)


@pytest.mark.parametrize(
    "sections",
    [
        {"selection": {"name": "ddk", "budget": 0.5}},
        {"selection": {"name": "rad", "budget": 0.5}, "distillation": {"loss": "mixed"}},
    ],
    ids=["server", "client"],
)
def test_so_do_federations_that_choose_rows(sections: dict[str, Any], tmp_path: Path) -> None:
    choosing = dealt(small(sections=sections), tmp_path / "federation")
    test_devices_over_a_folder_have_the_teachers_of_the_simulation(choosing, tmp_path)


def test_devices_defend_themselves(tmp_path: Path) -> None:
    defended = dataclasses.replace(small(), defence=defence_of({"name": "top_k", "k": 2, "calibrate": True}))
    test_devices_over_a_folder_have_the_teachers_of_the_simulation(dealt(defended, tmp_path / "federation"), tmp_path)


@pytest.mark.parametrize("method", ["fedavg", "feded"])
def test_what_devices_cannot_run_is_refused_at_export(method: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=f"method {method} .* it runs in simulations"):
        dealt(small(method=method), tmp_path)
    assert not list(tmp_path.iterdir())


def test_dealt_data_are_the_clients_own(made: Dealt) -> None:
    for expected in made.prepared.federation.clients:
        found = made.client(expected.client)
        for name in ("x", "y", "x_heldout", "y_heldout", "owned", "owned_y"):
            assert np.array_equal(getattr(found, name), getattr(expected, name)), name


def test_what_was_trained_is_submitted_again_with_the_same_bytes(made: Dealt, tmp_path: Path) -> None:
    tasks = [Task(plan(made, 0), None)]
    with pytest.raises(KeyboardInterrupt):
        agent(made, Given(tasks, lose=True), tmp_path)
    saved = load_state(tmp_path, made.read().digest)
    assert saved is not None
    link = Given(tasks)
    agent(made, link, tmp_path)
    assert link.submitted == [(0, saved.report)]
    after = load_state(tmp_path, made.read().digest)
    assert after is not None
    assert all(np.array_equal(after.learner[n], saved.learner[n]) for n in saved.learner)


def test_claims_are_computed_once_and_anew_for_other_data(
    made: Dealt, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = 0
    method = get_method("edgefd")

    def counted(*arguments: Any) -> Any:
        nonlocal calls
        calls += 1
        return method.client_filter(*arguments)

    monkeypatch.setattr("edgefd_client.agent.get_method", lambda _: dataclasses.replace(method, client_filter=counted))
    agent(made, Given([]), tmp_path)
    agent(made, Given([]), tmp_path)
    assert calls == 1
    fewer = made.client(0)
    fewer = dataclasses.replace(fewer, x=fewer.x[:-1], y=fewer.y[:-1])
    run_agent(Given([]), made.read(), fewer, tmp_path, quiet)
    assert calls == 2


@pytest.mark.parametrize(
    ("task", "says"),
    [
        (lambda m: Task(plan(m, ids=np.array([0, 10**6])), None), "proxy row 1000000"),
        (lambda m: Task(plan(m, 1), rows(m, width=9)), "9 values per row"),
        (lambda m: Task(plan(m, 1), Knowledge(np.array([10**6]), *_one())), "proxy row 1000000"),
        (lambda m: Task(plan(m, 1), None), "every round but the first"),
        (lambda m: Task(plan(m, seed=7), None), "seed 7"),
        (lambda m: Task(plan(m, training=dataclasses.replace(plan(m).training, batch_size=999)), None), "999"),
        (lambda m: Task(plan(m, training=dataclasses.replace(plan(m).training, optimizer="sgd")), None), "sgd"),
        (lambda m: Task(plan(m, training=dataclasses.replace(plan(m).training, lr=1e30)), None), "not finite"),
    ],
)
def test_a_task_that_cannot_be_done_leaves_the_state(
    made: Dealt, tmp_path: Path, task: Callable[[Dealt], Task], says: str
) -> None:
    agent(made, Given([]), tmp_path)
    files = {f.name: f.read_bytes() for f in tmp_path.iterdir()}
    link = Given([task(made)])
    with pytest.raises(RunError, match=says):
        agent(made, link, tmp_path)
    assert {f.name: f.read_bytes() for f in tmp_path.iterdir()} == files
    assert not link.submitted


def _one() -> tuple[np.ndarray, np.ndarray]:
    return np.full((1, 10), 0.1, np.float32), np.ones(1, np.float32)


def test_a_full_disk_leaves_the_state_and_the_round_is_done_again(
    made: Dealt, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected, link = Given([Task(plan(made), None)]), Given([Task(plan(made), None)])
    agent(made, expected, tmp_path / "roomy")
    agent(made, Given([]), tmp_path / "full")

    def full(handle: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr("edgefd_client.state.os.fsync", full)
        with pytest.raises(RunError, match="No space left"):
            agent(made, link, tmp_path / "full")
    assert not link.submitted
    agent(made, link, tmp_path / "full")
    assert link.submitted == expected.submitted


@pytest.fixture
def little_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 4 MB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", disk], capture_output=True).returncode:
        pytest.skip("only root may mount a tmpfs")
    yield disk
    subprocess.run(["umount", disk], check=True)


def test_a_disk_that_is_full_for_real(made: Dealt, little_disk: Path) -> None:
    agent(made, Given([]), little_disk)
    (little_disk / "others").write_bytes(bytes(free_bytes(little_disk) - 2**15))
    before = (little_disk / "state.a").read_bytes()
    with pytest.raises(RunError, match="No space left"):
        agent(made, Given([Task(plan(made), None)]), little_disk)
    assert sorted(f.name for f in little_disk.iterdir()) == ["lock", "others", "state.a"]
    assert (little_disk / "state.a").read_bytes() == before


def free_bytes(folder: Path) -> int:
    return shutil.disk_usage(folder).free


def test_state_of_another_run_client_or_process_is_refused(made: Dealt, tmp_path: Path) -> None:
    agent(made, Given([]), tmp_path)
    with pytest.raises(UserError, match="run other"):
        agent(made, Given([], run="other"), tmp_path)
    with pytest.raises(UserError, match="this is client 1"):
        agent(made, Given([]), tmp_path, client=1)
    with exclusive_lock(tmp_path), pytest.raises(UserError, match="another edgefd-client"):
        agent(made, Given([]), tmp_path)


def test_a_foreign_method_and_a_bad_setting_are_refused(made: Dealt) -> None:
    bundle = made.read()

    def asks(**terms: Any) -> Any:
        changed = dataclasses.replace(bundle.manifest.terms, **terms)
        return dataclasses.replace(bundle, manifest=dataclasses.replace(bundle.manifest, terms=changed))

    for terms, says in (
        ({"method": "os:system"}, "methods of edgefd only"),
        ({"method_config": {"n_clusters": "9"}}, "n_clusters cannot be '9'"),
        ({"method_config": {"weighting": "firm"}}, "weighting cannot be 'firm'"),
        ({"method_config": {"quantile": 2.0}}, "quantile must be"),
        ({"method_config": {"evil": 1}}, "no setting 'evil'"),
        ({"defence": {"name": "evil"}}, "unknown defence 'evil'"),
        ({"defence": {"name": "noise"}}, "noise is drawn from the run's seed"),
    ):
        with pytest.raises(UserError, match=says):
            method_of(asks(**terms))


def report(client: int = 0, round: int = 0, ids: tuple[int, ...] = (0, 2), width: int = 10) -> bytes:
    n = len(ids)
    knowledge = Knowledge(np.array(ids), np.full((n, width), 1 / width, np.float32), np.ones(n, np.float32))
    return wire.encode_report(Report(client, round, knowledge), "float32")


@pytest.mark.parametrize(
    ("bad", "says"),
    [
        (b"\xff\xff", "not an edgefd.v1.Report"),
        (report(client=1), "client 1"),
        (report(round=4), "round 4 in round 0"),
        (report(ids=(0, 10**6)), "row 1000000"),
        (report(width=9), "9 values per row"),
        (bytes(2**20), "larger than"),
    ],
)
def test_the_coordinator_refuses_a_bad_report_and_takes_a_good_one(
    made: Dealt, tmp_path: Path, bad: bytes, says: str
) -> None:
    transport = made.open(tmp_path, timeout=20)
    found: list[Any] = []
    thread = threading.Thread(target=lambda: found.append(transport.exchange(plan(made), None)), daemon=True)
    thread.start()
    until(lambda: (round_folder(tmp_path, 0) / PLAN).exists(), 20)
    for client in (1, 2):
        put(report_file(tmp_path, 0, client), report(client))
    first = report_file(tmp_path, 0, 0)
    put(first, bad)
    refused = first.with_suffix(".refused")
    until(refused.exists, 20)
    assert says in refused.read_text()
    assert not found
    link = join(tmp_path, 0, made.read().manifest.terms)
    with pytest.raises(RunError, match="refused the report of round 0"):
        link.next_task(0)
    with pytest.raises(RunError, match="another report of client 0"):
        link.submit(report(), 0)
    put(first, report())
    thread.join(timeout=20)
    assert sorted(r.client for r in found[0].reports) == [0, 1, 2]
    assert not refused.exists()


def test_the_coordinator_does_not_wait_for_ever(made: Dealt, tmp_path: Path) -> None:
    transport = made.open(tmp_path, timeout=0.3)
    put(report_file(tmp_path, 0, 0), b"?")
    (round_folder(tmp_path, 0) / "reports" / "1.bin").mkdir()
    with pytest.raises(RunError, match=r"0 of 3 reports.*no report of client 2; refused the report of client 0, 1"):
        transport.exchange(plan(made), None)
    with pytest.raises(UserError, match="already holds an exchange"):
        check_new(tmp_path)


def test_a_link_says_why_there_is_no_task(made: Dealt, tmp_path: Path) -> None:
    transport = made.open(tmp_path)
    terms = made.read().manifest.terms
    with pytest.raises(UserError, match="from 0 to 2"):
        join(tmp_path, 3, terms)
    with pytest.raises(UserError, match=r"\(codec, seed differ\)"):
        join(tmp_path, 0, dataclasses.replace(terms, seed=1, codec="uint8"))
    link = join(tmp_path, 0, terms)
    put(round_folder(tmp_path, 0) / PLAN, b"\xff")
    with pytest.raises(RunError, match="cannot read what the coordinator sent"):
        link.next_task(-1)
    put(round_folder(tmp_path, 0) / PLAN, wire.encode_plan(plan(made, 1)))
    with pytest.raises(RunError, match="a plan of round 1"):
        link.next_task(-1)
    transport.finish("the disk is full")
    with pytest.raises(RunError, match="stopped: the disk is full"):
        link.next_task(-1)
    transport.finish(COMPLETE)
    assert link.next_task(-1) is None


@pytest.mark.parametrize(
    ("arrays", "says"),
    [
        ({"x_heldout": np.zeros((1, 1, 28, 28))}, "both x_heldout and y_heldout"),
        ({"y": np.full(4, 10)}, "labels must be"),
        ({"x": np.zeros((4, 3))}, "samples of shape"),
        ({"owned": np.array([10**6])}, "owned must be"),
        ({"owned": np.array([1, 2]), "owned_y": np.array([1])}, "labels must be one each: 2"),
        ({"owned": np.array([1]), "owned_y": np.array([10])}, "labels must be whole"),
        ({"owned_y": np.array([1])}, "has owned_y, labels of contributed rows, but not owned"),
        ({"x": np.zeros((1, 1, 28, 28)), "y": np.zeros(1)}, "2 or more"),
        ({"x_heldout": np.full((1, 1, 28, 28), np.nan), "y_heldout": np.zeros(1)}, "finite"),
    ],
)
def test_private_data_that_do_not_fit_are_refused(
    made: Dealt, tmp_path: Path, arrays: dict[str, np.ndarray], says: str
) -> None:
    good = {"x": np.zeros((4, 1, 28, 28), np.uint8), "y": np.arange(4)}
    np.savez(tmp_path / "d.npz", **(good | arrays))  # type: ignore[arg-type]
    with pytest.raises(UserError, match=says):
        client_data(NpzSource(tmp_path / "d.npz"), made.read(), 0)


def test_what_is_held_out_is_drawn_where_the_data_do_not_say(made: Dealt, tmp_path: Path) -> None:
    x = np.random.default_rng(0).integers(0, 255, (20, 1, 28, 28)).astype(np.uint8)
    np.savez(tmp_path / "d.npz", x=x, y=np.arange(20) % 10)
    data = client_data(NpzSource(tmp_path / "d.npz"), made.read(), 2)
    assert (len(data.x), len(data.x_heldout), len(data.contributed)) == (18, 2, 0)


def test_options_come_from_a_file_too(made: Dealt, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "device.yaml"
    for text, says in (
        ("bundel: x", "did you mean 'bundle'?"),
        ("client: one", "a whole number"),
        ("bundle: 3", "a path"),
        ("bundle: b", "--data, --state must be given"),
        ("- a", "must hold options"),
        ("insecure: 1", "true or false"),
        ("data: d\nstate: s", "--client must be given"),
        ("data: d\nstate: s\nclient: 0", "either --server HOST:PORT or --exchange DIR"),
        ("data: d\nstate: s\nclient: 0\nexchange: e", "--exchange needs --bundle"),
        ("data: d\nstate: s\nclient: 0\nserver: 192.0.2.1:1", "--insecure to have it so"),
        ("data: d\nstate: s\nserver: 192.0.2.1:1\ncerts: nowhere", "certs device"),
    ):
        file.write_text(text + "\n")
        assert refused(["run", "--config", str(file)], capsys, says)
    file.write_text(f"bundle: {made.bundle}\ndata: {tmp_path}/x.txt\nstate: s\nexchange: e\nclient: 0\n")
    assert refused(["run", "--config", str(file)], capsys, "x.txt must be an .npz")
    assert refused(["run", "--config", str(file), "--client", "-1"], capsys, "--client is 0, 1")


def refused(arguments: list[str], capsys: pytest.CaptureFixture[str], says: str) -> bool:
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    err = capsys.readouterr().err
    assert (stop.value.code, err.count("\n")) == (2, 1)
    assert says in err
    return True


WITHOUT = """
import sys

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in "torch flwr sklearn scipy pydantic typer rich pandas".split():
            raise ImportError(f"{name} must not be imported on a device")

sys.meta_path.insert(0, Refuse())
from edgefd_client.cli import main
main(sys.argv[1:])
"""


def start(made: Dealt, folder: Path, client: int) -> subprocess.Popen[str]:
    arguments = ["run", "--bundle", str(made.bundle), "--data", str(made.data[client]), "--client", str(client)]
    arguments += ["--state", str(folder / f"s{client}"), "--exchange", str(folder / "x")]
    path = os.pathsep.join(str(ROOT / part) for part in ("", "proto", "client"))
    pipe = subprocess.PIPE
    command = [sys.executable, "-c", WITHOUT, *arguments]
    return subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, env={"PYTHONPATH": path})


def test_the_command_needs_no_heavy_package(made: Dealt, tmp_path: Path) -> None:
    transport = made.open(tmp_path / "x")
    processes = [start(made, tmp_path, i) for i in range(3)]
    try:
        assert len(coordinate(made, transport)) == 3
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
def test_signals_end_it_cleanly(made: Dealt, tmp_path: Path, number: int, code: int) -> None:
    made.open(tmp_path / "x")
    process = start(made, tmp_path, 0)
    try:
        assert process.stdout is not None
        assert process.stdout.readline().startswith("client 0: ")
        process.send_signal(number)
        _, err = process.communicate(timeout=20)
        assert process.returncode == code
        assert err.count("\n") == (code == 130)
    finally:
        process.kill()
