"""The configuration of a run: one frozen dataclass for each YAML section, checked by pydantic.

The section `partition` is in `edgefd.config.partition`. Sections that devices need too are declared where they are
used: `train` in `edgefd.federation.training`, `devices` in `edgefd.federation.devices`, `coordinator` in
`edgefd.rounds.participation`, `selection` in `edgefd.selection`, `distillation` in `edgefd.learners.losses`. An unknown
key is an error.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from edgefd.config.partition import PARTITIONS, Partition, Strong
from edgefd.core.host import cores
from edgefd.data.core_set import CoreSet
from edgefd.data.proxy_data import ProxyData
from edgefd.data.sources.source import Source
from edgefd.defences.apply import DEFENCES, Defence, NoDefence, defended
from edgefd.federation.devices import Devices
from edgefd.federation.method import Method
from edgefd.federation.training import Training
from edgefd.learners.losses import Distillation, loss_of, losses
from edgefd.methods import get_method
from edgefd.poisoning.attacks import Attack
from edgefd.poisoning.robust_aggregation import Aggregator
from edgefd.rounds.participation import ParticipationConfig
from edgefd.selection import Selection, selection_of, selection_rules

OBJECT = "object:"
"""start of the names of objects that no other process can import: a config with such a name cannot be repeated"""


@dataclass(frozen=True)
class Data(Source):
    """Data set of a run, and its preprocessing."""

    limit: int | None = None
    """number of training samples to keep, the same number of each class (at least 1; None = all)"""
    validation: float = 0.0
    """fraction of the training samples that no client trains on and that no proxy set holds, at least 0 and below 1;
    of a data set with groups, a fraction of the groups (such as people); the same samples for every seed"""
    evaluate_on: Literal["test", "validation"] = "test"
    """samples on which accuracies are measured: the test set, or the validation part, for the choice of settings"""
    heldout: float = 0.1
    """fraction of each client's private rows held out from training, in (0, 1): they set the threshold of the filter
    and serve for evaluation"""
    scale: Literal["all", "columns", "unit"] = "all"
    """scale of all samples: all = standardised with the mean and the deviation of the proxy set, one pair of numbers
    for all values; columns = the same, one pair for each column of a table, or for each channel of images and windows;
    unit = pixels divided by 255, other numbers unchanged, then (x - `mean`) / `deviation`"""
    mean: tuple[float, ...] = (0.0,)
    """mean for scale=unit: one number, or one for each column or channel"""
    deviation: tuple[float, ...] = (1.0,)
    """deviation for scale=unit: as many numbers as `mean` has, above 0"""
    extractor: str | None = None
    """frozen network whose features replace the samples: efficientnet_lite0, efficientnet_lite2, a pretrained network
    as "timm:NAME", your own as "package.module:Factory", called with the shape of a sample, or the path of an .onnx
    file (None = the samples themselves)"""
    extractor_size: int | None = None
    """width and height in pixels of the input of an EfficientNet, from 32 to 512 (None = 192), or of a network of timm
    (None = as it was trained)"""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < len(self.mean) == len(self.deviation):
            raise ValueError("mean and deviation must hold the same number of numbers, one or more")
        if not all(map(math.isfinite, (*self.mean, *self.deviation))) or min(self.deviation) <= 0:
            raise ValueError("mean and deviation must hold finite numbers, and those of deviation must be above 0")


def variants() -> dict[str, Mapping[str, type]]:
    """Return the sections in which the key `variant_key` selects one of several dataclasses; the first is the default.

    Rules and losses are read from their folders.
    """
    return {
        "partition": PARTITIONS,
        "defence": DEFENCES,
        "selection": {"all": selection_rules()["all"], **selection_rules()},
        "distillation": {"kl": losses()["kl"], **losses()},
    }


DEFAULT_METHOD = "edgefd"


@dataclass(frozen=True)
class Proxy:
    """Source of the proxy samples that all clients share."""

    source: Literal["contributed", "public"] = "contributed"
    """contributed: a fraction of every client's private samples; public: a part of the training set, taken before the
    data is split among the clients"""
    alpha: float = 0.1
    """fraction of the samples that become proxy samples, in (0, 1)"""
    keep: bool = False
    """whether contributed samples also remain in their client's private data"""
    path: str | None = None
    """npz file of proxy samples that replaces the fraction: public samples `x`, with `y` if the accepted rows are to be
    measured; or contributed samples from `edgefd collect` (None = no file)"""
    data: ProxyData | None = None
    """another data set, whose training samples replace the fraction, with source=public: its name, or a section such as
    {name: fashion_mnist, limit: 2000} with `limit`, `labels` (true = its labels are those of the private data) and the
    keys of `data` that say how it is read; its images are converted to the size, the colours and the range of the
    private images (None = none)"""
    core: CoreSet | None = None
    """part of these proxy samples that is kept, chosen by the server without labels: a section such as
    {size: 300, rule: balanced} (None = all): `size` = number of samples; `rule` = random; k_centre = one after another
    the sample that is farthest from all chosen ones; balanced = the same number of each KMeans cluster"""


