"""The agent: the same teachers as in a simulation; its behaviour on invalid tasks, full disks and its own restart."""

import dataclasses
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from edgefd_client.agent import method_of, run_agent
from edgefd_client.link import Membership, Task
from edgefd_client.state import exclusive_lock, load_state

from edgefd.core.errors import RunError, UserError
from edgefd.core.knowledge import Knowledge
from edgefd.defences.apply import defence_of
from edgefd.federation.report import Report
from edgefd.methods import get_method
from edgefd.rounds.loop import run_rounds
from edgefd.rounds.validation import expected_report
from edgefd.runs.execute import make_server
from edgefd.runs.terms import terms_of
from edgefd.simulation.engine import open_transport
from edgefd.wire.bundle_reader import Bundle
from edgefd.wire.messages import decode_report
from tests.support.federations import (
    ExportedFederation,
    export_federation,
    ignore_line,
    round_plan,
    same,
    small,
    undisturbed,
)
from tests.support.scripted_link import ScriptedLink


def scripted(
    federation: ExportedFederation,
    tasks: Sequence[Task] = (),
    run: str = "test",
    interrupt: bool = False,
    **training: Any,
) -> ScriptedLink:
    """Return a scripted link to a run of the federation, with some training settings changed."""
    terms = terms_of(federation.prepared.config, federation.prepared.federation)
    terms = dataclasses.replace(terms, training=dataclasses.replace(terms.training, **training))
    return ScriptedLink(list(tasks), Membership(run, terms), interrupt=interrupt)


def teacher_of(federation: ExportedFederation, width: int = 10) -> Knowledge:
    n = len(federation.prepared.federation.proxy)
    return Knowledge(np.arange(n), np.full((n, width), 1 / width, np.float32), np.ones(n, np.float32))


def run_device(federation: ExportedFederation, link: ScriptedLink, state: Path, client: int = 0) -> None:
    run_agent(link, federation.read(), federation.client(client), state, ignore_line)


def check_equal_to_simulation(federation: ExportedFederation, folder: Path) -> None:
    """Run the federation in a simulation and with devices over a folder, and compare the teachers bit by bit."""
    config, clients = federation.prepared.config, federation.prepared.federation
    transport = open_transport(config, clients)
    transport.start()
    simulated = [r.teacher for r in run_rounds(make_server(config, clients), transport)]
    assert same(undisturbed(federation, folder), [teacher for teacher in simulated if teacher is not None])


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_devices_train_batch_normalisation_and_dropout_as_the_simulation(tmp_path: Path, optimizer: str) -> None:
    sections = {"model": {"name": "tests.support.own_models:Normalised"}}
    config = small(rounds=3, sections=sections, optimizer=optimizer, batch_size=59)
    check_equal_to_simulation(export_federation(config, tmp_path / "export"), tmp_path / "exchange")


def test_devices_over_a_folder_have_the_teachers_of_the_simulation(
    federation: ExportedFederation, tmp_path: Path
) -> None:
    check_equal_to_simulation(federation, tmp_path)


OTHER_ROWS = ("kt_pfl", "comet", "scarlet", "weighted_fd", "fccl", "fedmd_published")


@pytest.mark.parametrize("method", ["fkd", *(pytest.param(m, marks=pytest.mark.slow) for m in OTHER_ROWS)])
def test_devices_equal_the_simulation_with_methods_that_exchange_other_rows(method: str, tmp_path: Path) -> None:
    check_equal_to_simulation(export_federation(small(method=method), tmp_path / "federation"), tmp_path)


@pytest.mark.parametrize(
    "sections",
    [
        {"selection": {"name": "ddk", "budget": 0.5}},
        {"selection": {"name": "rad", "budget": 0.5}, "distillation": {"loss": "mixed"}},
    ],
    ids=["server", "client"],
)
def test_devices_equal_the_simulation_with_a_selection_of_rows(sections: dict[str, Any], tmp_path: Path) -> None:
    check_equal_to_simulation(export_federation(small(sections=sections), tmp_path / "federation"), tmp_path)


def test_devices_equal_the_simulation_with_an_entropy_coded_codec(tmp_path: Path) -> None:
    coded = small(sections={"codec": {"name": "simplex15"}})
    check_equal_to_simulation(export_federation(coded, tmp_path / "federation"), tmp_path)


