"""Overrides of a config: `section.key=value`, or a dict from keys to values."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from edgefd.config.schema import DEFAULT_METHOD, variant_key, variants
from edgefd.core.errors import UserError
from edgefd.core.yaml_files import parse_yaml

Overrides = Mapping[str, Any] | Sequence[str]
"""settings by key, such as {"train.rounds": 2}, or a list of "key=value" whose values are YAML"""


def selects_variant(path: str) -> bool:
    """Return whether a key selects another method, partition and so on: such keys are set before all others."""
    section, _, key = path.rpartition(".")
    return key == variant_key(section)


def read_overrides(overrides: Overrides) -> list[tuple[str, Any]]:
    """Return the keys and the values of overrides, those that select a variant first.

    Raises:
        UserError: if a key or a value has another form.
    """
    if isinstance(overrides, Mapping):
        pairs = [(_checked_key(key, key), plain(value)) for key, value in overrides.items()]
    else:
        texts = [overrides] if isinstance(overrides, str) else overrides
        if not isinstance(texts, list | tuple) or not all(isinstance(text, str) for text in texts):
            raise UserError(f"overrides must be a dict or a list of section.key=value, not {overrides!r}")
        pairs = [read_override(text) for text in texts]
    return sorted(pairs, key=lambda pair: selects_variant(pair[0]), reverse=True)


def plain(value: Any) -> Any:
    """Return a value of Python as YAML would give it: tuples as lists, paths as text, numbers of numpy as numbers."""
    if isinstance(value, Mapping):
        return {key: plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [plain(inner) for inner in value]
    if isinstance(value, np.generic):
        return value.item()
    return os.fspath(value) if isinstance(value, os.PathLike) else value


def read_override(override: str) -> tuple[str, Any]:
    """Return the key and the value of `section.key=value`; the value is parsed as YAML.

    Raises:
        UserError: if the override has another form, or its value is not valid YAML.
    """
    path, equals, text = override.partition("=")
    _checked_key(path if equals else "", override)
    try:
        return path, parse_yaml(text)
    except ValueError as error:
        raise UserError(f"override {override!r}: the value is not valid YAML: {error}") from error


def _checked_key(key: object, override: object) -> str:
    if not isinstance(key, str) or not all(key.split(".")):
        raise UserError(f"override {override!r} must look like section.key=value")
    return key


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
        if child is None:  # an empty section of YAML
            child = node[section] = {}
        if node is raw and section == "model" and isinstance(child, str):  # the short form of {name: ...}
            child = node[section] = {"name": child}
        if not isinstance(child, dict):
            raise UserError(f"{path}: {section} is not a section")
        node = child
    if path == "method.name" and node.get("name", DEFAULT_METHOD) != value:
        node.clear()  # settings of the same name can have another meaning in another method
    kinds = variants().get(path.rpartition(".")[0], {}) if selects_variant(path) else {}
    if isinstance(value, str) and (value in kinds or (kinds and ":" in value)):
        valid = {f.name for f in dataclasses.fields(kinds[value])} if value in kinds else set()
        for other in [k for k in node if k not in valid]:
            del node[other]
    node[key] = value