@dataclass(frozen=True)
class Model:
    """Model of one or more clients."""

    name: str = "cnn"
    """a model of edgefd, a model of another package as "timm:NAME" or "torchvision:NAME", or your own as
    "package.module:Factory", called with (shape of a sample, classes)"""
    learner: Literal["torch", "onnx"] | None = None
    """library that trains the model (None = the value of run.learner)"""
    heads: Literal[1, 2] = 1
    """number of output heads; 2 = one for private labels and one for the teacher (DHO), mixed for predictions;
    2 works in simulations only"""
    init: str | None = None
    """weights to start from: a safetensors file with the names of the module's `state_dict`, such as a model that
    another run kept; or a run folder, from which each client of a simulation takes the model with its own number (None
    = drawn from the seed)"""


@dataclass(frozen=True)
class CodecChoice:
    """Encoding of knowledge in messages."""

    name: str = "auto"
    """encoding of the transmitted values: float32, float16, int8 = any numbers in 8 bits, with a scale for each 128 of
    them; for soft labels alone uint8, uint4, or simplex15 = fifteenths, entropy-coded, which takes the fewest bytes;
    auto = simplex15 for soft labels of at most 15 classes, float16 for all else"""
    changes_above: float | None = None
    """send only rows whose label has moved by more than this since it was sent: a total variation distance in [0, 1),
    0 = any difference (None = send all rows)"""


@dataclass(frozen=True)
class RunSettings:
    """Execution of a run. Nothing here changes results, except `patience`.

    `learner`, `device`, `precision` and `stack` change low bits.
    """

    workers: int | Literal["auto"] = "auto"
    """number of worker processes; auto = one for each core that this process may use; 0 = none, so that clients run
    one after another"""
    device: str = "auto"
    """processor that trains the torch models of a local simulation: cpu, cuda, cuda:1 (the second GPU) or mps (Apple);
    auto = a GPU if there is one, otherwise the CPU"""
    precision: Literal["float32", "tf32", "bf16"] = "float32"
    """arithmetic of matrix products and convolutions in torch models: float32; tf32 = with fewer bits, on CUDA GPUs;
    bf16 = in bfloat16, where the processor has it, otherwise slowly"""
    stack: int | Literal["auto"] = "auto"
    """largest number of clients of one architecture whose training steps are made as one step, in one process; auto =
    as many as fit into the memory of a GPU, and none on a CPU, where worker processes train the clients"""
    evaluate_every: int = 1
    """number of rounds between measurements of accuracy, at least 1; the last round is always measured"""
    learner: Literal["torch", "onnx"] = "torch"
    """library that trains models: torch, or onnx = the exported graph in ONNX Runtime, as devices do"""
    record_knowledge: bool = False
    """whether RUN/knowledge records what each party receives, for `edgefd audit`: reports, teachers, acceptance
    weights, models (a coordinator records reports and teachers only)"""
    record_every: int = 10
    """number of rounds between recorded client models, at least 1, with record_knowledge; the models of the last round
    are always recorded"""
    keep: Literal["last", "best", "all", "none"] = "last"
    """models of the clients that a local simulation keeps in RUN/models: those of the closing round (last), of the
    evaluated round with the best mean held-out accuracy (best), of every evaluated round (all), or none"""
    checkpoint_every: int | Literal["auto"] = "auto"
    """number of rounds between two checkpoints of a local simulation, for `edgefd simulate --resume`; auto = as many as
    take about 2 % of the time; 0 = no checkpoint"""
    patience: int | None = None
    """number of evaluations (see `evaluate_every`) without a gain of the mean held-out accuracy after which the closing
    round follows, at least 1 (None = all rounds take place)"""
    trackers: tuple[str, ...] = ()
    """trackers that store settings, metrics and summary as the run proceeds: csv, mlflow, tensorboard, wandb"""
    callbacks: tuple[str | dict[str, Any], ...] = ()
    """callbacks of your own: each the path of a class, package.module:Class, or a section of this path and arguments,
    {name: package.module:Class, key: value}"""

    @property
    def n_workers(self) -> int:
        """Number of worker processes, with auto resolved."""
        return cores() if self.workers == "auto" else self.workers


def variant_key(section: str) -> str:
    """Return the key that selects the variant of a section."""
    return "loss" if section == "distillation" else "name"


ALL_ROWS, PLAIN = selection_of({"name": "all"}), loss_of({"loss": "kl"})


