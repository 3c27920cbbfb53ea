"""The one reader of YAML: what it refuses, and that it reads back what it writes."""

import re
from pathlib import Path

import hypothesis.strategies as st
import pytest
from hypothesis import example, given

from edgefd.core.errors import UserError
from edgefd.core.yaml_files import MAX_BYTES, dump_yaml, parse_yaml, read_yaml

MISTAKABLE = ("yes", "010", "1e3", "0o7", "12:30", "~", "1_0", "2001-01-01", "<<", "=", ".5", "null", "x")
TEXTS = st.sampled_from(MISTAKABLE) | st.text(st.characters(exclude_categories=["Cs"]))
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=8,
)


@pytest.mark.parametrize(
    ("value", "advice"),
    [
        *(("010", "write 10 for a number"), ("08", "write 8 for"), ("0o10", "write 8 for"), ("0x10", "write 16 for")),
        *(("1_000", "write 1000 for"), ("1_0.5", "write 10.5 for"), ("-007", "write -7 for")),
        *(("yes", "write true, or"), ("On", "write true, or"), ("no", "write false, or"), ("OFF", "write false, or")),
        *(("12:30", 'write "12:30"'), ("2001-12-14", 'write "2001-12-14"'), ("=", 'write "="')),
    ],
)
def test_a_value_that_versions_of_yaml_read_differently_is_refused_with_what_to_write(value: str, advice: str) -> None:
    with pytest.raises(ValueError, match="more than one meaning") as caught:
        parse_yaml(f"a: 1\nclient: {value}\n")
    assert str(caught.value).startswith("line 2: ")
    assert advice in str(caught.value)
    assert parse_yaml(f"client: '{value}'") == {"client": value}
    with pytest.raises(ValueError, match="more than one meaning"):
        parse_yaml(f"{{{value}: 1}}")


@pytest.mark.parametrize(
    ("text", "value"),
    [
        *(("10", 10), ("-3", -3), ("+3", 3), ("0", 0), ("1e-3", 0.001), (".5", 0.5), ("5.", 5.0), ("-1.5E+3", -1500.0)),
        *(("-.inf", float("-inf")), ("true", True), ("False", False), ("null", None), ("~", None), ("~/x", "~/x")),
        *(("10.0.0.7:50051", "10.0.0.7:50051"), ("1.2.3", "1.2.3"), ("cnn", "cnn"), ("", None), ("own:Net", "own:Net")),
    ],
)
def test_every_other_value_is_read_as_yaml_1_2_reads_it(text: str, value: object) -> None:
    assert parse_yaml(text) == value
    assert type(parse_yaml(text)) is type(value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\na: 2", "line 2: the key a is there twice"),
        ("a: !!int '010'", "the tag tag:yaml.org,2002:int is not supported"),
        ("a: !!python/object:os.system x", "is not supported"),
        ("a: &a [*a]", "an alias in a value that has an anchor"),
        ("a: &a [1, 1]\nb: &b [*a, *a]\nc: [*b, *b]", "an alias in a value that has an anchor"),
        ("a: &a [1]\nb: [" + "*a, " * 20 + "]", "more than 16 aliases"),
        ("[" * 100_000, "more than 32 levels"),
        ("{[1]: 2}", "cannot be a key"),
        ("a: " + "9" * 5000, "a number of 5000 digits is too long"),
        ("a: [1", "expected ',' or ']'"),
        ("a: \x00", "unacceptable character"),
        ("--- 1\n--- 2", "another document"),
    ],
)
def test_what_is_not_plain_values_within_the_limits_is_refused_in_one_line(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)) as caught:
        parse_yaml(text)
    assert "\n" not in str(caught.value)


def test_an_alias_and_a_merged_section_are_read() -> None:
    assert parse_yaml("a: &a {b: 1, c: 2}\nd: {<<: *a, c: 3}") == {"a": {"b": 1, "c": 2}, "d": {"b": 1, "c": 3}}


@given(VALUES, st.booleans())
@example("a\x85b", False)
def test_what_is_written_is_read_back(value: object, one_line: bool) -> None:
    assert parse_yaml(dump_yaml(value, one_line)) == value


def test_a_file_may_begin_with_a_byte_order_mark(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_bytes("\ufeffa: é\n".encode())
    assert read_yaml(path) == {"a": "é"}


@pytest.mark.parametrize(
    ("blob", "message"),
    [
        (b"\xff", "byte 0 is not UTF-8"),
        (b"a: yes", "is not valid YAML: yes has more"),
        (b" " * (MAX_BYTES + 1), "larger than"),
    ],
)
def test_a_file_that_cannot_be_read_is_named(tmp_path: Path, blob: bytes, message: str) -> None:
    path = tmp_path / "a.yaml"
    path.write_bytes(blob)
    with pytest.raises(UserError, match=rf"a\.yaml.*{message}|{message}.*a\.yaml"):
        read_yaml(path)
    with pytest.raises(UserError, match=r"cannot read .*: Is a directory"):
        read_yaml(tmp_path)
