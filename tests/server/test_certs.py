"""Certificates, the allow-list, and the commands of `edgefd certs`."""

import stat
import subprocess
from pathlib import Path

import pytest
from cryptography import x509
from edgefd_server import certs
from typer.testing import CliRunner

from edgefd.cli.main import app
from edgefd.core.errors import UserError
from edgefd.core.files import exclusive_lock
from tests.support.commands import command, env


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    certs.init(tmp_path / "c", ["fleet.example.org", "192.0.2.7"], 30)
    return tmp_path / "c"


def test_keys_are_private_and_names_are_in_the_certificate(folder: Path) -> None:
    device = certs.add_device(folder, "camera-1", 4, 30)
    for key in (folder / "ca.key", folder / "server.key", device / "device.key"):
        assert stat.S_IMODE(key.stat().st_mode) == 0o600
    certificate = x509.load_pem_x509_certificate((folder / "server.pem").read_bytes())
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["fleet.example.org"]
    assert [str(a) for a in names.get_values_for_type(x509.IPAddress)] == ["192.0.2.7"]
    assert not list(device.glob("ca.key"))
    ca = x509.load_pem_x509_certificate((folder / "ca.pem").read_bytes())
    x509.load_pem_x509_certificate((device / "device.pem").read_bytes()).verify_directly_issued_by(ca)


def test_a_name_and_a_client_have_one_valid_certificate(folder: Path) -> None:
    first = certs.add_device(folder, "a", 0, 30)
    pem = (first / "device.pem").read_bytes()
    allowed = certs.AllowList(folder)
    assert allowed.client_of(pem) == 0
    for name, client in (("a", 1), ("b", 0)):
        with pytest.raises(UserError, match="revoke it first"):
            certs.add_device(folder, name, client, 30)
    certs.revoke(folder, "a")
    with pytest.raises(PermissionError, match="revoked"):
        allowed.client_of(pem)
    replacement = certs.add_device(folder, "a", 0, 30)
    with pytest.raises(PermissionError, match="replaced"):
        allowed.client_of(pem)
    assert allowed.client_of((replacement / "device.pem").read_bytes()) == 0


def test_an_expired_certificate_is_refused_also_on_an_open_connection(folder: Path) -> None:
    old = certs.add_device(folder, "old", 0, -0.01)
    with pytest.raises(PermissionError, match="expired"):
        certs.AllowList(folder).client_of((old / "device.pem").read_bytes())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["init", "c"], "exists already"),
        (["device", "../x", "--client", "0", "--certs", "c"], "letters"),
        (["device", "x", "--client", "-1", "--certs", "c"], "0, 1"),
        (["revoke", "x", "--certs", "c"], "no device 'x'"),
        (["list", "--certs", "nowhere"], "certs init"),
    ],
)
def test_bad_input_is_one_error(
    folder: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], message: str
) -> None:
    monkeypatch.chdir(folder.parent)
    result = CliRunner().invoke(app, ["certs", *arguments])
    assert isinstance(result.exception, UserError)
    assert message in str(result.exception)


def test_the_commands_create_revoke_and_list_devices(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for arguments in (["init", "certs"], ["device", "a", "--client", "3"], ["revoke", "a"]):
        assert CliRunner().invoke(app, ["certs", *arguments]).exit_code == 0
    listed = CliRunner().invoke(app, ["certs", "list"])
    assert "a  client 3  revoked" in listed.output
    for name, client, days in (("old", 4, -0.5), ("soon", 5, 3.5), ("new", 6, 100)):
        certs.add_device(Path("certs"), name, client, days)
    lines = {line.split()[0]: line for line in CliRunner().invoke(app, ["certs", "list"]).output.splitlines()}
    assert " EXPIRED  sha256" in lines["old"]
    assert "(expires in 3 days)  sha256" in lines["soon"]
    assert not {"(", "EXPIRED"} & set(lines["new"].split())


def test_commands_that_change_the_allow_list_at_once_lose_nothing(folder: Path) -> None:
    old, new = [f"old-{i}" for i in range(10)], [f"new-{i}" for i in range(10)]
    for client, name in enumerate(old):
        certs.add_device(folder, name, client, 30)
    changes = [["revoke", name] for name in old]
    changes += [["device" if i % 2 else "node", name, "--client", str(10 + i)] for i, name in enumerate(new)]
    commands = [command("certs", *change, "--certs", str(folder)) for change in changes]
    started = [subprocess.Popen(arguments, cwd=folder, env=env({})) for arguments in commands]
    assert [process.wait(120) for process in started] == [0] * 20
    devices = certs.read_devices(folder)
    assert {name for name, device in devices.items() if device.revoked} == set(old)
    assert {name: device.client for name, device in devices.items() if not device.revoked} == {
        name: 10 + i for i, name in enumerate(new)
    }


def test_a_command_that_does_not_end_is_named_to_the_next_one(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(certs, "_PATIENCE", 0.1)
    certs.add_device(folder, "a", 0, 30)
    with (
        exclusive_lock(folder / certs.LOCK, "", ""),
        pytest.raises(UserError, match=r"another command has been changing .*devices\.json"),
    ):
        certs.revoke(folder, "a")
    assert not certs.read_devices(folder)["a"].revoked


def test_nothing_is_created_where_there_are_no_certificates(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="certs init"):
        certs.revoke(tmp_path / "none", "a")
    assert not list(tmp_path.iterdir())
