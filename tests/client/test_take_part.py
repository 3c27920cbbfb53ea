"""`edgefd-client run --forever`: one run after the other, and what ends a run before it is complete."""

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from edgefd_client import grpc_link, take_part
from edgefd_client.state import load_state
from edgefd_client.take_part import RunOptions
from edgefd_server.coordinator.round_coordinator import RoundCoordinator
from edgefd_server.folder_link.front_end import open_folder

from edgefd.core.errors import RunError
from edgefd.federation.terms import FederationInfo
from edgefd.runs.terms import terms_of
from tests.support.device_links import open_device_link
from tests.support.federations import ExportedFederation, coordinate, export_federation, ignore_event, small
from tests.support.waiting import free_port, until


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> ExportedFederation:
    """A federation of one client."""
    return export_federation(small(1, rounds=1), tmp_path_factory.mktemp("alone"))


@pytest.fixture
def device(
    alone: ExportedFederation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., tuple[threading.Thread, list[BaseException]]]:
    """Return a function that starts a device in a thread; it gives the thread and the error that ends it."""
    monkeypatch.setattr(take_part, "PAUSE_AFTER_STOP", 0.05)
    monkeypatch.setattr(grpc_link, "NEXT_RUN_PAUSE", 0.05)
    monkeypatch.setattr("signal.signal", lambda *_: None)  # only the main thread may set handlers

    def start(**options: Any) -> tuple[threading.Thread, list[BaseException]]:
        given: dict[str, Any] = dict.fromkeys(RunOptions.__dataclass_fields__) | {
            "client": 0,
            "data": alone.data[0],
            "state": tmp_path / "state",
            **options,
        }
        errors: list[BaseException] = []

        def run() -> None:
            try:
                take_part.run(RunOptions(**given))
            except BaseException as error:
                errors.append(error)

        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        return thread, errors

    return start


def serve(alone: ExportedFederation, exchange: Path, run: str, stop: str = "") -> None:
    """Coordinate a run in an exchange folder until it is complete or stops for a reason."""
    terms = terms_of(alone.prepared.config, alone.prepared.federation)
    coordinator = RoundCoordinator(FederationInfo(run, 1, terms), 60, ignore_event)
    with open_folder(exchange, coordinator, len(alone.prepared.federation.proxy)):
        if stop:
            coordinator.finish(stop)
        else:
            coordinate(alone, coordinator)


def replace_exchange(exchange: Path) -> None:
    """Put the exchange of a finished run away, as before the next run."""
    exchange.rename(exchange.with_name(f"old-{len(list(exchange.parent.iterdir()))}"))


def test_a_device_takes_part_in_the_next_run_too_also_after_one_that_stopped(
    alone: ExportedFederation,
    device: Callable[..., tuple[threading.Thread, list[BaseException]]],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    exchange, output = tmp_path / "exchange", list[str]()

    def printed(text: str) -> bool:
        output.append(capsys.readouterr().out)
        return text in "".join(output)

    thread, errors = device(forever=True, bundle=alone.bundle, exchange=exchange)
    serve(alone, exchange, "first")
    until(lambda: printed("the run is complete"))
    replace_exchange(exchange)
    serve(alone, exchange, "second", stop="the disk is full")
    replace_exchange(exchange)
    serve(alone, exchange, "third")
    until(lambda: "".join(output).count("the run is complete") == 2 or printed("never"))
    assert "goes on from its own parameters" in "".join(output)
    assert thread.is_alive()
    assert not errors


def test_without_forever_a_run_that_stops_is_an_error(
    alone: ExportedFederation, device: Callable[..., tuple[threading.Thread, list[BaseException]]], tmp_path: Path
) -> None:
    thread, errors = device(bundle=alone.bundle, exchange=tmp_path / "exchange")
    serve(alone, tmp_path / "exchange", "first", stop="the disk is full")
    thread.join(20)
    assert isinstance(errors[0], RunError)
    assert "the coordinator stopped: the disk is full" in str(errors[0])


def test_a_device_waits_on_the_network_for_the_next_run_and_keeps_one_bundle(
    alone: ExportedFederation,
    device: Callable[..., tuple[threading.Thread, list[BaseException]]],
    tmp_path: Path,
) -> None:
    port, state = free_port(), tmp_path / "state"
    for name in (f"bundle-{'0' * 16}", f"bundle-{'1' * 16}.part", "bundle-of-a-user"):
        (state / name).mkdir(parents=True)
    thread, errors = device(forever=True, growing=True, server=f"127.0.0.1:{port}", cache=tmp_path / "cache")
    for run in ("first", "second"):
        with open_device_link(alone, port=port, run=run) as link:
            coordinate(alone, link.coordinator)
        saved = load_state(state)
        assert saved is not None
        assert (saved.run, saved.round) == (run, 1)
    left = {path.name for path in state.glob("bundle-*")}
    assert left == {f"bundle-{alone.read().digest[:16]}", "bundle-of-a-user"}
    assert thread.is_alive()
    assert not errors
