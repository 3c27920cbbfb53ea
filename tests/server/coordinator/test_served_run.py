"""What a coordinator knows of a run from its bundles."""

from pathlib import Path

from tests.support.federations import export_federation, small


def test_the_bytes_before_the_first_round_are_those_of_the_bundle_of_every_client(tmp_path: Path) -> None:
    exported = export_federation(small(n_clients=3), tmp_path)
    size = sum(file.stat().st_size for file in exported.bundle.iterdir())
    assert exported.served().facts.bytes_once == 3 * size > 0
