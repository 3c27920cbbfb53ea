"""Fixtures of several test files about the device."""

import pytest

from tests.support.federations import Dealt, dealt, small


@pytest.fixture(scope="session")
def federation(tmp_path_factory: pytest.TempPathFactory) -> Dealt:
    """Return an exported federation of three clients. Tests must not change its files."""
    return dealt(small(), tmp_path_factory.mktemp("federation"))
