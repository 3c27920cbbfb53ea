"""A small federation and its certificates, which the tests of the device link share."""

from pathlib import Path

import pytest
from edgefd_server import certs

from tests.support.federations import ExportedFederation, export_federation, small


@pytest.fixture(scope="session")
def federation(tmp_path_factory: pytest.TempPathFactory) -> ExportedFederation:
    return export_federation(small(), tmp_path_factory.mktemp("federation"))


@pytest.fixture(scope="session")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("keys") / "certs"
    certs.init(folder, ["localhost", "127.0.0.1"], 10)
    for i in range(3):
        certs.add_device(folder, f"device-{i}", i, 10)
    return folder
