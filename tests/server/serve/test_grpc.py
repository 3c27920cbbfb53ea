"""`edgefd server` as users run it: bad input, resuming, Ctrl-C."""

import re
from pathlib import Path

import pytest
from edgefd_server.coordinator.checkpoint import CHECKPOINT, LOCK, exclusive_lock
from edgefd_server.coordinator.resume import create_checkpoint
from typer.testing import CliRunner

from edgefd.cli.main import app, main
from edgefd.config.load import load_config
from edgefd.core.errors import Stopped, UserError
from tests.support.federations import ExportedFederation, export_federation, small

ROOT = Path(__file__).parents[3]
SETTINGS = ["data.limit=600", "partition.n_clients=3", "partition.name=weak", "model.name=mlp", "method.n_clusters=4"]
SETTINGS += ["baselines=[]", "train.rounds=2", "train.local_steps=2", "train.augment_shift=1", "run.learner=onnx"]


@pytest.fixture(scope="module")
def federation(tmp_path_factory: pytest.TempPathFactory) -> ExportedFederation:
    return export_federation(small(), tmp_path_factory.mktemp("federation"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "give --listen HOST:PORT, --flower HOST:PORT or both, or --exchange DIR"),
        (["--listen", "127.0.0.1:0", "--exchange", "x"], "or both, or --exchange DIR"),
        (["--exchange", "x", "--certs", "c"], "go with --listen"),
        (["--flower", "127.0.0.1:0", "--exchange", "x"], "or both, or --exchange DIR"),
        (["--flower", "127.0.0.1:0", "--bundle", "BUNDLE"], "--bundle goes with --listen: SuperNodes have their own"),
        (["--flower", "0.0.0.0:0"], "refusing to listen on 0.0.0.0:0 without TLS"),
        (["--flower", "127.0.0.1:0", "attack.name=random", "attack.fraction=0.4"], "attack is for simulations"),
        (["--listen", "127.0.0.1:0"], "--bundle must be given once for each model of the config, in order: mlp"),
        (
            ["--listen", "0.0.0.0:0", "--bundle", "BUNDLE"],
            "without TLS: pass --certs DIR (create it with `edgefd certs init`) or",
        ),
        (["--listen", "127.0.0.1:0", "--bundle", "BUNDLE", "--certs", "nowhere"], "certs init"),
        (["--listen", "127.0.0.1:0", "--bundle", "BUNDLE", "codec.name=uint8"], "codec differ"),
        (["--listen", "127.0.0.1:0", "--bundle", "BUNDLE", "model.name=cnn"], "is a bundle of mlp"),
        (["--listen", "127.0.0.1:0", "--bundle", "BUNDLE", "--status", "page"], "--status is [HOST:]PORT"),
        (["--listen", "127.0.0.1:0", "--bundle", "BUNDLE", "--status", "192.0.2.1:1"], "cannot serve the status page"),
        (["--exchange", "x", "--status", "192.0.2.1:1"], "cannot serve the status page at 192.0.2.1:1"),
        (["--listen", "192.0.2.1:1", "--bundle", "BUNDLE", "--insecure"], "cannot listen on 192.0.2.1:1"),
        (["--listen", "192.0.2.1:1", "--bundle", "BUNDLE", "--insecure", "--resume"], "cannot listen on 192.0.2.1:1"),
        (
            ["--listen", "127.0.0.1:0", "--bundle", "BUNDLE", "coordinator.min_reports=4"],
            "a round samples 3 of 3 clients",
        ),
    ],
)
def test_bad_input_is_one_error_and_leaves_no_folder(
    federation: ExportedFederation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: list[str], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    arguments = [str(federation.bundle) if o == "BUNDLE" else o for o in options]
    command = ["server", str(ROOT / "simulations/quickstart.yaml"), *SETTINGS, *arguments, "--out", "run"]
    result = CliRunner().invoke(app, command)
    assert isinstance(result.exception, UserError)
    assert message in str(result.exception)
    assert not list(tmp_path.iterdir())


SERVED = ["server", str(ROOT / "simulations/quickstart.yaml"), *SETTINGS, "--listen", "127.0.0.1:0"]


def leave_run(out: Path) -> None:
    """Write a run of the config above, as a server leaves it that was killed before its first round."""
    config = load_config(ROOT / "simulations/quickstart.yaml", SETTINGS)
    out.mkdir()
    create_checkpoint(config, out, out)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--resume"], "--resume with --listen needs --out"),
        (["--out", "run"], "run already holds a run: choose another folder, remove it, or continue it with --resume"),
        (["--out", "run", "--resume", "train.lr=0.5"], "the run in run is of another config"),
        (["--out", "run", "--resume", "--listen", "192.0.2.1:1", "--insecure"], "cannot listen on 192.0.2.1:1"),
    ],
)
def test_a_run_that_cannot_be_resumed_stays_unchanged(
    federation: ExportedFederation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: list[str], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    leave_run(Path("run"))
    before = Path("run", CHECKPOINT).read_bytes()
    result = CliRunner().invoke(app, [*SERVED, "--bundle", str(federation.bundle), *options])
    assert isinstance(result.exception, UserError)
    assert message in str(result.exception)
    assert Path("run", CHECKPOINT).read_bytes() == before
    assert {path.name for path in Path("run").iterdir()} <= {CHECKPOINT, LOCK}


def test_only_one_server_at_a_time_resumes_a_run(
    federation: ExportedFederation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    leave_run(Path("run"))
    with exclusive_lock(Path("run")):
        result = CliRunner().invoke(app, [*SERVED, "--bundle", str(federation.bundle), "--out", "run", "--resume"])
    assert "another server is at work in run" in str(result.exception)


def test_a_plaintext_server_warns_and_ctrl_c_before_the_first_round_reports_that_none_was_done(
    federation: ExportedFederation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("edgefd_server.serve.coordinator.coordinate", interrupted)
    result = CliRunner().invoke(app, [*SERVED, "--bundle", str(federation.bundle), "--out", "run"])
    assert isinstance(result.exception, Stopped)
    assert str(result.exception) == "not one round was done"
    assert re.search(r"^waiting for 3 clients on port \d+$", result.stdout, re.MULTILINE)
    assert [(record.levelname, record.message) for record in caplog.records] == [
        ("WARNING", "connections are unencrypted and unauthenticated (no --certs)")
    ]


def test_an_unknown_log_level_is_one_error(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("EDGEFD_LOG", "loud")
    with pytest.raises(SystemExit) as stop:
        main()
    assert stop.value.code == 2
    assert capsys.readouterr().err == "error: EDGEFD_LOG is 'loud': set it to one of debug, info, warning\n"
