"""Check that a command fails with one line on stderr."""

import subprocess


def one_line(done: subprocess.CompletedProcess[str], code: int, *words: str) -> None:
    """Check the exit code, and that stderr is one line with all the words."""
    assert done.returncode == code, done.stderr
    assert done.stderr.count("\n") == 1, done.stderr
    for word in words:
        assert word in done.stderr
