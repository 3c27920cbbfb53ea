"""Errors are one short line, whatever they quote."""

from edgefd.core.errors import MAX_LINE, UserError


def test_an_error_that_quotes_a_very_long_name_keeps_its_beginning_and_its_advice() -> None:
    line = str(UserError(f"unknown name {'x' * 10**6}: give another"))
    assert len(line) < MAX_LINE + 10
    assert line.startswith("unknown name x")
    assert line.endswith("x: give another")
