"""Downloads of a bundle: over the device link, from a web server, and from a cache that devices share."""

import dataclasses
import hashlib
import logging
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from edgefd_client.bundle_cache import cached, keep
from edgefd_client.bundle_download import Sources, fetch_bundle
from edgefd_client.grpc_link import GrpcLink, connect

from edgefd.core.errors import RunError
from edgefd.wire.bundle_reader import read_bundle
from tests.support.commands import env
from tests.support.device_links import CuttableWire, OpenLink, open_device_link
from tests.support.federations import ExportedFederation, ignore_line
from tests.support.waiting import until
from tests.support.web_servers import web_server


def test_a_download_that_is_cut_continues_where_it_was(federation: ExportedFederation, tmp_path: Path) -> None:
    with open_device_link(federation) as link:
        wire = CuttableWire(link.grpc_server.port)
        wire.limit = max(f.stat().st_size for f in federation.bundle.iterdir()) - 10_000
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


REPLIES = 4000
"""more bytes than a device receives that joins twice and downloads nothing"""
CLIENT = "import sys; from edgefd_client.cli import main; main(sys.argv[1:])"


def run_until_it_has_its_bundle(
    federation: ExportedFederation, link: OpenLink, i: int, folder: Path, *more: str
) -> str:
    """Run a device in a process until it says how many proxy rows it accepts, then kill it. Return its output."""
    log = folder / f"device{i}.log"
    options = ["--server", link.address, "--client", str(i), "--data", str(federation.data[i])]
    options += ["--state", str(folder / f"state{i}"), *more]
    with log.open("w") as out:
        command = [sys.executable, "-c", CLIENT, "run", *options]
        device = subprocess.Popen(command, stdout=out, stderr=out, env=env({"PYTHONPATH": ":".join(sys.path)}))
    try:
        until(lambda: "proxy rows accepted" in log.read_text() or device.poll() is not None, 120)
    finally:
        device.send_signal(signal.SIGKILL)
        device.wait()
    assert "proxy rows accepted" in log.read_text(), log.read_text()
    return log.read_text()


def bytes_down(link: OpenLink) -> int:
    return int(link.metrics.bytes.labels("down")._value.get())


def test_devices_share_a_cache_and_the_second_one_downloads_nothing(
    federation: ExportedFederation, tmp_path: Path
) -> None:
    cache = tmp_path / "cache"
    whole = sum(f.stat().st_size for f in federation.bundle.iterdir())
    proxy = federation.bundle / "proxy.xz"
    digest = federation.read().manifest.files["proxy.xz"].sha256
    with open_device_link(federation) as link:
        run_until_it_has_its_bundle(federation, link, 0, tmp_path, "--cache", str(cache))
        first = bytes_down(link)
        assert first >= whole
        assert (cache / digest).read_bytes() == proxy.read_bytes()
        run_until_it_has_its_bundle(federation, link, 1, tmp_path, "--cache", str(cache))
        assert bytes_down(link) - first < REPLIES
        (cache / digest).write_bytes(b"damaged")
        last = bytes_down(link)
        log = run_until_it_has_its_bundle(federation, link, 2, tmp_path, "--cache", str(cache))
        assert "is damaged: it is downloaded again" in log
        assert proxy.stat().st_size <= bytes_down(link) - last < proxy.stat().st_size + REPLIES
    assert (cache / digest).read_bytes() == proxy.read_bytes()


@pytest.mark.parametrize("manner", ["ranges", "breaks", "no ranges"])
def test_a_device_gets_its_bundle_from_a_web_server(
    federation: ExportedFederation, tmp_path: Path, manner: str
) -> None:
    with web_server(federation.bundle, manner) as web, open_device_link(federation) as link:
        more = ("--cache", str(tmp_path / "cache"), "--bundle-url", web.url)
        run_until_it_has_its_bundle(federation, link, 0, tmp_path, *more)
        assert bytes_down(link) < REPLIES
        assert {name for name, _ in web.requests} == {f.name for f in federation.bundle.iterdir()}
    assert read_bundle(next(tmp_path.glob("state0/bundle-*"))).digest == federation.read().digest


@pytest.mark.parametrize("manner", ["other file", "wrong range", "endless", "missing"])
def test_the_coordinator_sends_what_a_web_server_does_not_deliver(
    federation: ExportedFederation, tmp_path: Path, manner: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    with (
        web_server(federation.bundle, manner) as web,
        open_device_link(federation) as link,
        connect(link.address, None, False) as channel,
    ):
        device = GrpcLink(channel, 0, ignore_line)
        device.join(None)
        folder = fetch_bundle(device, tmp_path, Sources(tmp_path / "cache", web.url))
        assert bytes_down(link) > REPLIES
    assert read_bundle(folder).digest == federation.read().digest
    assert "the coordinator sends it" in caplog.text
    for path in (tmp_path / "cache").iterdir():  # nothing that the web server sent instead is in it
        assert hashlib.sha256(path.read_bytes()).hexdigest() == path.name


@pytest.mark.parametrize("kind", ["a file", "not writable", "links"])
def test_a_cache_that_cannot_be_used_is_left(
    federation: ExportedFederation, tmp_path: Path, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    cache, secret = tmp_path / "cache", tmp_path / "secret"
    secret.write_bytes(b"secret")
    if kind == "a file":
        cache.write_bytes(b"")
    elif kind == "not writable":
        cache = Path("/proc/1/no-such-folder")
    else:
        cache.mkdir()
        for record in federation.read().manifest.files.values():
            (cache / record.sha256).symlink_to(secret)
    with open_device_link(federation) as link, connect(link.address, None, False) as channel:
        device = GrpcLink(channel, 0, ignore_line)
        device.join(None)
        folder = fetch_bundle(device, tmp_path / "state", Sources(cache))
    assert read_bundle(folder).digest == federation.read().digest
    assert "cannot use" in caplog.text or "cannot keep" in caplog.text
    assert secret.read_bytes() == b"secret"


@pytest.mark.parametrize(("folder_mode", "file_mode"), [(None, 0o600), (0o700, 0o600), (0o750, 0o640)])
def test_a_cache_is_readable_for_others_only_if_its_folder_is(
    tmp_path: Path, folder_mode: int | None, file_mode: int
) -> None:
    cache, blob = tmp_path / "cache", b"content"
    if folder_mode is not None:
        cache.mkdir()
        cache.chmod(folder_mode)
    digest = hashlib.sha256(blob).hexdigest()
    keep(cache, digest, blob)
    assert cached(cache, digest, 7) == blob
    assert cached(cache, digest, 6) is None
    assert (cache / digest).stat().st_mode & 0o777 == file_mode
    assert cache.stat().st_mode & 0o077 == (folder_mode or 0o700) & 0o077
