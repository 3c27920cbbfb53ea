"""Download of files from web servers: they are bounded and continued, and a server that lies is found."""

from pathlib import Path

import pytest
from edgefd_client.http_source import NotDelivered, check_url, download

from edgefd.core.errors import UserError
from tests.support.web_servers import web_server

CONTENT = bytes(range(256)) * 100


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "served").mkdir()
    (tmp_path / "served" / "file").write_bytes(CONTENT)
    return tmp_path / "served"


@pytest.mark.parametrize("manner", ["ranges", "no ranges", "breaks"])
@pytest.mark.parametrize("present", [0, 1, 5000, len(CONTENT)])
def test_a_file_is_completed(folder: Path, tmp_path: Path, manner: str, present: int) -> None:
    path = tmp_path / "file"
    path.write_bytes(CONTENT[:present])
    with web_server(folder, manner) as server:
        download(f"{server.url}/file", path, len(CONTENT), len(CONTENT))
    assert path.read_bytes() == CONTENT
    if manner == "ranges":
        assert server.sent == len(CONTENT) - present  # nothing is sent twice
    if manner == "breaks" and not present:
        assert len(server.requests) > 3
        assert all(wanted is not None for _, wanted in server.requests[1:])


@pytest.mark.parametrize("manner", ["ranges", "no ranges", "breaks"])
def test_a_file_of_unknown_size_is_completed(folder: Path, tmp_path: Path, manner: str) -> None:
    with web_server(folder, manner) as server:
        download(f"{server.url}/file", tmp_path / "file", None, 2 * len(CONTENT))
    assert (tmp_path / "file").read_bytes() == CONTENT


@pytest.mark.parametrize(
    ("manner", "reason"),
    [
        ("wrong range", r"answers 206 'bytes .*' to a request of the bytes from \d+ on"),
        ("endless", "sends more than 25600 bytes"),
        ("encoded", "another encoding"),
        ("missing", "Not Found"),
        ("loop", "redirect"),
        ("to a file", "not allowed"),
    ],
)
def test_a_server_that_does_not_deliver_is_left(folder: Path, tmp_path: Path, manner: str, reason: str) -> None:
    path = tmp_path / "file"
    with web_server(folder, manner) as server, pytest.raises(NotDelivered, match=reason):
        download(f"{server.url}/file", path, len(CONTENT), len(CONTENT))
    assert path.stat().st_size <= len(CONTENT)
    assert len(server.requests) <= 20


def test_a_server_that_is_not_there_is_left(tmp_path: Path) -> None:
    with web_server(tmp_path) as server:
        pass
    with pytest.raises(NotDelivered, match="refused"):
        download(f"{server.url}/file", tmp_path / "file", 10, 10)


@pytest.mark.parametrize(
    "url",
    ["example.org/b", "ftp://example.org/b", "file:///b", "http://", "https://me:secret@example.org/b", "http://a/b?c"],
)
def test_other_addresses_are_refused(url: str) -> None:
    with pytest.raises(UserError, match="--bundle-url must be the address of a folder"):
        check_url(url)
