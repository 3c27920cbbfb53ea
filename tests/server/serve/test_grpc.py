"""`edgefd serve` as users run it: bad input, resuming, Ctrl-C."""

import re
from pathlib import Path

import numpy as np
import pytest
from edgefd_server.coordinator.open_run import create_checkpoint
from edgefd_server.coordinator.served_run import read_served_run
from typer.testing import CliRunner

from edgefd.cli.main import app, main
from edgefd.config.load import load_config
from edgefd.core.errors import Stopped, UserError
from edgefd.runs.checkpoint import CHECKPOINT, LOCK, exclusive_lock
from edgefd.runs.export_bundle import export_config
from edgefd.runs.prepare import prepare
from tests.support.federations import ExportedFederation, export_federation, small

ROOT = Path(__file__).parents[3]
SETTINGS = ["data.limit=600", "partition.n_clients=3", "partition.name=weak", "model.name=mlp", "method.n_clusters=4"]
SETTINGS += [
    "codec.name=float16",
    "baselines=[]",
    "train.rounds=2",
    "train.local_steps=2",
    "train.augment_shift=1",
    "run.learner=onnx",
]


@pytest.fixture(scope="module")
def federation(tmp_path_factory: pytest.TempPathFactory) -> ExportedFederation:
    return export_federation(small(), tmp_path_factory.mktemp("federation"))


GRPC, FLOWER = ["grpc", "--listen", "127.0.0.1:0"], ["flower", "--superlink", "127.0.0.1:0"]
BUNDLE = ["--bundle", "BUNDLE"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["flower", "--superlink", "0.0.0.0:0"], "refusing to listen on 0.0.0.0:0 without TLS"),
        ([*FLOWER, "attack.name=random", "attack.fraction=0.4"], "attack is for simulations"),
        (FLOWER, "--bundle must be given once for each model of the config, in order: mlp"),
        (GRPC, "--bundle must be given once for each model of the config, in order: mlp"),
        (["folder", "x"], "--bundle must be given once for each model of the config, in order: mlp"),
        (
            ["grpc", "--listen", "0.0.0.0:0", *BUNDLE],
            "without TLS: pass --certs DIR (create it with `edgefd certs init`)",
        ),
        ([*GRPC, *BUNDLE, "--certs", "nowhere"], "certs init"),
        ([*GRPC, *BUNDLE, "--timeout", "0"], "--timeout must be above 0, not 0"),
        ([*GRPC, *BUNDLE, "codec.name=uint8"], "codec differ"),
        ([*GRPC, *BUNDLE, "model.name=cnn"], "is a bundle of mlp"),
        ([*GRPC, *BUNDLE, "partition.n_clients=4"], "is a bundle for 3 clients, but partition.n_clients is 4"),
        ([*GRPC, *BUNDLE, "method.name=fedavg"], "n_clusters"),
        ([*GRPC, *BUNDLE, "--proxy-labels", "nowhere.npz"], "there is no file nowhere.npz"),
        ([*GRPC, *BUNDLE, "--status", "page"], "--status must be [HOST:]PORT"),
        ([*GRPC, *BUNDLE, "--status", "192.0.2.1:1"], "cannot serve the status page"),
        (["folder", "x", *BUNDLE, "--status", "192.0.2.1:1"], "cannot serve the status page at 192.0.2.1:1"),
        (["grpc", "--listen", "192.0.2.1:1", *BUNDLE, "--insecure"], "cannot listen on 192.0.2.1:1"),
        (["grpc", "--listen", "192.0.2.1:1", *BUNDLE, "--insecure", "--resume"], "cannot listen on 192.0.2.1:1"),
        ([*GRPC, *BUNDLE, "coordinator.min_reports=4"], "a round samples 3 of 3 clients"),
    ],
)
def test_bad_input_is_one_error_and_leaves_no_folder(
    federation: ExportedFederation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: list[str], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    kind, *others = (str(federation.bundle) if o == "BUNDLE" else o for o in options)
    command = ["serve", kind, str(ROOT / "simulations/quickstart.yaml")]
    if kind == "folder":
        command.append(others.pop(0))
    result = CliRunner().invoke(app, [*command, *SETTINGS, *others, "--out", "run"])
    assert isinstance(result.exception, UserError)
    assert message in str(result.exception)
    assert not list(tmp_path.iterdir())


def test_a_method_that_uses_proxy_labels_needs_their_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    config = small(method="weighted_fd")
    export_config(config, None, Path("bundle"), Path("labels.npz"))
    with pytest.raises(
        UserError, match=r"weighted_fd needs the labels of the proxy samples.* give --proxy-labels FILE"
    ):
        read_served_run(config, [Path("bundle")])
    served = read_served_run(config, [Path("bundle")], Path("labels.npz"))
    assert served.proxy_labels is not None
    assert np.array_equal(served.proxy_labels, prepare(config).federation.proxy_labels)
    for y, message in (
        (np.zeros(3, int), "3 labels|need"),
        (served.proxy_labels + 9, "labels must be those of the federation, 0 to 9, but sample"),
    ):
        np.savez("wrong.npz", y=y)
        with pytest.raises(UserError, match=message):
            read_served_run(config, [Path("bundle")], Path("wrong.npz"))


SERVED = ["serve", "grpc", str(ROOT / "simulations/quickstart.yaml"), *SETTINGS, "--listen", "127.0.0.1:0"]


def leave_run(out: Path) -> None:
    """Write a run of the config above, as a server leaves it that was killed before its first round."""
    config = load_config(ROOT / "simulations/quickstart.yaml", SETTINGS)
    out.mkdir()
    create_checkpoint(config, out)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--resume"], "--resume needs --out"),
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
        (
            "WARNING",
            "coordinator.min_reports is not set: one absent device ends the run after 600 s; set it and deadline_s",
        ),
        ("WARNING", "connections are unencrypted and unauthenticated (no --certs)"),
    ]


def test_an_unknown_log_level_is_one_error(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("EDGEFD_LOG", "loud")
    with pytest.raises(SystemExit) as stop:
        main()
    assert stop.value.code == 2
    assert capsys.readouterr().err == "error: EDGEFD_LOG is 'loud': set it to one of debug, info, warning\n"
