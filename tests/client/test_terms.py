"""A coordinator decides on training, selection and loss: the device uses them, or refuses what its bundle cannot do."""

import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from edgefd_client.agent import check_trainable
from edgefd_client.cli import main

from edgefd.core.errors import UserError
from edgefd.core.knowledge import Knowledge
from edgefd.learners.losses import loss_of
from edgefd.rounds.loop import run_rounds
from edgefd.runs.execute import make_server
from edgefd.runs.terms import terms_of
from edgefd.selection import selection_of
from edgefd.simulation.engine import open_transport
from tests.support.device_links import open_device_link, run_devices
from tests.support.federations import ExportedFederation, coordinate, same, undisturbed


def with_settings(federation: ExportedFederation, selection: Any = None, loss: Any = None, **train: Any) -> Any:
    """Return the federation with another config of its coordinator; the bundle stays."""
    config = federation.prepared.config
    changed = dataclasses.replace(
        config,
        train=dataclasses.replace(config.train, **train),
        selection=config.selection if selection is None else selection_of(selection),
        distillation=config.distillation if loss is None else loss_of(loss),
    )
    return dataclasses.replace(federation, prepared=dataclasses.replace(federation.prepared, config=changed))


def simulated(federation: ExportedFederation) -> list[Knowledge]:
    config, data = federation.prepared.config, federation.prepared.federation
    transport = open_transport(config, data)
    transport.start()
    return [r.teacher for r in run_rounds(make_server(config, data), transport) if r.teacher is not None]


@pytest.fixture(scope="module")
def other(federation: ExportedFederation) -> ExportedFederation:
    """Return the federation with a coordinator whose settings all differ from those of the bundle."""
    changed: ExportedFederation = with_settings(
        federation,
        {"name": "rad", "budget": 0.5},
        {"loss": "taid"},
        rounds=3,
        local_steps=0,
        local_epochs=1,
        warmup_steps=2,
        local_batch_size=20,
        distill_epochs=2,
        closing_epochs=1,
        adjusted_steps=1,
        catch_up=2,
        batch_size=32,
        private_rows_per_batch=8,
        augment_shift=0,
        augment_rotation=5.0,
        lr=0.002,
        schedule="step",
        final_lr=0.001,
        step_rounds=1,
        step_factor=0.9,
        weight_decay=0.01,
        reset_optimizer=True,
        min_samples=5,
        min_classes=2,
    )
    mine, theirs = changed.prepared.config, federation.read().manifest.terms
    names = {f.name for f in dataclasses.fields(mine.train)} - {"optimizer", "momentum", "initial", "local_steps"}
    assert all(getattr(mine.train, name) != getattr(theirs.training, name) for name in names)
    return changed


@pytest.fixture(scope="module")
def expected(other: ExportedFederation) -> list[Knowledge]:
    teachers = simulated(other)
    assert len(teachers) == 4
    return teachers


def test_devices_use_the_coordinators_settings_over_a_folder(
    other: ExportedFederation, expected: list[Knowledge], tmp_path: Path
) -> None:
    assert same(undisturbed(other, tmp_path), expected)


def test_devices_use_the_coordinators_settings_over_grpc(
    other: ExportedFederation, expected: list[Knowledge], tmp_path: Path
) -> None:
    with open_device_link(other) as link, run_devices(other, tmp_path, [link.address] * 3, None):
        assert same(coordinate(other, link.coordinator), expected)


@contextmanager
def over_folder(federation: ExportedFederation, folder: Path) -> Iterator[list[str]]:
    """Open an exchange folder, and yield the options with which a device joins."""
    with federation.open(folder):
        yield ["--exchange", str(folder)]


@contextmanager
def over_grpc(federation: ExportedFederation, folder: Path) -> Iterator[list[str]]:
    """Open a device link, and yield the options with which a device joins."""
    with open_device_link(federation) as link:
        yield ["--server", link.address]


@pytest.mark.parametrize("opened", [over_folder, over_grpc], ids=["folder", "grpc"])
@pytest.mark.parametrize(
    ("train", "message"),
    [
        ({"optimizer": "sgd"}, "trains with optimizer sgd, but the bundle with adam: export the bundle"),
        ({"batch_size": 999}, "batches of 999 rows, but the graph of the bundle takes 64: export the bundle"),
    ],
    ids=["optimizer", "batch_size"],
)
def test_what_the_bundle_cannot_do_is_refused_before_the_first_round(
    federation: ExportedFederation,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    opened: Any,
    train: dict[str, Any],
    message: str,
) -> None:
    state = tmp_path / "state"
    device = ["run", "--bundle", str(federation.bundle), "--data", str(federation.data[0]), "--client", "0"]
    with opened(with_settings(federation, **train), tmp_path / "x") as options, pytest.raises(SystemExit) as stop:
        main([*device, "--state", str(state), *options])
    assert stop.value.code == 2
    out, err = capsys.readouterr()
    errors = [line for line in err.splitlines() if "unencrypted" not in line]
    assert len(errors) == 1
    assert message in errors[0]
    assert not out
    assert not list(state.glob("state*"))


@pytest.mark.parametrize(
    ("train", "message"),
    [
        ({"local_steps": 10**9}, "asks for more training steps in a round than the 1000000 that"),
        ({"local_epochs": 10**6, "local_steps": 0}, "training steps in a round"),
        ({"warmup_steps": 10**9}, "training steps in a round"),
        ({"distill_epochs": 10**9}, "training steps in a round"),
        ({"closing_epochs": 10**9}, "training steps in a round"),
        ({"distill_epochs": 10**4000, "catch_up": 10**4000}, "training steps in a round"),
        ({"augment_shift": 10**9}, "augment_shift=1000000000 would move images of 28 x 28 pixels out of view"),
        ({"augment_shift": 28}, "out of view"),
        ({"initial": "own"}, "start from the parameters of their bundle: it must set train.initial=shared"),
        ({"local_batch_size": 10**6}, "batches of 1000000 rows, but the graph of the bundle takes"),
        ({"local_batch_size": 10, "local_epochs": 1, "local_steps": 0}, "asks for 5 private rows a step"),
    ],
    ids=lambda value: str(value)[:60] if isinstance(value, str) else ", ".join(value),
)
def test_no_coordinator_can_make_a_device_train_for_ever_or_use_up_its_memory(
    federation: ExportedFederation, train: dict[str, Any], message: str
) -> None:
    changed = with_settings(federation, **train)
    with pytest.raises(UserError, match=message):
        check_trainable(terms_of(changed.prepared.config, changed.prepared.federation), federation.read(), 100)


def test_a_shift_of_samples_that_are_no_images_is_refused(federation: ExportedFederation) -> None:
    bundle = federation.read()
    terms = terms_of(federation.prepared.config, federation.prepared.federation)
    check_trainable(terms, bundle, 100)
    assert terms.training.augment_shift
    features = dataclasses.replace(bundle, manifest=dataclasses.replace(bundle.manifest, shape=(1280,)))
    with pytest.raises(UserError, match=r"augment_shift shifts images, but samples have shape \[1280\]"):
        check_trainable(terms, features, 100)
