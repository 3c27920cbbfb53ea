"""Published protocols by name: their settings are the defaults of a config, and a user's own keys override them."""

from typing import Any, get_args, get_type_hints

import pytest

from edgefd.config.load import load_config, parse_config
from edgefd.config.protocols import PROTOCOLS
from edgefd.config.schema import Config
from edgefd.core.errors import UserError


@pytest.mark.parametrize("name", PROTOCOLS)
def test_every_setting_of_a_protocol_is_in_the_resolved_config(name: str) -> None:
    resolved = parse_config({"protocol": name}).to_dict()
    assert resolved["protocol"] == name
    for section, settings in PROTOCOLS[name].settings.items():
        assert {key: resolved[section][key] for key in settings} == settings


def test_the_type_of_the_key_names_every_protocol() -> None:
    names, _ = get_args(get_type_hints(Config)["protocol"])
    assert get_args(names) == tuple(PROTOCOLS)


@pytest.mark.parametrize("name", PROTOCOLS)
def test_a_resolved_config_means_the_same_when_it_is_read_again(name: str) -> None:
    config = parse_config({"protocol": name, "train": {"rounds": 2}})
    assert parse_config(config.to_dict()) == config


def test_own_keys_of_a_file_and_overrides_win() -> None:
    config = load_config({"protocol": "weighted_fd", "train": {"rounds": 3}}, ["train.lr=0.5", "selection.budget=9"])
    assert (config.train.rounds, config.train.lr, config.selection.budget) == (3, 0.5, 9)
    assert config.train.warmup_steps == 200


def test_a_protocol_can_be_chosen_by_an_override() -> None:
    assert load_config({"train": {"rounds": 2}}, ["protocol=fedadas"]).train.local_epochs == 1


def test_another_method_or_rule_gets_no_settings_of_that_of_the_protocol() -> None:
    config = load_config({"protocol": "selective_fd"}, ["method.name=edgefd", "selection.name=all"])
    assert config.method_name == "edgefd"
    assert config.method_config == parse_config({"method": {"name": "edgefd"}}).method_config
    assert config.selection == parse_config({}).selection
    assert config.train == parse_config({"protocol": "selective_fd"}).train


def test_a_section_without_a_name_keeps_the_method_of_the_protocol() -> None:
    config = parse_config({"protocol": "selective_fd", "method": {"quantile": 0.5}})
    assert (config.method_name, config.method_config.width, config.method_config.quantile) == ("selective_fd", 5.0, 0.5)


@pytest.mark.parametrize(
    ("value", "message"), [("fedmdd", "did you mean 'fedmd'"), ([1], "unknown protocol"), (3, "3")]
)
def test_an_unknown_protocol_is_refused(value: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        parse_config({"protocol": value})


def test_without_a_protocol_nothing_changes() -> None:
    assert parse_config({"protocol": None}) == parse_config({})
