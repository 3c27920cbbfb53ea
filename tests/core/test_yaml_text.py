"""YAML of a person or of another machine: one error for everything that is not small and plain."""

from contextlib import suppress
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgefd.core.yaml_text import MAX_BYTES, parse_yaml, read_yaml_file

LEVELS = "abcdefghij"
LAUGHS = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "\n".join(
    f"{name}: &{name} [{', '.join([f'*{inner}'] * 9)}]" for inner, name in pairwise(LEVELS)
)
MERGES = "a: &a {x: 1}\n" + "\n".join(
    f"{name}: &{name} {{<<: [{', '.join([f'*{inner}'] * 9)}]}}" for inner, name in pairwise(LEVELS)
)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (LAUGHS, "more than 100000 values"),
        (MERGES, "more than 100000 values"),
        ("&a [*a]", "more than 100000 values"),
        ("&a {b: *a}", "more than 100000 values"),
        ("a: 1\na: 2", "the key 'a' is there twice"),
        ("run: {workers: 1, workers: 2}", "the key 'workers' is there twice"),
        ("[" * 5000, "nested too deeply"),
        ("{a: " * 5000, "nested too deeply"),
        ("\n".join(" " * depth + "a:" for depth in range(1200)), "nested too deeply"),
        ("x" * (MAX_BYTES + 1), "larger than"),
        ("a: " + "9" * 5000, "Exceeds the limit"),
        ("day: 2020-99-99", "month must be in"),
        ("a: !!timestamp x", "malformed"),
        ("a: !!bool x", "malformed"),
        ("a: !!int ''", "malformed"),
        ("a: !!python/object/apply:os.system [true]", "could not determine a constructor"),
        ("a: \x00", "special characters"),
        ("a: 1\n---\nb: 2", "expected a single document"),
    ],
)
def test_a_harmful_or_malformed_text_is_one_error_of_one_line(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        parse_yaml(text)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) <= 300


def test_a_few_aliases_and_merged_keys_are_read() -> None:
    text = "base: &b {x: 1, y: 2}\nother: {<<: *b, x: 3}\nagain: *b\n"
    assert parse_yaml(text) == {"base": {"x": 1, "y": 2}, "other": {"x": 3, "y": 2}, "again": {"x": 1, "y": 2}}
    assert parse_yaml("") is None


@given(st.text(max_size=200) | st.text(alphabet="&*ab:[]{}<!-? \n'\"", max_size=80))
def test_any_text_is_a_value_or_a_value_error(text: str) -> None:
    with suppress(ValueError):
        parse_yaml(text)


def test_a_file_that_never_ends_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="larger than"):
        read_yaml_file(Path("/dev/zero"))
    (tmp_path / "latin1").write_bytes(b"\xff")
    with pytest.raises(ValueError, match="can't decode"):
        read_yaml_file(tmp_path / "latin1")
