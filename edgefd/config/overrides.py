"""Overrides of a config: `section.key=value`."""

from __future__ import annotations

import dataclasses
from typing import Any

import yaml

from edgefd.config.schema import DEFAULT_METHOD, VARIANTS, variant_key
from edgefd.core.errors import UserError


def selects_variant(path: str) -> bool:
    """Return whether a key selects another method, partition and so on: such keys are set before all others."""
    section, _, key = path.rpartition(".")
    return key == variant_key(section)


def read_override(override: str) -> tuple[str, Any]:
    """Return the key and the value of `section.key=value`; the value is parsed as YAML.

    Raises:
        UserError: if the override has another form, or its value is not valid YAML.
    """
    path, equals, text = override.partition("=")
    if not equals or not all(path.split(".")):
        raise UserError(f"override {override!r} must look like section.key=value")
    try:
        return path, yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise UserError(f"override {override!r}: the value is not valid YAML") from error


def set_key(raw: dict[str, Any], path: str, value: Any) -> None:
    """Set `section.key` in plain dictionaries.

    Another method clears the whole section. Another partition, defence, selection or loss keeps the settings that it
    also has and removes the others.

    Raises:
        UserError: if a part of the path is not a section.
    """
    *sections, key = path.split(".")
    node = raw
    for section in sections:
        child = node.setdefault(section, {})
        if not isinstance(child, dict):
            raise UserError(f"{path}: {section} is not a section")
        node = child
    if path == "method.name" and node.get("name", DEFAULT_METHOD) != value:
        node.clear()  # settings of the same name can have another meaning in another method
    kinds = VARIANTS.get(path.rpartition(".")[0], {}) if selects_variant(path) else {}
    if isinstance(value, str) and value in kinds:
        valid = {f.name for f in dataclasses.fields(kinds[value])}
        for other in [k for k in node if k not in valid]:
            del node[other]
    node[key] = value
