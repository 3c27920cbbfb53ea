"""Log messages on stderr, with their level, for a terminal and for journald."""

import logging
import re
from collections.abc import Iterator

import pytest

from edgefd.core.errors import UserError
from edgefd.core.log import LEVELS, LINES_PER_MINUTE, PACKAGES, LimitedHandler, configure_logging

SERVER = logging.getLogger("edgefd_server.serve.coordinator")


@pytest.fixture(autouse=True)
def restored_loggers(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.delenv("EDGEFD_LOG", raising=False)
    monkeypatch.delenv("JOURNAL_STREAM", raising=False)
    loggers = [logging.getLogger(name) for name in PACKAGES]
    before = [(logger, logger.level, list(logger.handlers)) for logger in loggers]
    yield
    for logger, level, handlers in before:
        logger.setLevel(level)
        logger.handlers[:] = handlers


def test_a_line_on_a_terminal_has_time_level_and_message(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging()
    SERVER.warning("connection is unencrypted")
    written = capsys.readouterr()
    assert re.fullmatch(r"\d\d:\d\d:\d\d warning connection is unencrypted\n", written.err)
    assert written.out == ""


@pytest.mark.parametrize(
    ("level", "prefix"),
    [(logging.DEBUG, "<7>"), (logging.INFO, "<6>"), (logging.WARNING, "<4>"), (logging.ERROR, "<3>"), (50, "<2>")],
)
def test_a_line_for_journald_has_a_priority_and_no_time(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], level: int, prefix: str
) -> None:
    monkeypatch.setenv("JOURNAL_STREAM", "8:12345")
    monkeypatch.setenv("EDGEFD_LOG", "debug")
    configure_logging()
    SERVER.log(level, "round %d", 3)
    assert capsys.readouterr().err == f"{prefix}round 3\n"


def test_every_line_of_a_traceback_has_the_priority_for_journald(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("JOURNAL_STREAM", "8:12345")
    configure_logging()
    try:
        raise ValueError("first\nsecond")
    except ValueError:
        SERVER.exception("failed")
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "<3>failed"
    assert lines[-1] == "<3>second"
    assert all(line.startswith("<3>") for line in lines)


@pytest.mark.parametrize(
    ("variable", "lowest"), [(None, "info"), ("", "info"), ("debug", "debug"), ("info", "info"), ("warning", "warning")]
)
def test_the_environment_variable_sets_the_level(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], variable: str | None, lowest: str
) -> None:
    if variable is not None:
        monkeypatch.setenv("EDGEFD_LOG", variable)
    configure_logging()
    for name, level in LEVELS.items():
        SERVER.log(level, name)
    names = list(LEVELS)
    assert [line.split()[-1] for line in capsys.readouterr().err.splitlines()] == names[names.index(lowest) :]


def test_an_unknown_level_is_refused_with_the_valid_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGEFD_LOG", "loud")
    with pytest.raises(UserError, match="EDGEFD_LOG is 'loud': set it to one of debug, info, warning"):
        configure_logging()


def test_a_second_call_writes_each_message_once(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging()
    configure_logging()
    for package in PACKAGES:
        logging.getLogger(f"{package}.part").warning("from %s", package)
    assert [line.split()[-1] for line in capsys.readouterr().err.splitlines()] == list(PACKAGES)


def test_loggers_of_other_libraries_are_left_alone() -> None:
    root, other = list(logging.getLogger().handlers), list(logging.getLogger("flwr").handlers)
    configure_logging()
    assert logging.getLogger().handlers == root
    assert logging.getLogger("flwr").handlers == other


def test_messages_of_one_kind_are_limited_and_the_rest_is_counted(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging()
    for number in range(1000):
        SERVER.warning("connection %d", number)
    SERVER.warning("another kind")
    for handler in logging.getLogger("edgefd_server").handlers:  # pytest has handlers of its own
        if isinstance(handler, LimitedHandler):
            handler.close()  # as at the end of the process
    lines = capsys.readouterr().err.splitlines()
    assert lines[-1].endswith(
        f"{1000 - LINES_PER_MINUTE} more messages like the last ones of {SERVER.name} were left out"
    )
    assert sum("connection" in line for line in lines) == LINES_PER_MINUTE
    assert sum("another kind" in line for line in lines) == 1


def test_characters_that_a_terminal_could_interpret_are_escaped(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging()
    SERVER.warning("refused %s", "\x1b[2J\x07\r\u202e")
    assert capsys.readouterr().err.endswith("warning refused \\x1b[2J\\x07\\r\\u202e\n")
