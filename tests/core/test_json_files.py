"""JSON: what is refused, and what is written where JSON has no number."""

import json
import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgefd.core.json_files import append_json_line, parse_json, write_json, write_json_lines


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[" * 100_000, "nested too deeply"),
        ('{"a":' * 100_000, "nested too deeply"),
        ("[" * 101 + "]" * 101, "nested too deeply"),
        ("[0.5, -1e999]", "-1e999, which is not a finite number"),
        ("NaN", "NaN, which is not a number of JSON"),
        ('{"a": [-Infinity]}', "-Infinity, which is not a number of JSON"),
        ('{"a": 1, "b": 2, "a": 3}', "the key 'a' twice"),
        ("9" * 5000, "Exceeds the limit"),
        (b"\xff", "can't decode"),
        ("{", "Expecting"),
    ],
)
def test_what_is_not_plain_json_is_one_error(text: str | bytes, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_json(text)


def test_a_hundred_levels_are_read() -> None:
    assert parse_json("[" * 99 + "1.5" + "]" * 99)


def test_a_key_that_occurs_twice_is_found_among_very_many() -> None:
    keys = ",".join(f'"{i}":0' for i in range(300_000))
    with pytest.raises(ValueError, match="the key 'z' twice"):
        parse_json(f'{{{keys},"z":1,"z":2}}')


@given(st.binary(max_size=100) | st.text(alphabet='{}[]",:0-9eNaIn', max_size=60))
def test_any_text_is_a_value_or_a_value_error(text: bytes | str) -> None:
    try:
        parse_json(text)
    except ValueError:
        return


def test_numbers_that_json_does_not_have_become_null(tmp_path: Path) -> None:
    path, value = tmp_path / "a.json", {"loss": math.nan, "per_client": (1.0, math.inf), "n": 3}
    finite = {"loss": None, "per_client": [1.0, None], "n": 3}
    write_json(path, value)
    assert parse_json(path.read_bytes()) == finite
    write_json_lines(path, [value])
    append_json_line(path, value)
    assert [json.loads(line) for line in path.read_text().splitlines()] == [finite, finite]
    assert path.stat().st_mode & 0o077 == 0
