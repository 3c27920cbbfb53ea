"""A hostile coordinator: its graphs return private images from a device that trusts them, and from no other.

docs/reference/threat-model.md says what remains with graphs that a device knows.
"""

import dataclasses
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from edgefd_client.agent import check_trainable, method_of, run_agent
from edgefd_client.cli import main
from edgefd_client.flower_node import node_round
from edgefd_client.grpc_link import MAX_MESSAGE
from edgefd_client.inspect_bundle import describe_bundle
from edgefd_client.link import Membership, Task
from edgefd_client.sources import NpzSource, client_data, read_samples
from edgefd_client.trust import read_trusted_bundle

from edgefd.core.errors import UserError
from edgefd.federation.plan import RoundPlan
from edgefd.rounds.validation import expected_report, expected_task
from edgefd.wire.bundle_reader import Bundle, read_bundle
from edgefd.wire.expected import UnexpectedContent
from edgefd.wire.messages import decode_report
from tests.support.bundles import edit
from tests.support.federations import ExportedFederation, export_federation, ignore_line, small
from tests.support.hostile_bundles import hostile_bundle, images_told
from tests.support.scripted_link import ScriptedLink

N_IMAGES, LR = 18, 0.5


@pytest.fixture(scope="module")
def honest(tmp_path_factory: pytest.TempPathFactory) -> ExportedFederation:
    config = small(method="fedmd", local_steps=1, adjusted_steps=0, augment_shift=0, optimizer="sgd", lr=LR)
    return export_federation(config, tmp_path_factory.mktemp("honest"))


