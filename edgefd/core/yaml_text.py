"""Reading of YAML from people and from other machines: bounded in size, and without surprises."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from edgefd.core.files import opened

MAX_BYTES = 2**20
"""largest size of a YAML file in bytes"""
MAX_NODES = 100_000
"""largest number of values in a YAML text, where every alias counts as all values that it repeats"""


class _Loader(yaml.SafeLoader):
    """Loader of plain values that refuses texts which grow when their aliases are expanded, and duplicate keys."""

    def get_single_node(self) -> Any:
        node = super().get_single_node()
        if node is not None:
            _n_nodes(node, {})
        return node

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        keys: set[str] = set()
        for key, _ in node.value if isinstance(node, yaml.MappingNode) else ():
            if isinstance(key, yaml.ScalarNode):
                if key.value in keys:
                    raise yaml.MarkedYAMLError(
                        problem=f"the key {key.value[:80]!r} is there twice", problem_mark=key.start_mark
                    )
                keys.add(key.value)
        return super().construct_mapping(node, deep)


def _n_nodes(node: Any, known: dict[int, int]) -> int:
    """Return the number of nodes after all aliases are expanded.

    Raises:
        ValueError: if there are too many, or a node contains itself.
    """
    if id(node) not in known:
        known[id(node)] = MAX_NODES  # a node that contains itself reaches the limit
        inner = [] if isinstance(node, yaml.ScalarNode) else node.value
        parts = [part for each in inner for part in (each if isinstance(each, tuple) else (each,))]
        known[id(node)] = 1 + sum(_n_nodes(part, known) for part in parts)
    if known[id(node)] > MAX_NODES:
        raise ValueError(f"it holds more than {MAX_NODES} values")
    return known[id(node)]


def parse_yaml(text: str) -> Any:
    """Return the plain value of a YAML text.

    Raises:
        ValueError: if it is not valid YAML, is too large, holds a key twice or is nested too deeply. The message is one
            line.
    """
    if len(text) > MAX_BYTES:
        raise ValueError(f"it is larger than {MAX_BYTES} bytes")
    try:
        return yaml.load(text, _Loader)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    except (yaml.YAMLError, ValueError) as error:
        raise ValueError(" ".join(str(error).split())[:300]) from error
    except (LookupError, AttributeError, TypeError, OverflowError) as error:  # from PyYAML's own conversions
        raise ValueError("a date, a number or a value with a tag (!!) is malformed") from error


def read_yaml_file(path: Path) -> Any:
    """Return the plain value of a YAML file that a user names.

    Raises:
        OSError: if it cannot be read.
        ValueError: if it is not UTF-8, or as for `parse_yaml`.
    """
    with opened(path) as file:
        return parse_yaml((file.read(MAX_BYTES + 1) or b"").decode())
