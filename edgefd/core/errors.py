"""Errors that a command reports in one line, and helpers for their text."""

import difflib
from collections.abc import Iterable
from importlib.util import find_spec

MAX_LINE = 4000
"""most characters of an error: a file or a coordinator may state a name of a megabyte"""


class _OneLine(Exception):
    """Exception whose text is one short line of printable characters, whatever the names in it are."""

    def __str__(self) -> str:
        text = super().__str__()
        if len(text) > MAX_LINE:  # the end has the advice
            text = f"{text[: MAX_LINE // 2]} ... {text[-MAX_LINE // 2 :]}"
        return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


class UserError(_OneLine, ValueError):
    """Bad input, described in one line: what is wrong, and what to do."""


class InUse(UserError):
    """A file or folder that another process uses, or has used for something else."""


class RunError(_OneLine, RuntimeError):
    """Reason why a run cannot continue."""


class Stopped(Exception):
    """Interruption by Ctrl-C, with a message that names what was saved.

    It is not a KeyboardInterrupt, because command-line libraries handle that one themselves.
    """


def hint(word: str, valid: Iterable[str], otherwise: str = "") -> str:
    """Return the valid word that an unknown word resembles, or the list of all valid words.

    `otherwise` is a choice that is not a single word, named at the end of the list.

    >>> hint("edgfd", ["edgefd", "fedmd"]), hint("x", ["edgefd", "fedmd"])
    ("did you mean 'edgefd'?", 'there are edgefd, fedmd')
    >>> hint("x", ["mnist"], otherwise="the path of an npz")
    'there are mnist, or the path of an npz'
    """
    words = list(valid)
    near = difflib.get_close_matches(word, words, 1, cutoff=0.5)
    if near:
        return f"did you mean {near[0]!r}?"
    return f"there are {', '.join(words) or 'none'}" + (f", or {otherwise}" if otherwise else "")


def require(extra: str, *packages: str) -> None:
    """Check that the packages of an extra are installed.

    Raises:
        UserError: if one is missing; the message names the extra to install.
    """
    missing = [name for name in packages if find_spec(name) is None]
    if missing:
        raise UserError(f"this needs {', '.join(missing)}: pip install 'edgefd[{extra}]'")
