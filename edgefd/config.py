"""A run's configuration: YAML sections → frozen dataclasses, checked by pydantic; an unknown key is an error."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import TypeAdapter, ValidationError

from edgefd.aggregation import Aggregator, aggregate_of
from edgefd.attack import Attack
from edgefd.codecs import CODECS
from edgefd.cores import cores
from edgefd.defences.choice import DEFENCES, Defence, NoDefence, Private, check_method, check_private, defended
from edgefd.distillation import Distillation, needs_logits
from edgefd.errors import UserError, hint
from edgefd.method import Method, get_method
from edgefd.quorum import Coordinator
from edgefd.round import Training
from edgefd.selection.settings import ASKS, Selection


@dataclass(frozen=True)
class Data:
    """Which data set."""

    name: str = "mnist_mini"
    """mnist_mini, mnist, fashion_mnist, cifar10, digits, watch, or the path of an npz"""
    limit: int | None = None
    """keep only so many training samples, equally many of each class (None = all)"""
    test_people: tuple[int, ...] | None = None
    """watch only: numbers of the people who are the test; all others are clients (None = 8 and 9)"""
    heldout: float = 0.1
    """share of each client's private rows that are kept from training, for the filter's threshold and for evaluation"""
    extractor: str | None = None
    """frozen network whose features take the samples' place: efficientnet_lite0 or _lite2, or the path of an .onnx"""
    extractor_size: int | None = None
    """pixels a side that an EfficientNet sees (None = 192)"""


@dataclass(frozen=True)
class Strong:
    """One class a client."""

    name: Literal["strong"] = "strong"
    n_clients: int = 10


@dataclass(frozen=True)
class Weak:
    """Half of class i and half of class i + 1."""

    name: Literal["weak"] = "weak"
    n_clients: int = 10


@dataclass(frozen=True)
class Iid:
    """Equal random shares."""

    name: Literal["iid"] = "iid"
    n_clients: int = 10


@dataclass(frozen=True)
class Dirichlet:
    """Each class is dealt out in shares drawn from Dirichlet(alpha): the smaller alpha, the fewer classes a client."""

    name: Literal["dirichlet"] = "dirichlet"
    n_clients: int = 10
    alpha: float = 0.5


@dataclass(frozen=True)
class Shards:
    """Sorted by label, cut into shards, so many shards a client."""

    name: Literal["shards"] = "shards"
    n_clients: int = 10
    classes_per_client: int = 2


@dataclass(frozen=True)
class QuantitySkew:
    """IID, but sizes are drawn from Dirichlet(alpha)."""

    name: Literal["quantity_skew"] = "quantity_skew"
    n_clients: int = 10
    alpha: float = 0.5


@dataclass(frozen=True)
class ByGroup:
    """One client for each group of the data set (such as each person)."""

    name: Literal["by_group"] = "by_group"


@dataclass(frozen=True)
class FromFile:
    """A user's own index lists: a .json list of lists, or an npz of client_0, client_1, ..."""

    path: str
    name: Literal["file"] = "file"


Partition = Strong | Weak | Iid | Dirichlet | Shards | QuantitySkew | ByGroup | FromFile
PARTITIONS: dict[str, type] = {
    "strong": Strong,
    "weak": Weak,
    "iid": Iid,
    "dirichlet": Dirichlet,
    "shards": Shards,
    "quantity_skew": QuantitySkew,
    "by_group": ByGroup,
    "file": FromFile,
}


@dataclass(frozen=True)
class Proxy:
    """Where the shared samples come from."""

    source: Literal["contributed", "public"] = "contributed"
    """contributed: a fraction of every client's private data; public: a part held out before the data is dealt out"""
    alpha: float = 0.1
    """that fraction, in (0, 1)"""
    keep: bool = False
    """contributed rows also stay in the private set"""
    path: str | None = None
    """an npz to use instead: public `x`, and `y` if claims are to be measured; or contributed, from `edgefd collect`"""


