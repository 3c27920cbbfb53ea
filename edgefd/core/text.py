"""Text that comes from outside: made safe to show on a terminal, in a log and on a page."""

from __future__ import annotations

MAX_SHOWN = 500
"""most characters of a text from outside that are shown"""


def escaped(text: str) -> str:
    r"""Return text in which every character that a terminal could interpret is replaced by its escape.

    These are control characters, format characters such as those that reverse the direction of writing, and characters
    without a meaning. Line feeds stay.

    >>> print(escaped("a\x1b[31mred\rb\u202ec\nd"))
    a\x1b[31mred\rb\u202ec
    d
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c == "\n" else c.encode("unicode_escape").decode() for c in text)


def shown(text: object, limit: int = MAX_SHOWN) -> str:
    r"""Return text from outside in one line of at most `limit` characters (4 or more), escaped.

    Use it where a name, an error or a message of another party enters a line of ours.

    >>> print(shown("one\n two\x07"), shown("x" * 9, 4))
    one two\x07 x...
    """
    line = escaped(" ".join(str(text)[: limit + 1].split()))
    return line if len(line) <= limit else f"{line[: limit - 3]}..."
