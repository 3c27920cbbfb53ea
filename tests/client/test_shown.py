"""A device shows the words of a coordinator, and names of files, without characters that a terminal could interpret."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from edgefd_client.cli import main
from edgefd_client.folder_link import join
from edgefd_client.grpc_link import GrpcLink, connect

from edgefd.core.errors import RunError
from edgefd.core.files import put
from edgefd.wire.exchange_folder import DONE, report_file
from tests.support.device_links import open_device_link
from tests.support.federations import ExportedFederation, ignore_line

HOSTILE = "\x1b]0;title\x07\x1b[2J\r\u202edisk full"
NOTHING: Any = SimpleNamespace(teacher=SimpleNamespace(held=None))  # no task comes
ESCAPED = r"\x1b]0;title\x07\x1b[2J \u202edisk full"


def test_the_reason_for_the_end_of_a_run_over_grpc(federation: ExportedFederation) -> None:
    with open_device_link(federation) as link, connect(link.address, None, False) as channel:
        device = GrpcLink(channel, 0, ignore_line)
        device.join(link.terms)
        link.coordinator.end(HOSTILE)
        with pytest.raises(RunError) as stop:
            device.next_task(-1, NOTHING)
    assert str(stop.value) == f"the coordinator stopped: {ESCAPED}"


def test_a_refusal_over_grpc(federation: ExportedFederation) -> None:
    with open_device_link(federation, run=HOSTILE) as link, connect(link.address, None, False) as channel:
        device = GrpcLink(channel, 0, ignore_line)
        device.join(link.terms)
        device._reply.run = "another"
        with pytest.raises(RunError) as stop:
            device.join(link.terms)
        assert str(stop.value).isprintable()
        with pytest.raises(RunError) as stop:
            device.submit(b"", 0)
        assert str(stop.value).isprintable()


@pytest.mark.parametrize("name", ["done", "refused"])
def test_the_texts_in_an_exchange_folder(federation: ExportedFederation, tmp_path: Path, name: str) -> None:
    with federation.open(tmp_path) as transport:
        device = join(tmp_path, 0, transport.info.terms)
        path = tmp_path / DONE if name == "done" else report_file(tmp_path, 0, 0).with_suffix(".refused")
        put(path, HOSTILE.encode())
        with pytest.raises(RunError) as stop:
            device.next_task(0, NOTHING)
    assert str(stop.value).endswith(ESCAPED)


def test_the_name_of_a_file_in_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["infer", "--bundle", str(tmp_path / "b\x1b[2J"), "--input", "x.npy"])
    assert stop.value.code == 2
    line = capsys.readouterr().err
    assert r"b\x1b[2J" in line
    assert line.removesuffix("\n").isprintable()
