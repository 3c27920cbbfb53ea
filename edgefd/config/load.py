"""Read a config from a YAML file or from plain dictionaries."""

from __future__ import annotations

import dataclasses
import json
import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, get_type_hints

from pydantic import TypeAdapter, ValidationError

from edgefd.config.consistency import check_consistency
from edgefd.config.overrides import Overrides, plain, read_overrides, set_key
from edgefd.config.partition import FromFile, Own
from edgefd.config.protocols import with_protocol
from edgefd.config.schema import (
    DEFAULT_METHOD,
    OBJECT,
    SECTIONS,
    Config,
    Model,
    Proxy,
    variant_key,
    variants,
)
from edgefd.core.errors import UserError, hint
from edgefd.core.objects import look_in
from edgefd.core.paths import user_path
from edgefd.core.yaml_files import read_yaml
from edgefd.data.core_set import CoreSet
from edgefd.data.datasets import is_path
from edgefd.data.proxy_data import ProxyData
from edgefd.methods import get_method

Source = str | os.PathLike[str] | Mapping[str, Any] | Config
"""a YAML file, its sections as a dict, or a config"""
PACKAGED = {
    Path("simulations/quickstart.yaml"): Path(__file__).with_name("quickstart.yaml"),
    Path("simulations/tuning/methods.yaml"): Path(__file__).with_name("tuning_space.yaml"),
}
"""configs of the checkout that are part of the package too: they are found from every folder"""
_SHARED = ("protocol", "seed", "data", "partition", "devices", "run", "baselines")
"""sections that no baseline may have, because methods are compared on the same split"""


def load_config(source: Source, overrides: Overrides = (), objects: Mapping[str, Any] | None = None) -> Config:
    """Return the checked config of a YAML file, of a dict of its sections, or of a config.

    Args:
        source: the path of a YAML file, a dict such as {"method": {"name": "edgefd"}}, or a `Config`. The path
            simulations/quickstart.yaml is found from every folder, because that config is part of the package.
        overrides: settings that replace those of `source`: {"train.rounds": 2}, or ["train.rounds=2"].
        objects: objects of a session, by their names in `source` or `overrides`; `edgefd.simulate` passes them.

    Raises:
        UserError: for the first error; the message names the key, the error and the valid values.
    """
    known = {**(source.objects if isinstance(source, Config) else {}), **(objects or {})}
    raw = read_sections(source)
    for key, value in read_overrides(overrides):
        set_key(raw, key, value)
    return parse_config(raw, known)


def read_sections(source: Source) -> dict[str, Any]:
    """Return the sections of a config as plain values, which the caller may change.

    Raises:
        UserError: if it is a file that cannot be read or does not hold sections.
    """
    if isinstance(source, Config | Mapping):
        return dict(plain(source.to_dict() if isinstance(source, Config) else source))
    return _read_sections(user_path(source))


def _read_sections(path: Path) -> dict[str, Any]:
    if os.path.exists(path):
        look_in(path.parent)
    raw = read_yaml(path if os.path.exists(path) else PACKAGED.get(path, path)) or {}
    if not isinstance(raw, dict):
        raise UserError(f"{path} must hold sections such as data: and method:, not a {type(raw).__name__}")
    return raw


def parse_config(raw: Mapping[str, Any], objects: Mapping[str, Any] | None = None) -> Config:
    """Return the config that plain dictionaries describe; names that begin with `OBJECT` stand for `objects`.

    Raises:
        UserError: for the first error; the message names the key, the error and the valid values.
    """
    _check_keys("", raw, SECTIONS)
    objects = objects or {}
    used = set(_check_plain("", raw, objects))
    raw = with_protocol(raw)
    method_section = _section(raw, "method")
    name = str(method_section.pop("name", DEFAULT_METHOD))
    config = Config(
        method_name=name,
        method_config=_parse("method", (objects.get(name) or get_method(name)).config, method_section),
        **{section: _parse_section(section, raw) for section in SECTIONS if section != "method"},
        objects={name: objects[name] for name in objects if name in used},
        baseline_settings={name: own for name, own in _baselines(raw.get("baselines", [])) if own},
    )
    check_consistency(config)
    for name in config.baseline_settings:
        baseline_config(config, name)
    return with_paths(config, lambda path: str(user_path(path)) if path.startswith("~") or "\0" in path else path)


