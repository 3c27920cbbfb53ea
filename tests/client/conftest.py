"""Fixtures of several test files about the device."""

import pytest

from tests.support.federations import ExportedFederation, export_federation, small


@pytest.fixture(scope="session")
def federation(tmp_path_factory: pytest.TempPathFactory) -> ExportedFederation:
    """Return an exported federation of three clients. Tests must not change its files."""
    return export_federation(small(), tmp_path_factory.mktemp("federation"))
