"""Explain a config: each key with its value, its default if the value differs from it, and its description."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from typing import Any

import yaml

from edgefd.config.keys import REQUIRED, Key, Part, form, parts_of
from edgefd.config.schema import SECTIONS, Config, variant_key, variants

WIDTH = 80


def explain(config: Config) -> list[str]:
    """Return the lines that explain every key of a config; a `*` marks values that differ from the default."""
    sections = config.to_dict()
    lines = ["# * marks a value that differs from its default"]
    for section in SECTIONS:
        entries = _entries(sections[section])
        for index, values in enumerate(entries):
            part = _part(config, section)
            title = section if len(entries) == 1 else f"{section}[{index}]"
            heading = f"{title}: {part.doc}" if part.doc and part.name is None else title
            lines += ["", *_wrapped(heading, "# ", "# ")]
            for key, value in _values(part, values):
                lines += _explained(key, key.name.replace(section, title, 1), value)
    return lines


def _entries(value: Any) -> list[Any]:
    """Return the sections with one name in a config: several for a list of models, otherwise one."""
    return value if isinstance(value, list) and value and isinstance(value[0], dict) else [value]


def _part(config: Config, section: str) -> Part:
    """Return the keys of a section, in the form that the config selects."""
    if section == "method":
        return form(section, config.method_name, type(config.method_config), config.method.summary)
    if section in variants():
        chosen = getattr(config, section)
        return form(section, getattr(chosen, variant_key(section)), type(chosen))
    return parts_of(section)[0]


def _values(part: Part, values: Any) -> Iterator[tuple[Key, Any]]:
    for key in part.keys:
        yield key, values if key.name == part.section else values[key.name.removeprefix(f"{part.section}.")]


def _explained(key: Key, name: str, value: Any) -> list[str]:
    """Return the lines of one key."""
    changed = key.default is not REQUIRED and value != key.default
    note = f"   (default: {as_yaml(key.default)})" if changed else ""
    lines = _wrapped(f"{name}: {as_yaml(value)}{note}", "* " if changed else "  ", "      ")
    if key.doc:
        lines += _wrapped(key.doc, "      ", "      ")
    if len(key.choices) > 1:
        lines += _wrapped(f"one of: {', '.join(key.choices)}", "      ", "      ")
    return lines


def as_yaml(value: Any) -> str:
    """Return a value as YAML in one line.

    >>> as_yaml(None), as_yaml([0, 1]), as_yaml(True), as_yaml("adam")
    ('null', '[0, 1]', 'true', 'adam')
    """
    text: str = yaml.safe_dump(value, default_flow_style=True, width=float("inf"), allow_unicode=True)
    return text.removesuffix("...\n").strip()


def _wrapped(text: str, first: str, others: str) -> list[str]:
    return textwrap.wrap(
        text, WIDTH, initial_indent=first, subsequent_indent=others, break_long_words=False, break_on_hyphens=False
    )
