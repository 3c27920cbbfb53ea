"""Explain a config: each key with its value, its default if the value differs from it, and its description."""

from __future__ import annotations

import textwrap
from dataclasses import replace
from typing import Any

from edgefd.config.keys import REQUIRED, Key, Part, form, parts_of
from edgefd.config.partition import Own
from edgefd.config.schema import SECTIONS, Config, variant_key, variants
from edgefd.core.yaml_files import dump_yaml

WIDTH = 80


def explain(config: Config) -> list[str]:
    """Return the lines that explain every key of a config; a `*` marks values that differ from the default."""
    sections = config.to_dict()
    lines = ["# * marks a value that differs from its default"]
    for section in SECTIONS:
        part, value = _part(config, section), sections[section]
        entries = value if isinstance(value, list) and value and isinstance(value[0], dict) else [value]  # models
        for index, values in enumerate(entries):
            title = section if len(entries) == 1 else f"{section}[{index}]"
            heading = f"{title}: {part.doc}" if part.doc and part.name is None else title
            lines += ["", *_wrapped(heading, "# ", "# ")]
            for key in part.keys:
                name = key.name.replace(section, title, 1)
                lines += _explained(key, name, values if name == title else values[name.removeprefix(f"{title}.")])
    return lines


def _part(config: Config, section: str) -> Part:
    """Return the keys of a section, in the form that the config selects."""
    if section == "method":
        return form(section, config.method_name, type(config.method_config), config.method.summary)
    if section in variants():
        chosen = getattr(config, section)
        part = form(section, getattr(chosen, variant_key(section)), type(chosen))
        if not isinstance(chosen, Own):
            return part
        own = (Key(f"{section}.{key}", "", (), REQUIRED, f"argument of {chosen.name}") for key in chosen.arguments)
        return replace(part, keys=(part.keys[0], *own))
    return parts_of(section)[0]


def _explained(key: Key, name: str, value: Any) -> list[str]:
    """Return the lines of one key."""
    changed = key.default is not REQUIRED and value != key.default
    note = f"   (default: {dump_yaml(key.default, one_line=True)})" if changed else ""
    lines = _wrapped(f"{name}: {dump_yaml(value, one_line=True)}{note}", "* " if changed else "  ", "      ")
    if key.doc:
        lines += _wrapped(key.doc, "      ", "      ")
    if len(key.choices) > 1:
        lines += _wrapped(f"one of: {', '.join(key.choices)}", "      ", "      ")
    return lines


def _wrapped(text: str, first: str, others: str) -> list[str]:
    return textwrap.wrap(
        text, WIDTH, initial_indent=first, subsequent_indent=others, break_long_words=False, break_on_hyphens=False
    )
