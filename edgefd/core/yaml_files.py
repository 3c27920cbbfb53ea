"""Reading and writing of YAML: the one loader of configs, of overrides and of the options of a device.

A value that YAML 1.1 and YAML 1.2 read differently is refused, because a user may mean either: `client: 010` is 8 in
one and 10 in the other. A file cannot make the reader use much memory or a deep stack: its size, the depth of its
nesting and its aliases are limited.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import yaml

from edgefd.core.errors import UserError
from edgefd.core.files import opened, os_errors
from edgefd.core.text import shown

MAX_BYTES = 2**20
MAX_DEPTH = 32
MAX_ALIASES = 16
"""aliases (`*name`) in one file; each can repeat what an earlier one has repeated already"""

_INT, _FLOAT, _STR = (f"tag:yaml.org,2002:{name}" for name in ("int", "float", "str"))
_AMBIGUOUS = "!ambiguous"
_TYPES = (
    ("tag:yaml.org,2002:null", r"~|null|Null|NULL|"),
    ("tag:yaml.org,2002:bool", r"true|True|TRUE|false|False|FALSE"),
    (_INT, r"[-+]?(0|[1-9][0-9]*)"),
    (_FLOAT, r"[-+]?(\.[0-9]+|(0|[1-9][0-9]*)(\.[0-9]*)?)([eE][-+]?[0-9]+)?"),
    (_FLOAT, r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)"),
    ("tag:yaml.org,2002:merge", r"<<"),
)
_PATTERNS = tuple((tag, re.compile(pattern)) for tag, pattern in _TYPES)
_OTHER_INTEGER = re.compile(r"[-+]?0[0-9]+|0o[0-7]+")  # not integers of YAML 1.1, but easily mistaken for them


def read_yaml(path: Path) -> Any:
    """Return the content of a YAML file as plain values; None for an empty file.

    Raises:
        UserError: if it cannot be read, is not valid YAML, or exceeds a limit.
    """
    with os_errors(f"read {path}"), opened(path) as file:
        blob = file.read(MAX_BYTES + 1)
    if len(blob) > MAX_BYTES:
        raise UserError(f"cannot read {path}: it is larger than {MAX_BYTES} bytes")
    try:
        return parse_yaml(blob.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise UserError(f"cannot read {path}: byte {error.start} is not UTF-8 text: save it as UTF-8") from error
    except ValueError as error:
        raise UserError(f"{path} is not valid YAML: {error}") from error


def parse_yaml(text: str) -> Any:
    """Return the plain values that a text describes.

    Raises:
        ValueError: if it is not valid YAML, or exceeds a limit; the message is one line.

    >>> parse_yaml("{client: 10, insecure: true, lr: 1e-3, name: no-1, when: null}")
    {'client': 10, 'insecure': True, 'lr': 0.001, 'name': 'no-1', 'when': None}
    """
    try:
        return yaml.load(text, _Loader)  # _Loader makes plain values only
    except yaml.MarkedYAMLError as error:
        where = error.problem_mark if "\n" in text.strip() else None
        line = "" if where is None else f"line {where.line + 1}: "
        raise ValueError(f"{line}{error.problem or error.context}") from error
    except (yaml.YAMLError, OverflowError) as error:
        raise ValueError(shown(error)) from error


def dump_yaml(value: Any, one_line: bool = False) -> str:
    """Return plain values as YAML that `parse_yaml` reads back as the same values, with keys in their order."""
    width = float("inf") if one_line else None
    text: str = yaml.dump(
        value, Dumper=_Dumper, sort_keys=False, allow_unicode=True, default_flow_style=one_line, width=width
    )
    return text.removesuffix("...\n").strip() if one_line else text


def _tag(text: str) -> str:
    """Return the type of a value without quotes: the one that YAML 1.1 and YAML 1.2 agree on, or `_AMBIGUOUS`.

    Numbers such as 1e-3, which only YAML 1.2 reads as numbers, are numbers.
    """
    for tag, pattern in _PATTERNS:
        if pattern.fullmatch(text):
            return tag
    yaml_1_1 = yaml.SafeLoader.yaml_implicit_resolvers.get(text[:1], [])
    if _OTHER_INTEGER.fullmatch(text) or any(pattern.match(text) for _, pattern in yaml_1_1):
        return _AMBIGUOUS
    return _STR


def _advice(text: str) -> str:
    """Return what to write instead of an ambiguous value.

    >>> _advice("010"), _advice("Yes"), _advice("12:30")
    ('write 10 for a number, or "010" for text', 'write true, or "Yes" for text', 'write "12:30"')
    """
    if text.lower() in ("yes", "on", "no", "off"):
        return f'write {"true" if text.lower() in ("yes", "on") else "false"}, or "{text}" for text'
    digits = text.replace("_", "").lower()
    for kind in cast(tuple[Callable[[str], float], ...], (int, lambda text: int(text, 0), float)):
        try:
            return f'write {kind(digits)} for a number, or "{text}" for text'
        except ValueError:
            continue
    return f'write "{text}"'


class _Types(yaml.resolver.Resolver):
    """Type of a value without quotes."""

    def resolve(self, kind: type[yaml.Node], value: Any, implicit: tuple[bool, bool]) -> str:
        """Return the type of a value."""
        if kind is yaml.ScalarNode and implicit[0]:
            return _tag(value)
        return str(super().resolve(kind, value, implicit))  # type: ignore[no-untyped-call]


class _Loader(_Types, yaml.SafeLoader):
    """Loader of plain values: text, numbers, true, false, null, lists and sections."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._depth = self._n_aliases = self._n_open_anchors = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        """Compose a value within the limits. An anchored value has no alias, so aliases cannot multiply each other."""
        event = self.peek_event()  # type: ignore[no-untyped-call]
        if is_alias := isinstance(event, yaml.AliasEvent):
            self._n_aliases += 1
        if self._n_aliases > MAX_ALIASES or (is_alias and self._n_open_anchors):
            raise _refusal(event, f"more than {MAX_ALIASES} aliases, or an alias in a value that has an anchor")
        if self._depth > MAX_DEPTH:
            raise _refusal(event, f"more than {MAX_DEPTH} levels")
        if getattr(event, "tag", None) is not None:
            raise _refusal(event, f"the tag {event.tag} is not supported: write the value without it")
        is_anchored = not is_alias and event.anchor is not None
        self._depth, self._n_open_anchors = self._depth + 1, self._n_open_anchors + is_anchored
        node = super().compose_node(parent, index)
        self._depth, self._n_open_anchors = self._depth - 1, self._n_open_anchors - is_anchored
        return node

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        """Compose a section, whose keys must differ."""
        node = super().compose_mapping_node(anchor)
        keys = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise _refusal(key, "a list or a section cannot be a key")
            if (key.tag, key.value) in keys:
                raise _refusal(key, f"the key {key.value} is there twice")
            keys.add((key.tag, key.value))
        return node

    def construct_integer(self, node: yaml.ScalarNode) -> int:
        """Return a whole number."""
        try:
            return int(node.value)
        except ValueError as error:  # Python limits the digits, because reading many takes long
            raise _refusal(node, f"a number of {len(node.value)} digits is too long") from error

    def construct_ambiguous(self, node: yaml.ScalarNode) -> Any:
        """Refuse the value."""
        raise _refusal(node, f"{node.value} has more than one meaning in YAML: {_advice(node.value)}")


class _Dumper(_Types, yaml.SafeDumper):
    """Dumper that puts text into quotes which `_Loader` would not read as text. It writes no aliases."""

    def ignore_aliases(self, data: Any) -> bool:
        """Write a value again where it occurs again."""
        return True

    def represent_text(self, text: str) -> yaml.Node:
        """Represent text; in double quotes if it has the line break NEL, which no other style keeps."""
        return self.represent_scalar("tag:yaml.org,2002:str", text, style='"' if "\x85" in text else None)


def _refusal(at: Any, problem: str) -> yaml.MarkedYAMLError:
    return yaml.MarkedYAMLError(problem=problem, problem_mark=at.start_mark)


_Loader.add_constructor(_INT, _Loader.construct_integer)
_Loader.add_constructor(_AMBIGUOUS, _Loader.construct_ambiguous)
_Dumper.add_representer(str, _Dumper.represent_text)
