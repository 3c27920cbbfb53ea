"""Every key of a config with its type, default and description, from the dataclasses of the sections."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from edgefd.config.schema import DEFAULT_METHOD, SECTIONS, Config, variant_key, variants
from edgefd.core.field_docs import doc_of, field_docs
from edgefd.methods import get_method, method_names

REQUIRED = dataclasses.MISSING
"""stands for the default of a key that must be given"""
_WORDS = {int: "whole number", float: "number", bool: "true or false", str: "text", NoneType: "null"}


@dataclass(frozen=True)
class Key:
    """One key of a config."""

    name: str
    """name with its section, as in overrides: train.rounds"""
    type: str
    """type of the value in words, or its allowed values"""
    choices: tuple[str, ...]
    """the values that the type allows; empty for a type with any number of values"""
    default: Any
    """value if the key is not given, as in YAML; REQUIRED if there is none"""
    doc: str
    """description; "" if the code has none"""


@dataclass(frozen=True)
class Part:
    """The keys of one section, or of one form of it if the key `name` selects one of several forms."""

    section: str
    """section of a config, one of SECTIONS"""
    name: str | None
    """value of the key `name` that selects this form; None for a section of one form"""
    doc: str
    """description of the section or of the form"""
    keys: tuple[Key, ...]
    """the keys; for one of several forms, the first is `name`"""


def parts_of(section: str) -> list[Part]:
    """Return the forms of a section of a config: one, or as many as its key `name` has values."""
    if section == "method":
        return [form(section, name, get_method(name).config, get_method(name).summary) for name in method_names()]
    if section in variants():
        return [form(section, name, kind) for name, kind in variants()[section].items()]
    hint = get_type_hints(Config)[section]
    doc = field_docs(Config).get(section, "")
    kind = get_args(hint)[0] if get_origin(hint) is tuple else hint
    if isinstance(kind, type) and dataclasses.is_dataclass(kind):
        doc = f"{doc_of(kind)} {doc[:1].upper()}{doc[1:]}".strip()
        return [Part(section, None, doc, _keys(section, kind))]
    default = _default({f.name: f for f in dataclasses.fields(Config)}[section])
    return [Part(section, None, "", (_key(section, hint, default, doc),))]


def all_parts() -> list[Part]:
    """Return the forms of all sections, in the order of SECTIONS."""
    return [part for section in SECTIONS for part in parts_of(section)]


def form(section: str, name: str, kind: type, doc: str | None = None) -> Part:
    """Return the keys of the form of a section that a value of its key `name` selects.

    Args:
        section: section whose key `name` selects one of several dataclasses.
        name: value of the key; it may be the path of an object of a user, which no table lists.
        kind: dataclass of this form.
        doc: description of this form (None = the first paragraph of the docstring of the dataclass).
    """
    doc = doc_of(kind) if doc is None else doc
    names = method_names() if section == "method" else tuple(variants()[section])
    selector = Key(
        f"{section}.{variant_key(section)}", "text", names, DEFAULT_METHOD if section == "method" else names[0], doc
    )
    return Part(section, name, doc, (selector, *(k for k in _keys(section, kind) if k.name != selector.name)))


def _keys(section: str, kind: Any) -> tuple[Key, ...]:
    hints, docs = get_type_hints(kind), field_docs(kind)
    return tuple(
        _key(f"{section}.{f.name}", hints[f.name], _default(f), docs.get(f.name, "")) for f in dataclasses.fields(kind)
    )


def _key(name: str, hint: Any, default: Any, doc: str) -> Key:
    choices = tuple(str(value) for value in get_args(hint)) if get_origin(hint) is Literal else ()
    return Key(name, in_words(hint), choices, default, doc)


def _default(field: dataclasses.Field[Any]) -> Any:
    default = field.default if field.default_factory is dataclasses.MISSING else field.default_factory()
    return list(default) if isinstance(default, tuple) else default


def in_words(hint: Any) -> str:
    """Return a type in words: the values that YAML accepts for it.

    >>> in_words(int | None), in_words(Literal["sgd", "adam"]), in_words(tuple[int, ...])
    ('whole number or null', 'sgd, adam', 'list of whole numbers')
    """
    inner = get_args(hint)
    if get_origin(hint) is Literal:
        return ", ".join(map(str, inner))
    if get_origin(hint) in (Union, UnionType):
        return " or ".join(map(in_words, inner))
    if get_origin(hint) is tuple:
        return f"list of {in_words(inner[0])}s"
    if get_origin(hint) is dict:
        return "section"
    return _WORDS.get(hint, str(hint))  # the config of a user's own method may have any type
