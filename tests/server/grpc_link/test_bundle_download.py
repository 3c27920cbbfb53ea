"""Downloads of a bundle over the device link."""

import dataclasses
from pathlib import Path

import pytest
from edgefd_client.bundle_download import fetch_bundle
from edgefd_client.grpc_link import GrpcLink, connect

from edgefd.core.errors import RunError
from edgefd.wire.bundle_reader import read_bundle
from tests.support.device_links import CuttableWire, open_device_link
from tests.support.federations import ExportedFederation, ignore_line


def test_a_download_that_is_cut_continues_where_it_was(federation: ExportedFederation, tmp_path: Path) -> None:
    with open_device_link(federation) as link:
        wire = CuttableWire(link.grpc_server.port)
        wire.limit = 400_000
        with connect(f"127.0.0.1:{wire.port}", None, False) as channel:
            device = GrpcLink(channel, 0, ignore_line)
            device.join(None)
            folder = fetch_bundle(device, tmp_path)
        wire.close()
    assert wire.cuts >= 1
    largest = max(f.stat().st_size for f in folder.iterdir())
    assert largest > wire.limit  # a download that began again at each cut would never end
    assert read_bundle(folder).digest == federation.read().digest


def test_a_partial_file_is_completed_and_a_wrong_file_or_digest_is_refused(
    federation: ExportedFederation, tmp_path: Path
) -> None:
    digest = federation.read().digest
    part = tmp_path / f"bundle-{digest[:16]}.part"
    part.mkdir()
    (part / "model.onnx.xz").write_bytes((federation.bundle / "model.onnx.xz").read_bytes()[:1000])
    (part / "init.xz").write_bytes(b"something else")
    with open_device_link(federation) as link, connect(link.address, None, False) as channel:
        device = GrpcLink(channel, 0, ignore_line)
        device.join(None)
        with pytest.raises(RunError, match=r"init\.xz of the coordinator is not the file that it announced"):
            fetch_bundle(device, tmp_path)
        assert read_bundle(fetch_bundle(device, tmp_path)).digest == digest
        link.sessions.bundles = [dataclasses.replace(link.sessions.bundles[0], digest="../" + digest[3:])]
        device.join(None)
        with pytest.raises(RunError, match="names a bundle"):
            fetch_bundle(device, tmp_path)