def with_paths(config: Config, change: Callable[[str], str]) -> Config:
    """Return the config with every path of a file changed."""
    name, extractor, path, partition = config.data.name, config.data.extractor, config.proxy.path, config.partition
    if is_path(name):
        name = change(name)
    if extractor is not None and extractor.endswith(".onnx"):
        extractor = change(extractor)
    if isinstance(partition, FromFile):
        partition = replace(partition, path=change(partition.path))
    test = config.data.test
    if test is not None and is_path(test):
        test = change(test)
    data = replace(config.data, name=name, test=test, extractor=extractor)
    public = config.proxy.data
    if public is not None and is_path(public.name):
        public = replace(public, name=change(public.name))
    proxy = replace(config.proxy, path=path and change(path), data=public)
    models = tuple(replace(model, init=model.init and change(model.init)) for model in config.model)
    devices = replace(config.devices, profiles=tuple(change(path) for path in config.devices.profiles))
    return replace(config, data=data, proxy=proxy, partition=partition, model=models, devices=devices)


def _parse_section(section: str, raw: Mapping[str, Any]) -> Any:
    """Return the value of a section other than `method`."""
    match section:
        case "protocol":
            return raw.get("protocol")
        case "seed":
            return _parse("seed", _Seed, {"seed": raw.get("seed", 0)}).seed
        case "model":
            return _models(raw.get("model", {}))
        case "baselines":
            return tuple(name for name, _ in _baselines(raw.get("baselines", [])))
        case "proxy":
            return _proxy(raw)
        case "partition" if ":" in str((values := _section(raw, "partition")).get("name")):
            return Own(str(values.pop("name")), values)
    if section in variants():
        return _one_of(section, raw)
    return _parse(section, get_type_hints(Config)[section], _section(raw, section))


def _one_of(section: str, raw: Mapping[str, Any]) -> Any:
    """Return a section in which one key selects one of several dataclasses."""
    values, kinds, key = _section(raw, section), variants()[section], variant_key(section)
    name = str(values.get(key, next(iter(kinds))))
    if name not in kinds:
        what = section if key == "name" else key
        other = "package.module:Class for one of your own or of flwr_datasets" if section == "partition" else ""
        raise UserError(f"{section}.{key}: unknown {what} {name!r}: {hint(name, kinds, other)}")
    for setting in values:
        owners = [other for other, kind in kinds.items() if setting in _names(kind)]
        if owners and name not in owners:
            raise UserError(f"{section}.{setting} is for {key}={' or '.join(owners)}, not {name}")
    return _parse(section, kinds[name], values)


@dataclass(frozen=True)
class _Seed:
    seed: int


def _baselines(raw: object) -> list[tuple[str, dict[str, Any]]]:
    """Return the names of the baselines, each with its own settings."""
    entries = raw if isinstance(raw, list) else [None]
    sections = [dict(entry) if isinstance(entry, dict) else {"name": entry} for entry in entries]
    names = [section.pop("name", None) for section in sections]
    if not all(isinstance(name, str) for name in names):
        raise UserError("baselines must be a list of methods, such as [fedmd, {name: scarlet, beta: 2}]")
    for name in names:
        get_method(str(name))
    if len(set(names)) < len(names):
        raise UserError("baselines names a method twice")
    return [(str(name), section) for name, section in zip(names, sections, strict=True)]


def baseline_config(config: Config, name: str) -> Config:
    """Return the config of one of the baselines of a config: that of `Config.for_method`, with its own settings.

    A key of a section replaces the same key of the config, as an override does. None is a section of defaults.

    Raises:
        UserError: if its settings are wrong; the message names the baseline.
    """
    plain, own = config.for_method(name), config.baseline_settings.get(name, {})
    if not own:
        return plain
    if shared := [key for key in own if key in _SHARED]:
        raise UserError(f"baseline {name}: {shared[0]} is the same for all methods of a run: remove it here")
    raw = plain.to_dict()
    for key, value in own.items():
        if key == "method" or key not in SECTIONS:
            raw["method"][key] = value
        elif isinstance(value, dict) and isinstance(raw[key], dict):
            for setting in sorted(value, key=lambda setting: setting != variant_key(key)):
                set_key(raw, f"{key}.{setting}", value[setting])
        else:
            raw[key] = value
    try:
        return parse_config(raw, plain.objects)
    except UserError as error:
        raise UserError(f"baseline {name}: {error}") from error


