"""Two coordinators that start in one folder at the same time: the one that is refused removes nothing of the other."""

import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from edgefd_server.coordinator import open_run as module
from edgefd_server.coordinator.open_run import RunRequest, create_checkpoint, open_run

from edgefd.core.errors import UserError
from edgefd.rounds.participation import ParticipationConfig
from edgefd.runs.checkpoint import CHECKPOINT, exclusive_lock, load_checkpoint, save_checkpoint
from edgefd.runs.folder import run_folder
from tests.support.federations import ExportedFederation, export_federation, small


@pytest.fixture(scope="module")
def federation(tmp_path_factory: pytest.TempPathFactory) -> ExportedFederation:
    return export_federation(small(), tmp_path_factory.mktemp("federation"))


@pytest.fixture
def before_the_lock(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[], object]], None]:
    """Return a function that lets another coordinator act between the run folder and the lock of this one."""

    def arrange(act: Callable[[], object]) -> None:
        @contextmanager
        def then_act(*arguments: Any) -> Iterator[Path]:
            with run_folder(*arguments) as folder:
                act()
                yield folder

        monkeypatch.setattr(module, "run_folder", then_act)

    return arrange


def test_the_checkpoint_of_another_coordinator_is_kept(
    federation: ExportedFederation, tmp_path: Path, before_the_lock: Callable[..., None]
) -> None:
    config, out = federation.prepared.config, tmp_path / "run"
    before_the_lock(lambda: create_checkpoint(config, out))
    with (
        pytest.raises(UserError, match="already holds"),
        open_run(RunRequest(config, [federation.bundle], out=out)),
    ):
        pass
    assert load_checkpoint(out, federation.served().expected_teacher) is not None


@pytest.mark.parametrize("with_exchange", [True, False], ids=["folder", "grpc"])
def test_the_folder_that_another_coordinator_has_locked_is_kept(
    federation: ExportedFederation, tmp_path: Path, before_the_lock: Callable[..., None], with_exchange: bool
) -> None:
    config, out = federation.prepared.config, tmp_path / "run"
    exchange = tmp_path / "exchange" if with_exchange else None
    request = RunRequest(config, [federation.bundle], out=out, resume=True)
    with ExitStack() as other:
        before_the_lock(lambda: other.enter_context(exclusive_lock(exchange or out)))
        with pytest.raises(UserError, match="another server is at work"), open_run(request, exchange):
            pass
        assert (exchange or out).exists()
    assert not (out / CHECKPOINT).exists()


def test_a_served_run_resumes_with_other_rules_of_participation(
    federation: ExportedFederation, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config, out = federation.prepared.config, tmp_path / "run"
    request = RunRequest(config, [federation.bundle], out=out)
    with open_run(request) as run:
        begun = run.saved
    out.mkdir(exist_ok=True)
    save_checkpoint(out, begun)
    rules = ParticipationConfig(min_reports=2, deadline_s=9)
    changed = replace(request, config=replace(config, coordinator=rules), resume=True)
    with caplog.at_level("INFO"), open_run(changed) as run:
        assert run.saved.run == begun.run
        assert json.loads(run.saved.config)["coordinator"]["min_reports"] == 2
    assert "coordinator.min_reports was None, and is 2 in the rounds to come" in caplog.text
    other = replace(changed, config=replace(changed.config, seed=5))
    with pytest.raises(UserError, match="not of this config"), open_run(other):
        pass