@pytest.fixture(scope="module", params=[False, True], ids=["stores its batch", "takes its batch for the gradient"])
def hostile(
    request: pytest.FixtureRequest, honest: ExportedFederation, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    out = tmp_path_factory.mktemp("hostile") / "b"
    return hostile_bundle(honest.bundle, out, N_IMAGES, as_gradient=request.param, lr=LR)


def one_report(bundle: Bundle, data: Path, state: Path) -> np.ndarray:
    """Return the soft labels that a device sends in its first round."""
    plan, terms = RoundPlan(0, np.arange(len(bundle.proxy))), bundle.manifest.terms
    link = ScriptedLink([Task(plan, None)], Membership("r", terms))
    run_agent(link, bundle, client_data(read_samples(NpzSource(data), bundle), bundle, 0), state, ignore_line)
    expected = expected_report(method_of(bundle)[0], terms, plan)
    values: np.ndarray = decode_report(link.submitted[0][1], expected).knowledge.values
    return values


def test_private_images_come_out_of_a_device_whose_user_trusts_hostile_graphs(
    hostile: Path, honest: ExportedFederation, tmp_path: Path
) -> None:
    bundle = read_trusted_bundle(hostile, read_bundle(hostile).parsed.digest)
    told = images_told(one_report(bundle, honest.data[0], tmp_path), N_IMAGES, 784)
    mean, std = bundle.manifest.scale
    images = {image.astype(np.uint8).tobytes() for image in np.rint(told * std + mean)}
    with np.load(honest.data[0]) as arrays:
        private = {image.tobytes() for image in arrays["x"]}
    assert len(images & private) == N_IMAGES


@pytest.mark.parametrize("command", ["run", "infer", "doctor"])
def test_a_device_does_not_run_graphs_that_it_does_not_know(
    command: str, hostile: Path, honest: ExportedFederation, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    np.save(tmp_path / "x.npy", np.zeros((1, 1, 28, 28), np.uint8))
    options = {
        "run": ["--data", str(honest.data[0]), "--exchange", str(tmp_path / "x"), "--client", "0"],
        "infer": ["--input", str(tmp_path / "x.npy")],
        "doctor": [],
    }
    state = ["--state", str(tmp_path / "state")] if command != "infer" else []
    with pytest.raises(SystemExit) as stop:
        main([command, "--bundle", str(hostile), *options[command], *state])
    digest, error = read_bundle(hostile).parsed.digest, capsys.readouterr().err
    assert stop.value.code == 2
    assert error.count("\n") == 1
    assert f"edgefd-client inspect-bundle --bundle {hostile}" in error
    assert f"--trust-graph {digest}" in error
    assert not (tmp_path / "state").exists()


def test_a_flower_node_does_not_run_graphs_that_it_does_not_know(
    hostile: Path, honest: ExportedFederation, tmp_path: Path
) -> None:
    settings = {"bundle": str(hostile), "data": str(honest.data[0]), "state": str(tmp_path / "state"), "client": 0}
    with pytest.raises(UserError, match="holds graphs of no named model"):
        node_round({}, settings)
    with pytest.raises(UserError, match="is not the digest of the graphs"):
        node_round({}, settings | {"trust-graph": "0" * 64})
    with pytest.raises(KeyError, match="terms"):  # it trusts the graphs, and reads the message
        node_round({}, settings | {"trust-graph": read_bundle(hostile).parsed.digest})
    assert not (tmp_path / "state").exists()


def test_inspection_shows_an_unknown_graph_and_the_digest_to_trust(
    hostile: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["inspect-bundle", "--bundle", str(hostile)])
    out = capsys.readouterr().out
    assert "UNKNOWN: train_step.onnx, model.onnx can be any program" in out
    assert read_bundle(hostile).parsed.digest in out
    assert "1,568 rows x 177 bits" in out


def test_checks_of_the_dataflow_alone_would_accept_a_step_that_takes_its_batch_for_the_gradient(
    honest: ExportedFederation, tmp_path: Path
) -> None:
    for as_gradient, text in ((False, "1 of 1 parameters do not change by a step"), (True, "all 1 parameters change")):
        folder = hostile_bundle(honest.bundle, tmp_path / str(as_gradient), N_IMAGES, as_gradient, LR)
        assert text in describe_bundle(read_bundle(folder))["dataflow"]
        with pytest.raises(UserError, match="holds graphs of no named model"):
            read_trusted_bundle(folder, None)


def test_a_digest_of_other_graphs_is_refused_also_for_known_graphs(honest: ExportedFederation) -> None:
    assert read_trusted_bundle(honest.bundle, None).parsed.known == "mlp with sgd"
    with pytest.raises(UserError, match="is not the digest of the graphs"):
        read_trusted_bundle(honest.bundle, "0" * 64)


def test_the_terms_of_a_small_step_are_refused(honest: ExportedFederation, tmp_path: Path) -> None:
    """Parameters after a step of one private row hold this row, with any model."""
    bundle = honest.read()
    for changes in ({"batch_size": 4, "private_rows_per_batch": 0}, {"private_rows_per_batch": 3}):
        training = dataclasses.replace(bundle.manifest.terms.training, **changes)
        terms = dataclasses.replace(bundle.manifest.terms, training=training)
        link = ScriptedLink([], Membership("r", terms))
        with pytest.raises(UserError, match="private rows a step"):
            run_agent(link, bundle, honest.client(0), tmp_path, ignore_line)


@pytest.mark.parametrize("method", ["cfd", "fccl", "fedmd_published"])
def test_the_terms_of_a_small_step_are_refused_also_if_only_the_method_asks_for_private_steps(
    method: str, honest: ExportedFederation
) -> None:
    bundle = honest.read()
    training = dataclasses.replace(
        bundle.manifest.terms.training, local_steps=0, private_rows_per_batch=0, adjusted_steps=0, local_batch_size=1
    )
    terms = dataclasses.replace(bundle.manifest.terms, method=method, training=training)
    with pytest.raises(UserError, match="asks for 1 private rows a step"):
        check_trainable(terms, bundle, 100)
    check_trainable(dataclasses.replace(terms, method="fedmd"), bundle, 100)


def test_a_bundle_that_holds_out_all_but_one_sample_is_refused(honest: ExportedFederation, tmp_path: Path) -> None:
    """The coordinator chooses the held-out share too: with one private row left, each step would have this row only."""
    bundle = honest.read()
    manifest = dataclasses.replace(bundle.manifest, heldout=0.999)
    greedy = dataclasses.replace(bundle, manifest=manifest)
    with np.load(honest.data[0]) as arrays:
        np.savez(tmp_path / "d.npz", x=arrays["x"], y=arrays["y"])
    data = client_data(read_samples(NpzSource(tmp_path / "d.npz"), greedy), greedy, 0)
    assert len(data.x) == 1
    training = dataclasses.replace(manifest.terms.training, min_samples=0)
    terms = dataclasses.replace(manifest.terms, training=training)
    link = ScriptedLink([Task(RoundPlan(0, np.arange(8)), None)], Membership("r", terms))
    with pytest.raises(UserError, match="trains on 8 private samples or more, but 1 are left"):
        run_agent(link, greedy, data, tmp_path / "state", ignore_line)
    assert not link.submitted


def test_a_device_with_few_samples_is_a_listener_whose_reports_say_nothing(
    honest: ExportedFederation, tmp_path: Path
) -> None:
    bundle, data, lines = honest.read(), honest.client(0), list[str]()
    few = dataclasses.replace(data, x=data.x[:3], y=data.y[:3])
    plan, terms = RoundPlan(0, np.arange(len(bundle.proxy)), evaluate=True), bundle.manifest.terms
    link = ScriptedLink([Task(plan, None)], Membership("r", terms))
    run_agent(link, bundle, few, tmp_path / "state", lines.append)
    assert any("client 0 is a listener, with 3 samples of" in line for line in lines)
    report = decode_report(link.submitted[0][1], expected_report(method_of(bundle)[0], terms, plan))
    assert (len(report.knowledge), report.metrics) == (0, {})


def test_a_short_last_batch_of_private_rows_is_refused(honest: ExportedFederation) -> None:
    """A method that distils private rows takes as many as there are proxy rows, so its last batch can be short."""
    bundle, n = honest.read(), len(honest.read().proxy)
    training = dataclasses.replace(
        bundle.manifest.terms.training, private_rows_per_batch=0, local_steps=0, adjusted_steps=0
    )
    for size, refused in ((n - 1, True), (n, False), (4, True)):
        sized = dataclasses.replace(training, batch_size=size)
        terms = dataclasses.replace(bundle.manifest.terms, method="fkd", training=sized)
        fitting = dataclasses.replace(bundle, manifest=dataclasses.replace(bundle.manifest, batch=size))
        if refused:
            with pytest.raises(UserError, match="private rows a step"):
                check_trainable(terms, fitting, 100)
        else:
            check_trainable(terms, fitting, 100)


@pytest.mark.parametrize("name", ["optimizer", "model"])
def test_inspection_shows_names_in_one_short_line_that_a_terminal_does_not_obey(
    name: str, honest: ExportedFederation, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    odd = Path(shutil.copytree(honest.bundle, tmp_path / "b"))
    edit(odd, lambda m: m.update({name: "\x1b[2J\u202e\r" + "x" * 100_000}))
    main(["inspect-bundle", "--bundle", str(odd)])
    lines = capsys.readouterr().out.split("\n")
    assert all(line.isprintable() and len(line) < 1100 for line in lines)


@pytest.mark.parametrize(
    ("terms", "message"),
    [
        ({"codec": "zip"}, "unknown codec 'zip'"),
        ({"codec": "\x1b" + "x" * 100_000}, "unknown codec"),
        ({"seed": -1}, "seed must be from 0"),
        ({"seed": 10**300}, "seed must be from 0"),
        ({"n_classes": 2**40}, "n_classes from 1"),
        ({"defence": {"name": ["none"]}}, r"unknown defence \['none'\]"),
        ({"method": "x" * 100_000}, "unknown method"),
    ],
)
def test_odd_terms_of_a_bundle_are_refused_in_one_line(
    terms: dict[str, object],
    message: str,
    honest: ExportedFederation,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    odd = Path(shutil.copytree(honest.bundle, tmp_path / "b"))
    edit(odd, lambda m: m["terms"].update(terms))
    place = ["--exchange", str(tmp_path / "x"), "--client", "0", "--state", str(tmp_path / "s")]
    with pytest.raises(SystemExit) as stop:
        main(["run", "--bundle", str(odd), "--data", str(honest.data[0]), *place])
    assert stop.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert re.search(message, line)
    assert len(line) < 5000


def test_no_number_of_clients_lets_a_coordinator_send_a_device_messages_without_a_limit(
    honest: ExportedFederation, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A method with a teacher for each client expects as many rows as the manifest states clients."""
    odd = Path(shutil.copytree(honest.bundle, tmp_path / "b"))
    edit(odd, lambda m: (m.update(n_clients=2**31 - 1), m["terms"].update(method="comet")))
    bundle = read_bundle(odd)
    expected = expected_task(method_of(bundle)[0], bundle.manifest.terms, len(bundle.proxy), bundle.manifest.n_clients)
    assert expected.largest < 2**31 - MAX_MESSAGE
    with pytest.raises(UnexpectedContent, match="more than 268435456 in all"):
        expected.teacher.check_shape(2**25, bundle.manifest.n_classes)
    device = ["--data", str(honest.data[0]), "--client", "0", "--state", str(tmp_path / "s")]
    with pytest.raises(SystemExit) as stop:
        main(["run", "--bundle", str(odd), "--server", "127.0.0.1:9", "--give-up", "1", *device])
    assert stop.value.code == 1
    assert "has not answered" in capsys.readouterr().err
    edit(odd, lambda m: m.update(n_clients=2**80))
    with pytest.raises(UserError, match="n_clients from 1"):
        read_bundle(odd)
