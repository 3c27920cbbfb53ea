"""Every key of a config is described, and the default that is shown is the one that the loader gives."""

from dataclasses import dataclass
from typing import Any, Literal

import pytest

from edgefd.config.keys import REQUIRED, Part, all_parts, form, parts_of
from edgefd.config.load import parse_config
from edgefd.config.schema import SECTIONS, Config, variant_key, variants
from edgefd.methods import method_names

NEEDED: dict[str, dict[str, Any]] = {  # of forms whose defaults are not a valid config
    "partition-file": {"path": "split.json"},
    **{f"selection-{name}": {"budget": 0.5} for name in ("adaspec", "ddk", "kd3", "pcoreset", "rad", "random")},
    "distillation-swing": {"temperature": 2.0},
}


def identifier(part: Part) -> str:
    return part.section if part.name is None else f"{part.section}-{part.name}"


def test_every_section_has_keys_and_each_key_is_described() -> None:
    parts = all_parts()
    assert {part.section for part in parts} == set(SECTIONS)
    assert [key.name for part in parts for key in part.keys if not key.doc] == []


def test_each_form_that_the_loader_knows_is_a_part() -> None:
    assert [part.name for part in parts_of("method")] == list(method_names())
    for section, kinds in variants().items():
        assert [part.name for part in parts_of(section)] == list(kinds)
        assert type(getattr(Config("edgefd", None), section)) is next(iter(kinds.values())), "the default comes first"


@pytest.mark.parametrize("part", all_parts(), ids=identifier)
def test_keys_and_defaults_are_those_that_the_loader_gives(part: Part, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgefd.config.load.check_consistency", lambda _: None)
    given = NEEDED.get(identifier(part), {})
    assert {key.name.partition(".")[2] for key in part.keys if key.default is REQUIRED} <= set(given)
    section: Any = given | ({} if part.name is None else {variant_key(part.section): part.name})
    loaded = parse_config({part.section: section} if section else {}).to_dict()[part.section]
    for key in part.keys:
        value = loaded if key.name == part.section else loaded[key.name.removeprefix(f"{part.section}.")]
        if key.name.partition(".")[2] not in section:
            assert value == key.default, key.name
    if part.keys[0].name != part.section:
        assert {key.name.removeprefix(f"{part.section}.") for key in part.keys} == set(loaded)


@dataclass(frozen=True)
class OfAUser:
    speed: Literal["slow", "fast"] = "slow"
    size: complex = 1j
    """a type that no section of edgefd has"""


def test_a_key_without_a_description_shows_in_the_settings_of_a_user() -> None:
    part = form("method", "package.module:METHOD", OfAUser, "moves")
    assert [(key.name, key.type, key.doc) for key in part.keys[1:]] == [
        ("method.speed", "slow, fast", ""),
        ("method.size", "<class 'complex'>", "a type that no section of edgefd has"),
    ]