@dataclass(frozen=True)
class Config:
    """Configuration of a whole run."""

    method_name: str
    """name of a method of edgefd, or the path of your own, such as package.module:METHOD"""
    method_config: Any
    """settings of the method, an instance of its Config class"""
    protocol: Literal["edgefd", "fedmd", "selective_fd", "weighted_fd", "fedadas"] | None = None
    """published training protocol, whose settings become the defaults of the other sections (None = edgefd's own
    defaults); docs/reference/protocols.md lists them"""
    seed: int = 0
    """seed of everything random in the run, at least 0 and below 2**64"""
    data: Data = field(default_factory=Data)
    partition: Partition = field(default_factory=Strong)
    proxy: Proxy = field(default_factory=Proxy)
    model: tuple[Model, ...] = (Model(),)
    """models of the clients, assigned round-robin by client number"""
    train: Training = field(default_factory=Training)
    codec: CodecChoice = field(default_factory=CodecChoice)
    run: RunSettings = field(default_factory=RunSettings)
    aggregator: Aggregator = field(default_factory=Aggregator)
    attack: Attack = field(default_factory=Attack)
    defence: Defence = field(default_factory=NoDefence)
    coordinator: ParticipationConfig = field(default_factory=ParticipationConfig)
    devices: Devices = field(default_factory=Devices)
    selection: Selection = ALL_ROWS
    distillation: Distillation = PLAIN
    baselines: tuple[str, ...] = ()
    """other methods to run on the same split, each with its default settings, or with settings and sections of its own,
    such as {name: scarlet, beta: 2, distillation: {temperature: 1}}; a key of such a section replaces the same key of
    the config, as an override does, and null instead of a section gives it its defaults"""
    baseline_settings: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """the settings and sections that `baselines` sets for a method, as plain values, by its name"""
    objects: Mapping[str, Any] = field(default_factory=dict)
    """objects of a Python session (methods, factories of models, data sets, partitions) that the config names; their
    names begin with `OBJECT`, and no YAML file can name them"""

    @property
    def method(self) -> Method:
        """Method of this config, with its defence applied."""
        return defended(self.find_method(self.method_name), self.defence)

    def find_method(self, name: str) -> Method:
        """Return the method of that name: an object of this config, or the result of `get_method`."""
        return self.objects[name] if name in self.objects else get_method(name)

    def factory(self, model: Model) -> Any:
        """Return the first argument of `build_model`: the name of a model, or an object of this config."""
        return self.objects.get(model.name, model.name)

    def model_of(self, client: int) -> Model:
        """Return the model of a client: models are assigned round-robin."""
        return self.model[client % len(self.model)]

    def learner_of(self, model: Model) -> str:
        """Return the library that trains a model: torch or onnx."""
        return model.learner or self.run.learner

    def for_method(self, name: str) -> Config:
        """Return this config with another method at its default settings.

        A reference method that exchanges nothing gets no aggregator, attack, defence, selection, distillation,
        participation rules or recording, and models of one head.
        """
        method = self.find_method(name)
        objects = {key: value for key, value in self.objects.items() if key == name or key != self.method_name}
        config = dataclasses.replace(
            self, method_name=name, method_config=method.config(), baselines=(), baseline_settings={}
        )
        config = dataclasses.replace(config, objects=objects)
        if method.exchanges:
            return config
        return dataclasses.replace(
            config,
            model=tuple(dataclasses.replace(model, heads=1) for model in self.model),
            selection=ALL_ROWS,
            distillation=PLAIN,
            aggregator=Aggregator(),
            attack=Attack(),
            defence=NoDefence(),
            coordinator=ParticipationConfig(),
            run=dataclasses.replace(self.run, record_knowledge=False),
        )

    def to_dict(self) -> dict[str, Any]:
        """Return the sections of the config as plain YAML values, with every default."""
        out = dataclasses.asdict(dataclasses.replace(self, objects={}))
        method = {"name": out.pop("method_name"), **out.pop("method_config")}
        out["partition"] |= out["partition"].pop("arguments", {})
        models = out.pop("model")
        model = models[0] if len(models) == 1 else models
        own = self.baseline_settings
        out |= {"model": model, "method": method}
        out["baselines"] = [{"name": name, **own[name]} if name in own else name for name in self.baselines]
        return {key: _with_lists(out[key]) for key in SECTIONS}


def _with_lists(value: Any) -> Any:
    """Return plain values in which each tuple is a list, as in YAML."""
    if isinstance(value, dict):
        return {key: _with_lists(inner) for key, inner in value.items()}
    return [_with_lists(inner) for inner in value] if isinstance(value, list | tuple) else value


SECTIONS = (
    *("protocol", "seed", "data", "partition", "proxy", "model", "method", "train", "codec", "run"),
    *("aggregator", "attack", "defence", "coordinator", "devices", "selection", "distillation", "baselines"),
)