@dataclass(frozen=True)
class Model:
    """A client's model."""

    name: str = "cnn"
    """a model of edgefd, or one's own as "package.module:Factory", called with (shape of a sample, classes)"""
    learner: Literal["torch", "onnx"] | None = None
    """what trains it (None = what run.learner says)"""
    heads: Literal[1, 2] = 1
    """2: one for private labels, one for the teacher (DHO), mixed to predict; for simulations only"""


@dataclass(frozen=True)
class CodecChoice:
    """How knowledge travels."""

    name: str = "float16"


@dataclass(frozen=True)
class Run:
    """How the run is done: nothing here changes results, but for the low bits of `learner`."""

    workers: int | Literal["auto"] = "auto"
    """worker processes; auto = one for each core this process may use, 0 = none: one client after another"""
    evaluate_every: int = 1
    """measure accuracy every so many rounds (the last is always measured)"""
    learner: Literal["torch", "onnx"] = "torch"
    """onnx: clients train by the exported graph in ONNX Runtime, as devices do"""
    record_knowledge: bool = False
    """keep what each party sees in RUN/knowledge, for `edgefd audit`: reports, teachers, claims, models (a coordinator
    sees reports and teachers)"""
    record_every: int = 10
    """with record_knowledge: keep the clients' models every so many rounds; those of the last are always kept"""

    @property
    def n_workers(self) -> int:
        """Worker processes, counted."""
        return cores() if self.workers == "auto" else self.workers


@dataclass(frozen=True)
class Config:
    """A whole run."""

    method_name: str
    method_config: Any
    """of the method's own Config class"""
    seed: int = 0
    data: Data = field(default_factory=Data)
    partition: Partition = field(default_factory=Strong)
    proxy: Proxy = field(default_factory=Proxy)
    model: tuple[Model, ...] = (Model(),)
    """dealt out to the clients in turn"""
    train: Training = field(default_factory=Training)
    codec: CodecChoice = field(default_factory=CodecChoice)
    run: Run = field(default_factory=Run)
    aggregator: Aggregator = field(default_factory=Aggregator)
    attack: Attack = field(default_factory=Attack)
    defence: Defence = field(default_factory=NoDefence)
    coordinator: Coordinator = field(default_factory=Coordinator)
    selection: Selection = field(default_factory=Selection)
    distillation: Distillation = field(default_factory=Distillation)
    also: tuple[str, ...] = ()
    """other methods to run on the same split, with their default settings"""

    @property
    def method(self) -> Method:
        """The method's functions, with the aggregator and the defence of this config."""
        method = defended(get_method(self.method_name), self.defence)
        if self.aggregator == Aggregator():
            return method
        rule = aggregate_of(self.aggregator)
        return dataclasses.replace(method, aggregate=lambda uploads, _: rule(uploads))

    def model_of(self, client: int) -> Model:
        """A client's model: they are dealt out in turn."""
        return self.model[client % len(self.model)]

    def for_method(self, name: str) -> Config:
        """The same run with another method, at its defaults; a reference that exchanges nothing runs undisturbed."""
        method = get_method(name)
        config = dataclasses.replace(self, method_name=name, method_config=method.config(), also=())
        if method.exchanges:
            return config
        silent = dataclasses.replace(self.run, record_knowledge=False)
        models = tuple(dataclasses.replace(model, heads=1) for model in self.model)
        config = dataclasses.replace(config, model=models, selection=Selection(), distillation=Distillation())
        return dataclasses.replace(config, attack=Attack(), defence=NoDefence(), coordinator=Coordinator(), run=silent)

    def to_dict(self) -> dict[str, Any]:
        """As it would stand in YAML, every default written out."""
        out = dataclasses.asdict(self)
        method = {"name": out.pop("method_name"), **out.pop("method_config")}
        if people := out["data"]["test_people"]:
            out["data"]["test_people"] = list(people)
        models = out.pop("model")
        out["attack"]["clients"] = list(self.attack.clients)
        out |= {"model": models[0] if len(models) == 1 else list(models), "method": method, "also": list(self.also)}
        return {key: out[key] for key in _SECTIONS}