def test_devices_equal_the_simulation_if_only_changes_are_sent(tmp_path: Path) -> None:
    changes = small(rounds=3, sections={"codec": {"name": "simplex15", "changes_above": 0.1}})
    check_equal_to_simulation(export_federation(changes, tmp_path / "federation"), tmp_path)


def test_devices_equal_the_simulation_if_half_of_them_take_part_in_each_round(tmp_path: Path) -> None:
    half = small(4, rounds=4, sections={"coordinator": {"fraction": 0.5}}, catch_up=3)
    check_equal_to_simulation(export_federation(half, tmp_path / "federation"), tmp_path)


def test_devices_equal_the_simulation_if_patience_ends_the_run(tmp_path: Path) -> None:
    config = small(rounds=9, sections={"run": {"learner": "onnx", "workers": 0, "patience": 1}})
    federation = export_federation(config, tmp_path / "federation")
    check_equal_to_simulation(federation, tmp_path)
    assert len(undisturbed(federation, tmp_path / "again")) < 9


def test_devices_equal_the_simulation_with_a_defence(tmp_path: Path) -> None:
    defended = dataclasses.replace(small(), defence=defence_of({"name": "top_k", "k": 2, "calibrate": True}))
    check_equal_to_simulation(export_federation(defended, tmp_path / "federation"), tmp_path)


def private(tmp_path: Path, **defence: Any) -> ExportedFederation:
    """Export a federation whose defence claims an epsilon."""
    sections = {"proxy": {"source": "public"}, "defence": defence}
    config = small(method="fedmd", sections=sections, private_rows_per_batch=0, adjusted_steps=0)
    return export_federation(config, tmp_path / "federation")


def test_devices_equal_the_simulation_with_a_vote_almost_without_noise(tmp_path: Path) -> None:
    """The noise itself differs: nobody knows it. One shard has no random teachers."""
    check_equal_to_simulation(private(tmp_path, name="pate", shards=1, epsilon=1e7), tmp_path)


def test_a_device_keeps_the_key_of_its_noise_and_sends_no_metrics(tmp_path: Path) -> None:
    federation = private(tmp_path, name="pate")
    digest, labels = federation.read().digest, []
    for folder in ("a", "b"):
        link = scripted(federation, [Task(round_plan(federation, 0), None)])
        run_device(federation, link, tmp_path / folder)
        again = Task(round_plan(federation, 1), teacher_of(federation))
        run_device(federation, resumed := scripted(federation, [again]), tmp_path / folder)  # another process
        sent = [reported(federation, data, round) for round, data in (*link.submitted, *resumed.submitted)]
        assert sent[0].knowledge.equals(sent[1].knowledge)
        assert [report.metrics for report in sent] == [{}, {}]
        labels.append(sent[0].knowledge.values)
        state = load_state(tmp_path / folder, digest)
        assert state is not None
        assert state.budget_spent == 1
    assert not np.array_equal(*labels)
    data = federation.client(0)
    other = dataclasses.replace(data, x=data.x[:-1], y=data.y[:-1])
    with pytest.raises(UserError, match="the private data changed after their labels were sent"):
        run_agent(scripted(federation), federation.read(), other, tmp_path / "a", ignore_line)
    link = scripted(federation)
    link.membership = dataclasses.replace(link.membership, run="next")
    with pytest.raises(UserError, match="run next would spend privacy budget again, which run test has spent"):
        run_agent(link, federation.read(), data, tmp_path / "a", ignore_line)


def test_a_device_does_not_answer_if_its_privacy_budget_is_spent(tmp_path: Path) -> None:
    federation = private(tmp_path, name="noise")  # for two rounds
    tasks = [Task(round_plan(federation, 0), None)]
    tasks += [Task(round_plan(federation, round, closing=False), teacher_of(federation)) for round in (1, 2)]
    link = scripted(federation, tasks)
    with pytest.raises(RunError, match="the privacy budget of this run is spent, so round 2 gets no answer"):
        run_device(federation, link, tmp_path / "state")
    assert [round for round, _ in link.submitted] == [0, 1]


def reported(federation: ExportedFederation, data: bytes, round: int) -> Report:
    config, clients = federation.prepared.config, federation.prepared.federation
    return decode_report(data, expected_report(config.method, terms_of(config, clients), round_plan(federation, round)))


