"""`edgefd check --explain`: every key of a config, with its value, in 80 columns."""

from typing import Any

import pytest

from edgefd.config.explain import explain
from edgefd.config.keys import all_parts
from edgefd.config.load import parse_config
from edgefd.methods import method_names


def values_of(name: str, value: Any) -> dict[str, Any]:
    """Return the values of a section by their full names."""
    if isinstance(value, list) and value and isinstance(value[0], dict):
        return {k: v for i, entry in enumerate(value) for k, v in values_of(f"{name}[{i}]", entry).items()}
    return {f"{name}.{key}": inner for key, inner in value.items()} if isinstance(value, dict) else {name: value}


def explained(raw: dict[str, Any]) -> dict[str, str]:
    """Return the line of each key."""
    lines = [line for line in explain(parse_config(raw)) if line[:2] in ("  ", "* ") and line[2:3].strip()]
    return {line[2:].partition(":")[0]: line for line in lines}


CONFIGS: list[dict[str, Any]] = [
    {},
    *({"method": {"name": name}} for name in method_names()),
    {"partition": {"name": "file", "path": "split.json"}, "baselines": ["fedmd", "indlearn"]},
    {"partition": {"name": "dirichlet"}, "defence": {"name": "top_k"}, "model": ["cnn", {"name": "mlp"}]},
    {"attack": {"name": "random", "clients": [1, 2]}, "seed": 3, "data": {"limit": 100}},
]


@pytest.mark.parametrize("raw", CONFIGS, ids=str)
def test_every_key_of_a_config_is_explained_with_its_value(raw: dict[str, Any]) -> None:
    sections = parse_config(raw).to_dict()
    shown = explained(raw)
    assert set(shown) == {name for section, value in sections.items() for name in values_of(section, value)}
    assert max(map(len, explain(parse_config(raw)))) <= 80


def test_the_text_holds_the_description_of_each_key() -> None:
    text = " ".join(" ".join(explain(parse_config({}))).split())
    selected = [part for part in all_parts() if part.name in (None, "edgefd", "strong", "none")]
    assert [key.name for part in selected for key in part.keys if key.doc not in text] == []


def test_only_values_that_differ_from_their_default_are_marked() -> None:
    shown = explained(
        {"train": {"rounds": 7}, "partition": {"name": "iid"}, "attack": {"name": "random", "clients": [1]}}
    )
    assert {name for name, line in shown.items() if line.startswith("*")} == {
        "train.rounds",
        "partition.name",
        "attack.name",
        "attack.clients",
    }
    assert shown["train.rounds"] == "* train.rounds: 7   (default: 30)"
    assert shown["attack.clients"] == "* attack.clients: [1]   (default: [])"
    assert not any(line.startswith("*") for line in explained({}).values())
