"""What is wrong with a device's certificate is said before the device connects, and while nobody answers it."""

import shutil
from pathlib import Path

import pytest
from edgefd_client.certificate_check import check_certificate
from edgefd_client.grpc_link import GrpcLink, connect
from edgefd_server.certs import add_device, init

from edgefd.core.errors import UserError
from tests.support.federations import ignore_line


@pytest.fixture(scope="module")
def certs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Certificates of the devices 0 (valid), 1 (valid), 2 (expired) and 3 (valid for 3 days)."""
    folder = tmp_path_factory.mktemp("certs") / "certs"
    init(folder, ["localhost"], 10)
    for client, days in enumerate((100, 100, -0.5, 3)):
        add_device(folder, f"device-{client}", client, days)
    return folder / "devices"


def test_a_valid_certificate_is_accepted_and_its_end_is_announced(
    certs: Path, caplog: pytest.LogCaptureFixture
) -> None:
    check_certificate(certs / "device-0")
    assert not caplog.text
    check_certificate(certs / "device-3")
    assert "device.pem expires in 3 days" in caplog.text


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("device.key", "device-1/device.key", r"device\.key is not the key of .*device\.pem: copy the folder"),
        ("ca.pem", "other/ca.pem", r"device\.pem is not valid with .*ca\.pem: .*issuer.*; copy the folder"),
        ("ca.pem", "", r"ca\.pem, device\.pem or device\.key in .* is damaged"),
        ("device.pem", "", r"ca\.pem, device\.pem or device\.key in .* is damaged"),
        ("device.key", "", r"ca\.pem, device\.pem or device\.key in .* is damaged"),
    ],
)
def test_files_that_do_not_fit_are_named(certs: Path, tmp_path: Path, file: str, content: str, message: str) -> None:
    device = Path(shutil.copytree(certs / "device-0", tmp_path / "device"))
    if content.startswith("other"):
        init(tmp_path / "other", ["localhost"], 10)
        (device / file).write_bytes((tmp_path / content).read_bytes())
    else:
        (device / file).write_bytes((certs / content).read_bytes() if content else b"")
    with pytest.raises(UserError, match=message):
        connect("localhost:1", device, insecure=False)


def test_an_expired_certificate_is_named_with_the_time_of_the_clock(certs: Path) -> None:
    with pytest.raises(UserError, match=r"certificate has expired; the clock shows 20.*get a new certificate"):
        connect("localhost:1", certs / "device-2", insecure=False)


def test_a_certificate_that_expires_while_nobody_answers_ends_the_wait(certs: Path, tmp_path: Path) -> None:
    device = Path(shutil.copytree(certs / "device-0", tmp_path / "device"))
    with connect("localhost:1", device, insecure=False) as channel:
        shutil.rmtree(device)
        shutil.copytree(certs / "device-2", device)
        with pytest.raises(UserError, match="certificate has expired"):
            GrpcLink(channel, 0, ignore_line, certs=device).join(None)