@pytest.mark.parametrize("method", ["fedavg", "feded", "indlearn", "centralised"])
def test_export_refuses_a_method_that_devices_cannot_run(method: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=f"method {method} .* it runs in simulations"):
        export_federation(small(method=method), tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_saved_report_is_submitted_again_with_the_same_bytes(federation: ExportedFederation, tmp_path: Path) -> None:
    tasks = [Task(round_plan(federation, 0), None)]
    with pytest.raises(KeyboardInterrupt):
        run_device(federation, scripted(federation, tasks, interrupt=True), tmp_path)
    saved = load_state(tmp_path, federation.read().digest)
    assert saved is not None
    link = scripted(federation, tasks)
    run_device(federation, link, tmp_path)
    assert link.submitted == [(0, saved.report)]
    after = load_state(tmp_path, federation.read().digest)
    assert after is not None
    assert all(np.array_equal(after.learner[name], saved.learner[name]) for name in saved.learner)


def test_acceptance_weights_are_computed_once_and_again_for_other_data(
    federation: ExportedFederation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = 0
    method = get_method("edgefd")

    def counted(*arguments: Any) -> Any:
        nonlocal calls
        calls += 1
        return method.filter(*arguments)

    monkeypatch.setattr("edgefd.methods._deployable.get_method", lambda _: dataclasses.replace(method, filter=counted))
    run_device(federation, scripted(federation), tmp_path)
    run_device(federation, scripted(federation), tmp_path)
    assert calls == 1
    data, lines = federation.client(0), list[str]()
    fewer = dataclasses.replace(data, x=data.x[:-1], y=data.y[:-1])
    run_agent(scripted(federation), federation.read(), fewer, tmp_path, lines.append)
    assert calls == 1
    assert re.search(r"the data have moved by 0\.0\d\d, less than 0\.05: its filter stays", lines[0])
    one_class = data.y == data.y[0]
    other = dataclasses.replace(data, x=data.x[one_class], y=data.y[one_class])
    run_agent(scripted(federation), federation.read(), other, tmp_path, lines.append)
    assert calls == 2
    assert any(re.search(r"moved by 1\.000, 0\.05 or more: .* accepts \d+ proxy rows instead of \d+", x) for x in lines)


@pytest.mark.parametrize(
    ("task", "training", "message"),
    [
        (lambda f: Task(round_plan(f, ids=np.array([0, 10**6])), None), {}, "proxy row 1000000"),
        (lambda f: Task(round_plan(f, 1), teacher_of(f, width=9)), {}, "9 values per row"),
        (lambda f: Task(round_plan(f, 1), Knowledge(np.array([10**6]), *_one_row())), {}, "row 1000000"),
        (lambda f: Task(round_plan(f, 1), _scaled(teacher_of(f), 600_000)), {}, "soft labels are from 0 to 1"),
        (lambda f: Task(round_plan(f, 1), _scaled(teacher_of(f), 0)), {}, "a row sums to 0"),
        (lambda f: Task(round_plan(f, 1), None), {}, "every round but the first"),
        (lambda f: Task(round_plan(f), teacher_of(f)), {}, "and the first must have none"),
        (lambda f: Task(round_plan(f), None), {"lr": 1e30}, "not finite"),
    ],
    ids=["ids", "width", "teacher_ids", "60000", "zeros", "no_teacher", "early_teacher", "lr"],
)
def test_a_task_that_cannot_be_run_leaves_the_state_unchanged(
    federation: ExportedFederation,
    tmp_path: Path,
    task: Callable[[ExportedFederation], Task],
    training: dict[str, float],
    message: str,
) -> None:
    run_device(federation, scripted(federation), tmp_path)
    files = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    link = scripted(federation, [task(federation)], **training)
    with pytest.raises(RunError, match=message):
        run_device(federation, link, tmp_path)
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == files
    assert not link.submitted


def _scaled(teacher: Knowledge, factor: float) -> Knowledge:
    return dataclasses.replace(teacher, values=teacher.values * np.float32(factor))


def _one_row() -> tuple[np.ndarray, np.ndarray]:
    return np.full((1, 10), 0.1, np.float32), np.ones(1, np.float32)


def test_after_an_error_of_a_full_disk_the_round_is_repeated_with_the_same_report(
    federation: ExportedFederation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected, link = (scripted(federation, [Task(round_plan(federation), None)]) for _ in range(2))
    run_device(federation, expected, tmp_path / "enough")
    run_device(federation, scripted(federation), tmp_path / "full")

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr("os.fsync", full)
        with pytest.raises(RunError, match="No space left"):
            run_device(federation, link, tmp_path / "full")
    assert not link.submitted
    run_device(federation, link, tmp_path / "full")
    assert link.submitted == expected.submitted


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """Mount a file system of 4 MB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", disk], capture_output=True).returncode:
        pytest.skip("only root may mount a tmpfs")
    yield disk
    subprocess.run(["umount", disk], check=True)


def test_a_really_full_disk_leaves_the_saved_state_unchanged(federation: ExportedFederation, small_disk: Path) -> None:
    run_device(federation, scripted(federation), small_disk)
    free = shutil.disk_usage(small_disk).free
    (small_disk / "others").write_bytes(bytes(free - 2**15))
    before = (small_disk / "state.a").read_bytes()
    with pytest.raises(RunError, match="No space left"):
        run_device(federation, scripted(federation, [Task(round_plan(federation), None)]), small_disk)
    assert sorted(file.name for file in small_disk.iterdir()) == ["lock", "others", "state.a"]
    assert (small_disk / "state.a").read_bytes() == before


def test_the_model_goes_on_in_the_next_run_from_its_own_parameters(
    federation: ExportedFederation, tmp_path: Path
) -> None:
    run_device(federation, scripted(federation, [Task(round_plan(federation), None)]), tmp_path)
    trained, lines = load_state(tmp_path), list[str]()
    run_agent(scripted(federation, run="next"), federation.read(), federation.client(0), tmp_path, lines.append)
    begun = load_state(tmp_path)
    assert lines[0] == "run next has the graphs of run test before: the model goes on from its own parameters"
    assert trained is not None
    assert begun is not None
    assert (begun.run, begun.round, begun.report) == ("next", -1, b"")
    for name, values in begun.learner.items():
        expected = trained.learner[name] if name.startswith("model/") else np.zeros_like(values)
        assert np.array_equal(values, expected), name
    assert np.array_equal(begun.acceptance, trained.acceptance)


def test_the_model_starts_anew_with_other_graphs(federation: ExportedFederation, tmp_path: Path) -> None:
    run_device(federation, scripted(federation, [Task(round_plan(federation), None)]), tmp_path)
    bundle, lines = federation.read(), list[str]()
    other = dataclasses.replace(bundle, digest="f" * 64, parsed=dataclasses.replace(bundle.parsed, digest="0" * 64))
    run_agent(scripted(federation, run="next"), other, federation.client(0), tmp_path, lines.append)
    begun = load_state(tmp_path, "f" * 64)
    assert lines[0] == "run next has other graphs than run test before: the model starts anew"
    assert begun is not None
    assert all(np.array_equal(values, bundle.init[name]) for name, values in begun.learner.items())


def test_the_state_of_another_client_or_process_is_refused(federation: ExportedFederation, tmp_path: Path) -> None:
    run_device(federation, scripted(federation), tmp_path)
    with pytest.raises(UserError, match="this is client 1"):
        run_device(federation, scripted(federation), tmp_path, client=1)
    with exclusive_lock(tmp_path), pytest.raises(UserError, match="another edgefd-client"):
        run_device(federation, scripted(federation), tmp_path)


@pytest.mark.parametrize(
    ("terms", "message"),
    [
        ({"method": "os:system"}, "devices run only the methods of edgefd"),
        ({"method_config": {"n_clusters": "9"}}, "n_clusters cannot be '9'"),
        ({"method_config": {"weighting": "firm"}}, "weighting cannot be 'firm'"),
        ({"method_config": {"quantile": 2.0}}, "quantile must be"),
        ({"method_config": {"evil": 1}}, "no setting 'evil'"),
        ({"defence": {"name": "evil"}}, "unknown defence 'evil'"),
        ({"defence": {"name": "noise", "seed": 1}}, "could subtract the noise"),
    ],
)
def test_a_bundle_with_a_foreign_method_or_an_invalid_setting_is_refused(
    federation: ExportedFederation, terms: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        method_of(with_terms(federation.read(), **terms))


def with_terms(bundle: Bundle, **changes: Any) -> Bundle:
    terms = dataclasses.replace(bundle.manifest.terms, **changes)
    return dataclasses.replace(bundle, manifest=dataclasses.replace(bundle.manifest, terms=terms))
