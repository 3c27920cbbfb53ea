"""Rules that involve more than one section of a config, in one table, and ranges of single settings."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from edgefd.config.partition import FromFile
from edgefd.config.schema import PLAIN, Config
from edgefd.core.errors import UserError, hint
from edgefd.defences.apply import NoDefence, Private, check_method, check_private
from edgefd.defences.dp_sgd import DpSgd
from edgefd.federation.method import MessageKind, Method
from edgefd.poisoning.robust_aggregation import Aggregator
from edgefd.wire.codecs import AUTO, BLOCKED, CODECS

DEVICE = re.compile(r"auto|cpu|cuda(:(0|[1-9][0-9]?))?|mps", re.ASCII)
"""values of `run.device`"""

Breaks = Callable[[Config, Method], bool]


@dataclass(frozen=True)
class Rule:
    """A combination of settings that cannot run."""

    breaks: Breaks
    """whether a config with a method breaks the rule"""
    message: str
    """the error, formatted with `config` and `method`"""


def check_consistency(config: Config) -> None:
    """Check the ranges of settings and the rules that involve more than one section.

    Raises:
        UserError: for the first rule that the config breaks.
    """
    method = config.find_method(config.method_name)
    if config.codec.name not in (names := [AUTO, *CODECS]):
        raise UserError(f"codec.name: unknown codec {config.codec.name!r}: {hint(config.codec.name, names)}")
    _check(RANGES, config, method)
    _check(RULES, config, method)
    learners = {config.learner_of(model) for model in config.model}
    check_private(config.defence, config.train, config.proxy.source == "contributed", learners)
    plain = [name for name in config.baselines if name not in config.baseline_settings]  # others are checked apart
    for name in (config.method_name, *plain):
        other = config.find_method(name)
        _check(METHOD_RULES, config, other)
        if other.exchanges:
            check_method(config.defence, other)


def _check(rules: tuple[Rule, ...], config: Config, method: Method) -> None:
    for rule in rules:
        if rule.breaks(config, method):
            raise UserError(rule.message.format(config=config, method=method))


def _two_heads(config: Config) -> bool:
    return any(model.heads == 2 for model in config.model)


def _distils_otherwise(config: Config) -> bool:
    """Return whether clients distil only some rows of the teacher, or other targets than its soft labels."""
    return config.distillation != PLAIN or config.selection.subsets


def _distils_rows(method: Method) -> bool:
    return method.distils_rows and method.message.of_proxy_rows


def _separate(config: Config) -> bool:
    """Return whether the proxy set is a file or another data set, and no part of the training set."""
    return config.proxy.path is not None or config.proxy.data is not None


def _collected(config: Config) -> bool:
    """Return whether the proxy set is a file of samples that devices contributed."""
    return config.proxy.path is not None and config.proxy.source == "contributed"


def _on_gpu(config: Config) -> bool:
    """Return whether the config asks for a GPU."""
    return config.run.device not in ("auto", "cpu")


RANGES = (
    Rule(
        lambda c, _: not 0 <= (c.codec.changes_above or 0) < 1,
        "codec.changes_above must be at least 0 and below 1, not {config.codec.changes_above:g}",
    ),
    Rule(
        lambda c, _: c.codec.changes_above is not None and c.codec.name in BLOCKED,
        "codec.changes_above: the rows of codec {config.codec.name} share scales, so that changed rows alone would be "
        "rounded otherwise: use another codec",
    ),
    Rule(lambda c, _: not 0 <= c.seed < 2**64, "seed must be at least 0 and below 2**64, not {config.seed}"),
    Rule(
        lambda c, _: not 0 < c.proxy.alpha < 1,
        "proxy.alpha is the fraction of samples that are shared: it must be in (0, 1), not {config.proxy.alpha}",
    ),
    Rule(lambda c, _: not 0 < c.data.heldout < 1, "data.heldout must be in (0, 1), not {config.data.heldout}"),
    Rule(
        lambda c, _: not 0 <= c.data.validation < 1,
        "data.validation must be at least 0 and below 1, not {config.data.validation}",
    ),
    Rule(lambda c, _: c.data.limit is not None and c.data.limit < 1, "data.limit must be at least 1"),
    Rule(
        lambda c, _: c.data.scale != "unit" and (c.data.mean, c.data.deviation) != ((0.0,), (1.0,)),
        "data.mean and data.deviation need data.scale=unit, not {config.data.scale}: set it",
    ),
    Rule(
        lambda c, _: c.data.extractor is None and c.data.extractor_size is not None,
        "data.extractor_size needs data.extractor=efficientnet_lite0, efficientnet_lite2 or timm:NAME",
    ),
    Rule(lambda c, _: getattr(c.partition, "n_clients", 1) < 1, "partition.n_clients must be at least 1"),
    Rule(lambda c, _: getattr(c.partition, "alpha", 1.0) <= 0, "partition.alpha must be above 0"),
    Rule(
        lambda c, _: getattr(c.partition, "classes_per_client", 1) < 1,
        "partition.classes_per_client must be at least 1",
    ),
    Rule(lambda c, _: c.run.n_workers < 0, "run.workers must be auto, 0 or more"),
    Rule(
        lambda c, _: not DEVICE.fullmatch(c.run.device),
        "run.device must be auto, cpu, cuda, cuda:N or mps, not {config.run.device}",
    ),
    Rule(
        lambda c, _: c.run.stack != "auto" and c.run.stack < 1,
        "run.stack must be auto, or a number of clients of at least 1, not {config.run.stack}",
    ),
    Rule(lambda c, _: c.run.evaluate_every < 1, "run.evaluate_every must be at least 1"),
    Rule(lambda c, _: c.run.record_every < 1, "run.record_every must be at least 1"),
    Rule(
        lambda c, _: c.run.checkpoint_every != "auto" and c.run.checkpoint_every < 0,
        "run.checkpoint_every must be auto, 0 (no checkpoint) or more, not {config.run.checkpoint_every}",
    ),
    Rule(
        lambda c, _: c.run.patience is not None and c.run.patience < 1,
        "run.patience must be at least 1, not {config.run.patience}",
    ),
)
"""ranges of single settings"""

RULES = (
    Rule(
        lambda c, _: isinstance(c.defence, DpSgd) and (_on_gpu(c) or c.run.stack != "auto"),
        "defence dp_sgd computes the gradients of single rows on the CPU, one client after another: set run.device=cpu "
        "and run.stack=auto",
    ),
    Rule(
        lambda c, _: _on_gpu(c) and all(c.learner_of(model) == "onnx" for model in c.model),
        "run.device={config.run.device}: learner onnx trains on the CPU: set run.device=cpu or run.learner=torch",
    ),
    Rule(
        lambda c, _: c.run.patience is not None and c.run.record_knowledge,
        "run.patience cannot be combined with run.record_knowledge: an audit needs the models of the last round of "
        "train.rounds; remove one of them",
    ),
    Rule(
        lambda c, _: c.data.evaluate_on == "validation" and not c.data.validation,
        "data.evaluate_on=validation needs a validation part: set data.validation, such as 0.1",
    ),
    Rule(
        lambda c, _: isinstance(c.partition, FromFile) and c.data.validation > 0,
        "partition file names rows of the whole training set, but data.validation removes some: use another partition",
    ),
    Rule(
        lambda c, _: _collected(c) and c.proxy.keep,
        "proxy.keep cannot be combined with proxy.path: devices choose it with `edgefd-client contribute --keep`",
    ),
    Rule(
        lambda c, _: c.proxy.data is not None and c.proxy.source != "public",
        "proxy.data names samples that no client contributed: set proxy.source=public",
    ),
    Rule(
        lambda c, _: c.proxy.data is not None and c.proxy.path is not None,
        "proxy.data and proxy.path both name the proxy set: remove one of them",
    ),
    Rule(
        lambda c, _: isinstance(c.partition, FromFile) and c.proxy.source == "public" and not _separate(c),
        "partition file names rows of the whole training set: set proxy.data or proxy.path, or use "
        "proxy.source=contributed",
    ),
    Rule(
        lambda c, m: c.run.record_knowledge and not m.exchanges,
        "run.record_knowledge: method {method.name} exchanges nothing to record: remove run.record_knowledge",
    ),
    Rule(
        lambda c, m: c.attack.name != "none" and not m.exchanges,
        "attack: clients of method {method.name} send nothing that could be poisoned: remove the section",
    ),
    Rule(
        lambda c, m: c.aggregator != Aggregator() and not m.exchanges,
        "aggregator: clients of method {method.name} send nothing that could be aggregated: remove the section",
    ),
    Rule(
        lambda c, m: c.defence != NoDefence() and not m.exchanges,
        "defence: clients of method {method.name} send nothing that could be defended: remove the section",
    ),
    Rule(
        lambda c, _: c.distillation.loss == "mixed" and c.proxy.source == "public",
        "distillation.loss=mixed needs labels of proxy rows, but clients know no labels of a public proxy set: use "
        "proxy.source=contributed, or another loss",
    ),
    Rule(
        lambda c, _: isinstance(c.defence, Private) and c.selection.reports_metrics,
        "selection {config.selection.name}: clients would report their class divergence without the noise of defence "
        "{config.defence.name}: use another selection",
    ),
    Rule(
        lambda c, _: isinstance(c.defence, Private) and c.run.patience is not None,
        "run.patience needs the held-out accuracy of clients, which defence {config.defence.name} does not send: "
        "remove run.patience",
    ),
    Rule(
        lambda c, _: bool(c.devices.fleet) and bool(c.coordinator.dropout or c.coordinator.lateness),
        "devices.fleet: the profiles say which clients are late or fail: remove coordinator.dropout and "
        "coordinator.lateness",
    ),
    Rule(
        lambda c, _: bool(c.devices.fleet) and isinstance(c.defence, DpSgd),
        "devices.fleet: the training steps of defence dp_sgd cannot be counted: remove the section devices",
    ),
    Rule(
        lambda c, _: isinstance(c.defence, Private) and _two_heads(c),
        "model.heads=2 cannot be combined with defence {config.defence.name}: use heads=1",
    ),
)
"""rules of the config and its method"""

METHOD_RULES = (
    Rule(
        lambda c, m: c.aggregator != Aggregator() and m.exchanges and not m.label_aggregation,
        "aggregator: method {method.name} has its own aggregation rule (it does not declare label_aggregation): remove "
        "the section",
    ),
    Rule(
        lambda c, m: c.coordinator.stale_reports == "buffer" and m.exchanges and not m.label_aggregation,
        "coordinator.stale_reports=buffer is for methods that average labels (label_aggregation), which {method.name} "
        "does not: set it to use or drop",
    ),
    Rule(
        lambda c, m: c.attack.name != "none" and m.exchanges and not m.message.of_proxy_rows,
        "attack: attackers change soft labels of proxy rows, but method {method.name} sends other messages: remove the "
        "section",
    ),
    Rule(
        lambda c, m: m.exchanges and c.codec.name != AUTO and not CODECS[c.codec.name].carries(m.values),
        "codec.name: {config.codec.name} carries numbers from 0 to 1, but method {method.name} sends "
        "{method.values.name}: use float16, float32 or int8",
    ),
    Rule(
        lambda c, m: (
            c.codec.changes_above is not None and m.message in (MessageKind.PARAMETERS, MessageKind.PROTOTYPES)
        ),
        "codec.changes_above: only changed rows of soft labels can be sent, but method {method.name} sends "
        "{method.values.name}: remove it",
    ),
    Rule(
        lambda c, m: (
            c.selection.queries
            and _relevant(c, m)
            and not (m.message is MessageKind.PROXY_LABELS and m.answers_queries)
        ),
        "selection: the server cannot choose rows for method {method.name}, whose messages are not soft labels of the "
        "queried proxy rows: remove {config.selection.name}",
    ),
    Rule(
        lambda c, m: _distils_otherwise(c) and _relevant(c, m) and not _distils_rows(m),
        "method {method.name} learns something else than the soft labels of proxy rows: remove the sections selection "
        "and distillation",
    ),
    Rule(
        lambda c, m: m.message is MessageKind.PROTOTYPES and any(c.learner_of(model) != "torch" for model in c.model),
        "method {method.name} needs embeddings, which the exported graph of a model does not give: use learner=torch",
    ),
    Rule(
        lambda c, m: _two_heads(c) and _relevant(c, m) and (not _distils_rows(m) or m.server_model),
        "model.heads=2: the second head learns soft labels of proxy rows from a teacher, but method {method.name} has "
        "another kind of teacher, or a model at the server: use heads=1",
    ),
    Rule(
        lambda c, m: _two_heads(c) and _relevant(c, m) and c.distillation.stepwise,
        "model.heads=2 has its own loss: remove distillation.loss and distillation.temperature, or use heads=1",
    ),
    Rule(
        lambda c, m: _two_heads(c) and _relevant(c, m) and c.train.adjusted_steps != 0,
        "model.heads=2 has a head of its own for private labels, so that they need no adjustment: set "
        "train.adjusted_steps=0, or use heads=1",
    ),
    Rule(
        lambda c, m: _two_heads(c) and _relevant(c, m) and c.run.record_knowledge,
        "model.heads=2: an audit supports models of one head only: remove run.record_knowledge, or use heads=1",
    ),
    Rule(
        lambda c, m: m.message is MessageKind.PARAMETERS and c.train.initial == "own",
        "train.initial=own: method {method.name} averages parameters, so all clients start from the same: use shared",
    ),
    Rule(
        lambda c, m: m.message is MessageKind.PARAMETERS and len({model.name for model in c.model}) > 1,
        "model: method {method.name} averages parameters, so all clients need the same model: list one model only",
    ),
)
"""rules of the config and each method that it runs: its own and the baselines"""


def _relevant(config: Config, method: Method) -> bool:
    """Return whether the sections about rows and heads apply: a baseline without exchange runs without them."""
    return method.exchanges or method.name == config.method_name