_SECTIONS = (
    *("seed", "data", "partition", "proxy", "model", "method", "train", "codec", "run"),
    *("aggregator", "attack", "defence", "coordinator", "selection", "distillation", "also"),
)


def load_config(path: Path, overrides: Sequence[str] = ()) -> Config:
    """The config in a YAML file, with `section.key=value` overrides.

    Raises:
        UserError: for anything wrong with it: the key, what is wrong and what is valid.
    """
    raw = read_yaml(path)
    for override in sorted(overrides, key=lambda o: renames(o.partition("=")[0]), reverse=True):
        set_key(raw, *read_override(override))
    return parse_config(raw)


def read_yaml(path: Path) -> dict[str, Any]:
    """The sections of a YAML file.

    Raises:
        UserError: if it cannot be read or holds anything else.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read config {path}: {getattr(error, 'strerror', None) or error}") from error
    try:
        raw = yaml.safe_load(text) or {}
    except yaml.YAMLError as error:
        raise UserError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from error
    if not isinstance(raw, dict):
        raise UserError(f"{path} must hold sections such as data: and method:, not a {type(raw).__name__}")
    return raw


def parse_config(raw: Mapping[str, Any]) -> Config:
    """The config from plain dictionaries."""
    _known("", raw, _SECTIONS)
    _check_plain("", raw)
    method_section = _section(raw, "method")
    name = str(method_section.pop("name", "edgefd"))
    config = Config(
        method_name=name,
        method_config=_parse("method", get_method(name).config, method_section),
        seed=_parse("seed", _Seed, {"seed": raw.get("seed", 0)}).seed,
        data=_parse("data", Data, _section(raw, "data")),
        partition=_one_of("partition", PARTITIONS, raw, "strong"),
        proxy=_parse("proxy", Proxy, _section(raw, "proxy")),
        model=_models(raw.get("model", {})),
        train=_parse("train", Training, _section(raw, "train")),
        codec=_parse("codec", CodecChoice, _section(raw, "codec")),
        run=_parse("run", Run, _section(raw, "run")),
        aggregator=_parse("aggregator", Aggregator, _section(raw, "aggregator")),
        attack=_parse("attack", Attack, _section(raw, "attack")),
        defence=_one_of("defence", DEFENCES, raw, "none"),
        coordinator=_parse("coordinator", Coordinator, _section(raw, "coordinator")),
        selection=_parse("selection", Selection, _section(raw, "selection")),
        distillation=_parse("distillation", Distillation, _section(raw, "distillation")),
        also=_also(raw.get("also", [])),
    )
    _check(config)
    return config


def _one_of(section: str, kinds: Mapping[str, type], raw: Mapping[str, Any], default: str) -> Any:
    """A section whose name says of which kind it is."""
    values = _section(raw, section)
    name = str(values.get("name", default))
    if name not in kinds:
        raise UserError(f"{section}.name: unknown {section} {name!r}: {hint(name, kinds)}")
    return _parse(section, kinds[name], values)


@dataclass(frozen=True)
class _Seed:
    seed: int


def _check(config: Config) -> None:
    """What no section can tell alone, and ranges."""
    if not 0 <= config.seed < 2**64:
        raise UserError(f"seed must be at least 0 and below 2**64, not {config.seed}")
    if not 0 < config.proxy.alpha < 1:
        raise UserError(
            f"proxy.alpha is the fraction of samples that are shared: it must be in (0, 1), not {config.proxy.alpha}"
        )
    if not 0 < config.data.heldout < 1:
        raise UserError(f"data.heldout must be in (0, 1), not {config.data.heldout}")
    if config.data.limit is not None and config.data.limit < 1:
        raise UserError("data.limit must be at least 1")
    if config.data.extractor is None and config.data.extractor_size is not None:
        raise UserError("data.extractor_size needs data.extractor=efficientnet_lite0 or efficientnet_lite2")
    people = config.data.test_people
    if people is not None and (not people or list(people) != sorted(set(people))):
        raise UserError(f"data.test_people must be people in ascending order, each once, not {list(people)}")
    collected = config.proxy.path is not None and config.proxy.source == "contributed"
    if collected and config.proxy.keep:
        raise UserError(
            "proxy.keep: with proxy.path devices have said so themselves (`edgefd-client contribute --keep`)"
        )
    if isinstance(config.partition, FromFile) and config.proxy.source == "public" and config.proxy.path is None:
        raise UserError(
            "partition file names rows of the whole training set: give proxy.path, or proxy.source=contributed"
        )
    if config.codec.name not in CODECS:
        raise UserError(f"codec.name: unknown codec {config.codec.name!r}: {hint(config.codec.name, CODECS)}")
    if getattr(config.partition, "n_clients", 1) < 1:
        raise UserError("partition.n_clients must be at least 1")
    if getattr(config.partition, "alpha", 1.0) <= 0:
        raise UserError("partition.alpha must be above 0")
    if getattr(config.partition, "classes_per_client", 1) < 1:
        raise UserError("partition.classes_per_client must be at least 1")
    if config.run.n_workers < 0:
        raise UserError("run.workers must be auto, 0 or more")
    for name in ("evaluate_every", "record_every"):
        if getattr(config.run, name) < 1:
            raise UserError(f"run.{name} must be at least 1")
    if collected and config.run.record_knowledge:
        raise UserError("run.record_knowledge: whose the rows of proxy.path are is not known; leave proxy.path out")
    exchanges = get_method(config.method_name).exchanges
    if config.run.record_knowledge and not exchanges:
        raise UserError(f"run.record_knowledge: with method {config.method_name} nothing is exchanged, so leave it out")
    if config.attack.name != "none" and not exchanges:
        raise UserError(f"attack: with method {config.method_name} clients send nothing that could be poisoned")
    if config.distillation.loss == "mixed" and config.proxy.source == "public":
        raise UserError(
            "distillation.loss=mixed needs labels of proxy rows, and of a public proxy set no client knows any: "
            "use proxy.source=contributed, or another loss"
        )
    if config.defence != NoDefence() and not exchanges:
        raise UserError(f"defence: with method {config.method_name} clients send nothing that could be defended")
    learners = {str(model.learner or config.run.learner) for model in config.model}
    check_private(config.defence, config.train, config.proxy.source == "contributed", learners)
    if isinstance(config.defence, Private):
        if config.selection.name == "ddk":
            raise UserError(f"selection ddk: clients would report their lag without the noise of {config.defence.name}")
        if any(model.heads == 2 for model in config.model):
            raise UserError(f"model.heads=2 does not go with defence {config.defence.name}: use heads=1")
    for name in (config.method_name, *config.also):
        _check_method(config, name)


def _check_method(config: Config, name: str) -> None:
    """Whether a method goes with the rest of the config."""
    method = get_method(name)
    if config.aggregator != Aggregator() and not method.averages_labels:
        raise UserError(f"aggregator: method {name} has an aggregate of its own; leave the section out")
    if config.attack.name != "none" and method.rows in ("class", "parameters"):
        raise UserError(f"attack: attackers lie about soft labels of proxy rows; method {name} sends something else")
    if method.exchanges:
        check_method(config.defence, method)
    if CODECS[config.codec.name].unit and method.rows in ("class", "parameters"):
        raise UserError(
            f"codec.name: {config.codec.name} carries numbers from 0 to 1, method {name} sends others: "
            "float16 or float32"
        )
    if method.exchanges or name == config.method_name:
        _check_rows(config, method)
        if any(model.heads == 2 for model in config.model):
            _check_heads(config, method)
    models = {model.name for model in config.model}
    if method.rows == "parameters" and len(models) > 1:
        raise UserError(f"model: method {name} averages parameters, so all clients need the same model")


def check_one_head(config: Config) -> None:
    """Whether devices can run the config's models.

    Raises:
        UserError: if not.
    """
    if any(model.heads == 2 for model in config.model):
        raise UserError("model.heads=2 runs in simulations: a device's bundle has a model of one head; leave it out")


def _check_heads(config: Config, method: Method) -> None:
    """Whether models with two heads can learn what the config asks for."""
    if not method.learns_rows or method.server_model:
        raise UserError(
            "model.heads=2: the second head learns a teacher's soft labels of proxy rows, and with method "
            f"{method.name} there are none for clients alone: use heads=1"
        )
    if needs_logits(config.distillation):
        raise UserError("model.heads=2 has a loss of its own: leave distillation.loss and temperature out, or heads")
    if config.run.record_knowledge:
        raise UserError("model.heads=2: an audit knows models of one head: leave run.record_knowledge out, or heads")


def _check_rows(config: Config, method: Method) -> None:
    """Whether a method's rows can be chosen, and learned in another way, as the config says."""
    asks = config.selection.name in ASKS
    if asks and not method.asks_by_sample:
        raise UserError(
            f"selection: the server cannot choose rows for method {method.name}, whose messages are not soft labels of "
            f"the proxy rows it is asked about: leave {config.selection.name} out"
        )
    learns = config.distillation != Distillation() or not (asks or config.selection == Selection())
    if learns and not method.learns_rows:
        raise UserError(
            f"method {method.name} learns something else than the soft labels of proxy rows: leave the sections "
            "selection and distillation out"
        )


