"""`section.key=value` overrides of a config."""

from __future__ import annotations

import dataclasses
from typing import Any

import yaml

from edgefd.config.schema import PARTITIONS
from edgefd.core.errors import UserError
from edgefd.defences.apply import DEFENCES


def selects_variant(path: str) -> bool:
    """Whether that key chooses another method, partition and so on: such keys are set first, then their settings."""
    return path.endswith(".name")


def read_override(override: str) -> tuple[str, Any]:
    """Key and value of one `section.key=value`; values are YAML.

    Raises:
        UserError: if it is none.
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

    Settings that a new method or partition does not have go with the old one's name; all others stay.
    """
    *sections, key = path.split(".")
    node = raw
    for section in sections:
        child = node.setdefault(section, {})
        if not isinstance(child, dict):
            raise UserError(f"{path}: {section} is not a section")
        node = child
    if path == "method.name" and node.get("name", "edgefd") != value:
        node.clear()  # two methods' settings of one name need not mean the same
    kinds = {"partition.name": PARTITIONS, "defence.name": DEFENCES}.get(path, {})
    if isinstance(value, str) and value in kinds:
        known = {f.name for f in dataclasses.fields(kinds[value])}
        for other in [k for k in node if k not in known]:
            del node[other]
    node[key] = value
