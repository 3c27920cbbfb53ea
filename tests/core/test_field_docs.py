"""Descriptions of fields are the strings after them in the source."""

from dataclasses import dataclass

from edgefd.core.field_docs import doc_of, field_docs


@dataclass(frozen=True)
class Base:
    """A base class.

    With more text.
    """

    a: int
    """first
    in two lines"""
    b: int = 0


@dataclass(frozen=True)
class Extended(Base):
    b: int = 1
    """described here"""
    c: str = "text"

    def method(self) -> None:
        """Return nothing."""


def test_the_string_after_a_field_describes_it_in_one_line() -> None:
    assert field_docs(Base)["a"] == "first in two lines"


def test_a_dataclass_has_the_descriptions_of_the_one_that_it_extends() -> None:
    assert field_docs(Extended) == {"a": "first in two lines", "b": "described here"}


def test_a_class_without_source_has_no_descriptions() -> None:
    scope: dict[str, type] = {}
    exec("from dataclasses import dataclass\n@dataclass\nclass Typed:\n    a: int = 0\n    'a description'", scope)
    assert field_docs(scope["Typed"]) == {}


def test_the_description_of_a_class_is_its_first_paragraph() -> None:
    assert doc_of(Base) == "A base class."
    assert doc_of(Extended) == ""