def _also(names: object) -> tuple[str, ...]:
    if not isinstance(names, list):
        raise UserError("also must be a list of methods, such as [fedmd, indlearn]")
    for name in names:
        get_method(str(name))
    if len(set(names)) < len(names):
        raise UserError("also names a method twice")
    return tuple(str(n) for n in names)


def _models(raw: object) -> tuple[Model, ...]:
    sections = [{"name": s} if isinstance(s, str) else s for s in (raw if isinstance(raw, list) else [raw])]
    if not sections or not all(isinstance(s, dict) for s in sections):
        raise UserError("model must be a name, a section such as {name: cnn}, or a list of either")
    return tuple(_parse("model", Model, s) for s in sections if isinstance(s, dict))


def _section(raw: Mapping[str, Any], name: str) -> dict[str, Any]:
    section = raw.get(name)
    if section is None:
        return {}
    if not isinstance(section, dict):
        raise UserError(f"{name} must be a section of keys, such as {name}: {{name: ...}}, not {section!r}")
    return dict(section)


def _check_plain(where: str, value: object) -> None:
    """Whether YAML gave nothing but text, numbers, lists and sections: it also knows dates, sets and bytes."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            if not isinstance(key, str):
                raise UserError(f"{where}: the key {key!r} must be text")
            _check_plain(f"{where}.{key}" if where else key, inner)
    elif isinstance(value, list):
        for inner in value:
            _check_plain(where, inner)
    elif not isinstance(value, str | int | float | None):
        raise UserError(f"{where}: {value} is a {type(value).__name__}, not text or a number: put it in quotes")


def _parse(section: str, kind: Any, values: Mapping[str, Any]) -> Any:
    """One section as its dataclass."""
    _known(section, values, [f.name for f in dataclasses.fields(kind)])
    try:
        parsed = TypeAdapter(kind).validate_python(dict(values))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join([section, *(str(part) for part in first["loc"])])
        got = f" (got {first['input']!r})" if first["type"] not in ("missing", "value_error") else ""
        raise UserError(f"{where}: {first['msg'].removeprefix('Value error, ')}{got}") from error
    for name in (f.name for f in dataclasses.fields(kind)):
        value = getattr(parsed, name)
        if isinstance(value, float) and not math.isfinite(value):
            raise UserError(f"{section}.{name}: must be a finite number (got {value})")
    return parsed


def _known(section: str, values: Mapping[str, Any], valid: Sequence[str]) -> None:
    for key in values:
        if key not in valid:
            where = f"{section}.{key}" if section else str(key)
            raise UserError(f"{where}: unknown key, {hint(str(key), valid)}")


def renames(path: str) -> bool:
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