def _models(raw: object) -> tuple[Model, ...]:
    sections = [{"name": s} if isinstance(s, str) else s for s in (raw if isinstance(raw, list) else [raw])]
    if not sections or not all(isinstance(s, dict) for s in sections):
        raise UserError("model must be a name, a section such as {name: cnn}, or a list of either")
    return tuple(_parse("model", Model, s) for s in sections if isinstance(s, dict))


def _proxy(raw: Mapping[str, Any]) -> Proxy:
    """Return the section `proxy`; its keys `data` and `core` are sections too, or `data` is the name of a data set."""
    values = _section(raw, "proxy")
    data, core = values.pop("data", None), values.pop("core", None)
    proxy: Proxy = _parse("proxy", Proxy, values)
    if core is not None:
        proxy = replace(proxy, core=_parse("proxy.core", CoreSet, _section({"proxy.core": core}, "proxy.core")))
    if data is None:
        return proxy
    own = {"name": data} if isinstance(data, str) else _section({"proxy.data": data}, "proxy.data")
    return replace(proxy, data=_parse("proxy.data", ProxyData, own))


def _section(raw: Mapping[str, Any], name: str) -> dict[str, Any]:
    section = raw.get(name)
    if section is None:
        return {}
    if not isinstance(section, dict):
        raise UserError(f"{name} must be a section of keys, such as {name}: {{name: ...}}, not {section!r}")
    return dict(section)


def _check_plain(where: str, value: object, objects: Mapping[str, Any]) -> Iterator[str]:
    """Check that there are only text, numbers, lists and sections, and no dates, sets or bytes.

    Yields:
        The names of objects; each must be in `objects`.
    """
    if isinstance(value, Mapping):
        for key, inner in value.items():
            if not isinstance(key, str):
                raise UserError(f"{where}: the key {key!r} must be text")
            yield from _check_plain(f"{where}.{key}" if where else key, inner, objects)
    elif isinstance(value, list):
        for inner in value:
            yield from _check_plain(where, inner, objects)
    elif isinstance(value, str) and not value.isprintable() and any("\ud800" <= c <= "\udfff" for c in value):
        raise UserError(f"{where}: {value!r} is not valid Unicode: use a name of which all bytes are UTF-8")
    elif isinstance(value, str) and value.startswith(OBJECT):
        if value not in objects:
            raise UserError(
                f"{where}: {value!r} was an object of a Python session, which no config can hold: "
                "pass it to edgefd.simulate again"
            )
        yield value
    elif not isinstance(value, str | int | float | None):
        raise UserError(f"{where}: {value} is a {type(value).__name__}, not text or a number: put it in quotes")


def _parse(section: str, kind: Any, values: Mapping[str, Any]) -> Any:
    """Return one section as an instance of its dataclass."""
    _check_keys(section, values, _names(kind))
    try:
        parsed = TypeAdapter(kind).validate_json(json.dumps(values), strict=True)
    except ValidationError as error:
        first = error.errors()[0]
        where = "seed" if section == "seed" else ".".join([section, *(str(part) for part in first["loc"])])
        got = f" (got {first['input']!r})" if first["type"] not in ("missing", "value_error") else ""
        raise UserError(f"{where}: {first['msg'].removeprefix('Value error, ')}{got}") from error
    for name in _names(kind):
        value = getattr(parsed, name)
        if isinstance(value, float) and not math.isfinite(value):
            raise UserError(f"{section}.{name}: must be a finite number (got {value})")
    return parsed


def _names(kind: Any) -> list[str]:
    return [f.name for f in dataclasses.fields(kind)]


def _check_keys(section: str, values: Mapping[str, Any], valid: Sequence[str]) -> None:
    for key in values:
        if key not in valid:
            where = f"{section}.{key}" if section else str(key)
            raise UserError(f"{where}: unknown key, {hint(str(key), valid)}")
