"""The store of signals: a corrupt part or manifest is refused."""

from pathlib import Path

from tests.support.commands import audit
from tests.support.one_line import one_line


def test_a_corrupt_signal_is_refused(run: Path) -> None:
    assert audit(run, "--level", "0").returncode == 0
    path = run / "audit" / "signals" / "exposure.npz"
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    one_line(audit(run, "--level", "0"), 2, "exposure.npz is corrupt", "remove run/audit/signals")
    (run / "audit" / "signals" / "manifest.json").write_text("{")
    one_line(audit(run, "--level", "0"), 2, "manifest.json is corrupt")
