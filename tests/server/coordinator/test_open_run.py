"""Two coordinators that start in one folder at the same time: the one that is refused removes nothing of the other."""

from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import pytest
from edgefd_server.coordinator import open_run as module
from edgefd_server.coordinator.checkpoint import CHECKPOINT, exclusive_lock, load_checkpoint
from edgefd_server.coordinator.open_run import RunRequest, create_checkpoint, open_run

from edgefd.config.schema import Config
from edgefd.core.errors import UserError
from edgefd.runs.folder import run_folder
from tests.support.federations import ExportedFederation, export_federation, small


@pytest.fixture(scope="module")
def federation(tmp_path_factory: pytest.TempPathFactory) -> ExportedFederation:
    return export_federation(small(), tmp_path_factory.mktemp("federation"))


@pytest.fixture
def before_the_lock(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[], object]], None]:
    """Return a function that lets another coordinator act between the run folder and the lock of this one."""

    def arrange(act: Callable[[], object]) -> None:
        def then_act(config: Config, out: Path | None, or_empty: bool = False) -> Path:
            folder = run_folder(config, out, or_empty)
            act()
            return folder

        monkeypatch.setattr(module, "run_folder", then_act)

    return arrange


@pytest.mark.parametrize("with_exchange", [True, False], ids=["folder", "grpc"])
def test_the_checkpoint_of_another_coordinator_is_kept(
    federation: ExportedFederation, tmp_path: Path, before_the_lock: Callable[..., None], with_exchange: bool
) -> None:
    config, out = federation.prepared.config, tmp_path / "run"
    exchange = tmp_path / "exchange" if with_exchange else None
    home = exchange or out
    before_the_lock(lambda: create_checkpoint(config, home, tmp_path / "other"))
    with (
        pytest.raises(UserError, match="already holds"),
        open_run(RunRequest(config, [federation.bundle], out=out), exchange),
    ):
        pass
    assert load_checkpoint(home, federation.served().expected_teacher) is not None
    assert out.exists() is not with_exchange


@pytest.mark.parametrize("with_exchange", [True, False], ids=["folder", "grpc"])
def test_the_folder_that_another_coordinator_has_locked_is_kept(
    federation: ExportedFederation, tmp_path: Path, before_the_lock: Callable[..., None], with_exchange: bool
) -> None:
    config, out = federation.prepared.config, tmp_path / "run"
    exchange = tmp_path / "exchange" if with_exchange else None
    home = exchange or out
    request = RunRequest(config, [federation.bundle], out=out, resume=True)
    with ExitStack() as other:
        before_the_lock(lambda: other.enter_context(exclusive_lock(home)))
        with pytest.raises(UserError, match="another server is at work"), open_run(request, exchange):
            pass
        assert home.exists()
    assert not (home / CHECKPOINT).exists()
    assert out.exists() is not with_exchange
