"""Text from outside, as it is shown."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgefd.core.text import escaped, shown


@pytest.mark.parametrize(
    "harmful",
    ["\x1b[2J", "\x9b31m", "\x07", "\r", "\x08", "\u202e", "\u2066", "\u200b", "\x00", "\ud800", "\u2028", "\x7f"],
)
def test_a_character_that_a_terminal_could_interpret_is_escaped(harmful: str) -> None:
    assert harmful not in shown(f"a{harmful}b")
    assert shown(f"a{harmful}b").isprintable()


@given(st.text(), st.integers(4, 50))
def test_any_text_becomes_one_printable_line_of_bounded_length(text: str, limit: int) -> None:
    line = shown(text, limit)
    assert line.isprintable()
    assert len(line) <= limit


@given(st.text())
def test_printable_text_and_line_feeds_stay(text: str) -> None:
    assert escaped(text).replace("\n", "").isprintable()
    assert escaped("é ü 漢字\n✓") == "é ü 漢字\n✓"
