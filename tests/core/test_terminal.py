"""Names from outside on a console: shown as they are, and never obeyed."""

import io

import pytest
from rich.table import Table

from edgefd.core.terminal import safe_console

NAMES = ["[link=http://192.0.2.1]x[/link]", "[/foo]", "\x1b[31mred\x07", "\u202edesrever", "\x9b2J", ":smile:"]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("in_table", [False, True])
def test_a_console_obeys_no_name(name: str, in_table: bool) -> None:
    shown = Table(title=name)
    shown.add_column(name)
    shown.add_row(name)
    out = io.StringIO()
    safe_console(file=out, width=200).print(shown if in_table else name)
    text = out.getvalue()
    assert all(line.isprintable() for line in text.split("\n"))
    assert text.count(name if name.isprintable() else name.encode("unicode_escape").decode()) == (3 if in_table else 1)
