"""A hostile coordinator: its graphs return private images from a device that trusts them, and from no other.

docs/reference/threat-model.md says what remains with graphs that a device knows.
"""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from edgefd_client.agent import method_of, run_agent
from edgefd_client.cli import main
from edgefd_client.flower_node import node_round
from edgefd_client.inspect_bundle import describe_bundle
from edgefd_client.link import Membership, Task
from edgefd_client.sources import NpzSource, client_data, read_samples
from edgefd_client.trust import read_trusted_bundle

from edgefd.core.errors import UserError
from edgefd.federation.plan import RoundPlan
from edgefd.rounds.validation import expected_report
from edgefd.wire.bundle_reader import Bundle, read_bundle
from edgefd.wire.messages import decode_report
from tests.support.federations import ExportedFederation, export_federation, ignore_line, small
from tests.support.hostile_bundles import hostile_bundle, images_told
from tests.support.scripted_link import ScriptedLink

N_IMAGES, LR = 18, 0.5


@pytest.fixture(scope="module")
def honest(tmp_path_factory: pytest.TempPathFactory) -> ExportedFederation:
    config = small(method="fedmd", local_steps=1, augment_shift=0, optimizer="sgd", lr=LR)
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
