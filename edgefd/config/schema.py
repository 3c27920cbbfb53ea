"""A run's configuration: YAML sections → frozen dataclasses, checked by pydantic; an unknown key is an error."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any, Literal

from edgefd.core.host import cores
from edgefd.defences.apply import Defence, NoDefence, defended
from edgefd.federation.method import Method
from edgefd.federation.plan import Training
from edgefd.learners.distillation_loss import Distillation
from edgefd.methods import get_method
from edgefd.poisoning.attacks import Attack
from edgefd.poisoning.robust_aggregation import Aggregator, aggregate_of
from edgefd.rounds.participation import ParticipationConfig
from edgefd.selection.settings import Selection


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
    coordinator: ParticipationConfig = field(default_factory=ParticipationConfig)
    selection: Selection = field(default_factory=Selection)
    distillation: Distillation = field(default_factory=Distillation)
    baselines: tuple[str, ...] = ()
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
        config = dataclasses.replace(self, method_name=name, method_config=method.config(), baselines=())
        if method.exchanges:
            return config
        silent = dataclasses.replace(self.run, record_knowledge=False)
        models = tuple(dataclasses.replace(model, heads=1) for model in self.model)
        config = dataclasses.replace(config, model=models, selection=Selection(), distillation=Distillation())
        return dataclasses.replace(
            config, attack=Attack(), defence=NoDefence(), coordinator=ParticipationConfig(), run=silent
        )

    def to_dict(self) -> dict[str, Any]:
        """As it would stand in YAML, every default written out."""
        out = dataclasses.asdict(self)
        method = {"name": out.pop("method_name"), **out.pop("method_config")}
        if people := out["data"]["test_people"]:
            out["data"]["test_people"] = list(people)
        models = out.pop("model")
        out["attack"]["clients"] = list(self.attack.clients)
        out |= {
            "model": models[0] if len(models) == 1 else list(models),
            "method": method,
            "baselines": list(self.baselines),
        }
        return {key: out[key] for key in SECTIONS}


SECTIONS = (
    *("seed", "data", "partition", "proxy", "model", "method", "train", "codec", "run"),
    *("aggregator", "attack", "defence", "coordinator", "selection", "distillation", "baselines"),
)
