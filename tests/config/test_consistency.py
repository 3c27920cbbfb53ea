"""The table of rules that a config must keep: every rule is broken by a config of this file, with its own error."""

from typing import Any

import pytest

from edgefd.config import load
from edgefd.config.consistency import METHOD_RULES, RANGES, RULES, Rule
from edgefd.config.load import parse_config
from edgefd.config.schema import Config
from edgefd.core.errors import UserError
from edgefd.methods import get_method

MEDIAN = {"name": "median"}
RANDOM_ATTACK = {"name": "random", "clients": [0]}
TWO_HEADS = {"name": "mlp", "heads": 2}
RECORDED = {"record_knowledge": True}
PUBLIC = {"proxy": {"source": "public"}, "method": {"name": "fedmd"}}

OF_RANGES: list[dict[str, Any]] = [
    {"codec": {"changes_above": 1.0}},
    {"codec": {"name": "int8", "changes_above": 0.0}},
    {"seed": -1},
    {"proxy": {"alpha": 1.0}},
    {"data": {"heldout": 0.0}},
    {"data": {"validation": 1.0}},
    {"data": {"limit": 0}},
    {"data": {"mean": [0.5], "deviation": [0.5]}},
    {"data": {"extractor_size": 64}},
    {"partition": {"name": "weak", "n_clients": 0}},
    {"partition": {"name": "dirichlet", "alpha": 0.0}},
    {"partition": {"name": "shards", "classes_per_client": 0}},
    {"run": {"workers": -1}},
    {"run": {"device": "gpu"}},
    {"run": {"stack": 0}},
    {"run": {"evaluate_every": 0}},
    {"run": {"record_every": 0}},
    {"run": {"checkpoint_every": -1}},
    {"run": {"patience": 0}},
]
OF_RULES: list[dict[str, Any]] = [
    {"run": {"stack": 4}, "defence": {"name": "dp_sgd"}},
    {"run": {"device": "cuda", "learner": "onnx"}},
    {"run": {**RECORDED, "patience": 2}},
    {"data": {"evaluate_on": "validation"}},
    {"data": {"validation": 0.1}, "partition": {"name": "file", "path": "parts.json"}},
    {"proxy": {"path": "proxy.npz", "keep": True}},
    {"proxy": {"data": "digits"}},
    {"proxy": {"source": "public", "data": {"name": "digits", "limit": 9}, "path": "proxy.npz"}},
    {"partition": {"name": "file", "path": "parts.json"}, "proxy": {"source": "public"}},
    {"method": {"name": "indlearn"}, "run": RECORDED},
    {"method": {"name": "indlearn"}, "attack": RANDOM_ATTACK},
    {"method": {"name": "indlearn"}, "aggregator": MEDIAN},
    {"method": {"name": "indlearn"}, "defence": {"name": "label_only"}},
    {"proxy": {"source": "public"}, "distillation": {"loss": "mixed"}},
    {**PUBLIC, "defence": {"name": "noise"}, "selection": {"name": "ddk", "budget": 0.5}},
    {**PUBLIC, "defence": {"name": "pate"}, "run": {"patience": 3}},
    {"devices": {"fleet": {"pi_4": 1}}, "coordinator": {"min_reports": 1, "lateness": 0.5}},
    {**PUBLIC, "devices": {"fleet": {"pi_4": 1}}, "defence": {"name": "dp_sgd"}, "train": {"local_steps": 1}},
    {**PUBLIC, "defence": {"name": "noise"}, "model": TWO_HEADS, "train": {"adjusted_steps": 0}},
]
OF_METHODS: list[dict[str, Any]] = [
    {"method": {"name": "weighted_fd"}, "aggregator": MEDIAN},
    {"method": {"name": "fedavg"}, "coordinator": {"min_reports": 1, "stale_reports": "buffer"}},
    {"method": {"name": "fedavg"}, "attack": RANDOM_ATTACK},
    {"method": {"name": "fkd"}, "codec": {"name": "uint8"}},
    {"method": {"name": "fedavg"}, "codec": {"changes_above": 0.0}},
    {"method": {"name": "scarlet"}, "selection": {"name": "random", "budget": 0.5}},
    {"method": {"name": "fkd"}, "distillation": {"loss": "pld"}},
    {"method": {"name": "fedproto"}, "run": {"learner": "onnx"}},
    {"method": {"name": "feded"}, "model": TWO_HEADS, "train": {"adjusted_steps": 0}},
    {"method": {"name": "fedmd"}, "model": TWO_HEADS, "train": {"adjusted_steps": 0}, "distillation": {"loss": "pld"}},
    {"method": {"name": "fedmd"}, "model": TWO_HEADS},
    {"method": {"name": "fedmd"}, "model": TWO_HEADS, "train": {"adjusted_steps": 0}, "run": RECORDED},
    {"method": {"name": "fedavg"}, "train": {"initial": "own"}},
    {"method": {"name": "fedavg"}, "model": [{"name": "mlp"}, {"name": "cnn"}]},
]
OF_BASELINES = [{**sections, "method": {}, "baselines": [sections["method"]["name"]]} for sections in OF_METHODS]
"""the same sections with a method that they fit, and the other method as a baseline"""


def unchecked(sections: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> Config:
    with monkeypatch.context() as patch:
        patch.setattr(load, "check_consistency", lambda _: None)
        return parse_config(sections)


def broken(config: Config) -> list[tuple[Rule, str]]:
    """Return the rules that a config breaks, each with its error."""
    pairs = [(rule, get_method(config.method_name)) for rule in (*RANGES, *RULES)]
    pairs += [(rule, get_method(n)) for n in (config.method_name, *config.baselines) for rule in METHOD_RULES]
    return [(r, r.message.format(config=config, method=m)) for r, m in pairs if r.breaks(config, m)]


def error_of(sections: dict[str, Any]) -> str:
    with pytest.raises(UserError) as caught:
        parse_config(sections)
    return str(caught.value)


@pytest.mark.parametrize("sections", [*OF_RANGES, *OF_RULES, *OF_METHODS, *OF_BASELINES], ids=str)
def test_a_config_that_breaks_a_rule_gets_the_error_of_the_rule_in_one_line(
    sections: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    error = error_of(sections)
    assert error == broken(unchecked(sections, monkeypatch))[0][1]
    assert "\n" not in error


@pytest.mark.parametrize(
    ("rules", "configs"), [(RANGES, OF_RANGES), (RULES, OF_RULES), (METHOD_RULES, OF_METHODS)], ids=["0", "1", "2"]
)
def test_every_rule_is_the_first_that_some_config_breaks(
    rules: tuple[Rule, ...], configs: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert [broken(unchecked(sections, monkeypatch))[0][0] for sections in configs] == list(rules)


def test_the_default_config_breaks_no_rule(monkeypatch: pytest.MonkeyPatch) -> None:
    assert broken(unchecked({}, monkeypatch)) == []
