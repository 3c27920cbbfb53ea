"""Downloads: size limits, checksums, mirrors, and no partial file after an error."""

import hashlib
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from edgefd.core.errors import UserError
from edgefd.data.download import MIRRORS, REMOTE, Remote, download, fetch_dataset

BODY = bytes(range(256)) * 2000
MD5 = hashlib.md5(BODY).hexdigest()


class Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        if "missing" in self.path:
            self.send_error(404, "Not Found")
            return
        self.send_response(200)
        if "nonsense" in self.path:
            self.send_header("Content-Length", "many")
        elif "unannounced" not in self.path:
            self.send_header("Content-Length", str(len(BODY)))
        self.end_headers()
        self.wfile.write(BODY[: len(BODY) // 2] if "cut" in self.path else BODY)

    def log_message(self, *args: object) -> None:
        """Log nothing."""


@pytest.fixture
def server() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as httpd:
        thread = threading.Thread(target=httpd.serve_forever, args=(0.01,))
        thread.start()
        yield f"http://127.0.0.1:{httpd.server_port}/"
        httpd.shutdown()
        thread.join()


@pytest.mark.parametrize("file", ["whole", "unannounced", "nonsense"])
def test_a_file_with_the_expected_md5_is_written_completely(server: str, tmp_path: Path, file: str) -> None:
    download(server + file, tmp_path / "new" / "f", md5=MD5, max_bytes=len(BODY))
    assert (tmp_path / "new" / "f").read_bytes() == BODY


@pytest.mark.parametrize(
    ("file", "md5", "max_bytes", "message"),
    [
        ("missing", MD5, 10**7, "Not Found"),
        ("whole", "0" * 32, 10**7, "its md5 is"),
        ("whole", MD5, 1000, "more than the limit of 1000"),
        ("unannounced", MD5, 1000, "more bytes than the limit of 1000"),
        ("cut", MD5, 10**7, "is incomplete|IncompleteRead"),
    ],
)
def test_a_rejected_download_leaves_no_file(
    server: str, tmp_path: Path, file: str, md5: str, max_bytes: int, message: str
) -> None:
    with pytest.raises(UserError, match=message):
        download(server + file, tmp_path / "f", md5=md5, max_bytes=max_bytes)
    assert list(tmp_path.iterdir()) == []


def test_an_unreachable_server_is_reported_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot download"):
        download("http://127.0.0.1:9/f", tmp_path / "f", md5=MD5, max_bytes=10, timeout=5)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_created_is_reported_in_one_line(server: str, tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("a file")
    with pytest.raises(UserError, match="cannot download"):
        download(server + "whole", tmp_path / "taken" / "f", md5=MD5, max_bytes=10**7)


def test_fetch_dataset_tries_the_next_mirror_and_downloads_only_missing_or_wrong_files(
    server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    remote = {"mnist": (Remote("a", MD5, 10**7), Remote("b", MD5, 10**7))}
    folder = fetch_dataset("mnist", {"mnist": (server + "missing/", server)}, remote)
    assert folder == tmp_path / "edgefd" / "mnist"
    assert sorted(p.name for p in folder.iterdir()) == ["a", "b"]
    fetch_dataset("mnist", {"mnist": ("http://127.0.0.1:9/",)}, remote)  # all files exist: nothing is downloaded
    (folder / "b").write_bytes(BODY[:-1])
    fetch_dataset("mnist", {"mnist": (server,)}, remote)  # a wrong file is downloaded again
    assert (folder / "b").read_bytes() == BODY
    (folder / "a").unlink()
    with pytest.raises(UserError, match=r"127\.0\.0\.1:9/a.*; cannot download"):
        fetch_dataset("mnist", {"mnist": ("http://127.0.0.1:9/", server + "missing/")}, remote)


@pytest.mark.parametrize(
    ("name", "message"),
    [("mnits", "unknown data set"), ("digits", "needs no download"), ("watch", "cannot be downloaded")],
)
def test_a_data_set_without_a_download_is_refused(name: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        fetch_dataset(name)


def test_every_remote_file_has_a_pinned_md5() -> None:
    assert set(MIRRORS) == set(REMOTE)
    for files in REMOTE.values():
        assert all(len(bytes.fromhex(f.md5)) == 16 for f in files)
