"""Rules of a config that involve more than one section, and ranges of its settings."""

from __future__ import annotations

from edgefd.config.schema import Config, FromFile
from edgefd.core.errors import UserError, hint
from edgefd.defences.apply import NoDefence, Private, check_method, check_private
from edgefd.federation.method import MessageKind, Method
from edgefd.learners.distillation_loss import Distillation, needs_logits
from edgefd.poisoning.robust_aggregation import Aggregator
from edgefd.selection.settings import SERVER_RULES, Selection
from edgefd.wire.codecs import CODECS


def check_consistency(config: Config) -> None:
    """Check the ranges of settings and the rules that involve more than one section.

    Raises:
        UserError: for the first rule that the config breaks.
    """
    _check_ranges(config)
    _check_proxy(config)
    _check_exchange(config)
    _check_defence(config)
    for name in (config.method_name, *config.baselines):
        _check_method(config, name)


def _check_ranges(config: Config) -> None:
    """Check that each setting is in its range."""
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


def _check_proxy(config: Config) -> None:
    """Check the settings that depend on the origin of the proxy samples."""
    collected = config.proxy.path is not None and config.proxy.source == "contributed"
    if collected and config.proxy.keep:
        raise UserError(
            "proxy.keep cannot be combined with proxy.path: devices choose it with `edgefd-client contribute --keep`"
        )
    if isinstance(config.partition, FromFile) and config.proxy.source == "public" and config.proxy.path is None:
        raise UserError(
            "partition file names rows of the whole training set: set proxy.path, or use proxy.source=contributed"
        )
    if collected and config.run.record_knowledge:
        raise UserError(
            "run.record_knowledge needs the owner of every proxy row, which a proxy.path file does not record: "
            "remove proxy.path"
        )


def _check_exchange(config: Config) -> None:
    """Check that sections about exchanged knowledge have a method that exchanges some."""
    exchanges = config.find_method(config.method_name).exchanges
    if config.run.record_knowledge and not exchanges:
        raise UserError(f"run.record_knowledge: method {config.method_name} exchanges nothing to record: remove it")
    if config.attack.name != "none" and not exchanges:
        raise UserError(
            f"attack: clients of method {config.method_name} send nothing that could be poisoned: remove the section"
        )
    if config.distillation.loss == "mixed" and config.proxy.source == "public":
        raise UserError(
            "distillation.loss=mixed needs labels of proxy rows, but clients know no labels of a public proxy set: "
            "use proxy.source=contributed, or another loss"
        )
    if config.defence != NoDefence() and not exchanges:
        raise UserError(
            f"defence: clients of method {config.method_name} send nothing that could be defended: remove the section"
        )


def _check_defence(config: Config) -> None:
    """Check that a defence can run with the training, the selection and the models of the config."""
    learners = {str(model.learner or config.run.learner) for model in config.model}
    check_private(config.defence, config.train, config.proxy.source == "contributed", learners)
    if isinstance(config.defence, Private):
        if config.selection.name == "ddk":
            raise UserError(
                "selection ddk: clients would report their class divergence without the noise of defence "
                f"{config.defence.name}: use another selection"
            )
        if any(model.heads == 2 for model in config.model):
            raise UserError(f"model.heads=2 cannot be combined with defence {config.defence.name}: use heads=1")


def _check_method(config: Config, name: str) -> None:
    """Check that a method can run with the rest of the config."""
    method = config.find_method(name)
    if config.aggregator != Aggregator() and not method.averages_labels:
        raise UserError(f"aggregator: method {name} has its own aggregation rule: remove the section")
    if config.attack.name != "none" and not method.message.of_proxy_rows:
        raise UserError(
            f"attack: attackers change soft labels of proxy rows, but method {name} sends other messages: "
            "remove the section"
        )
    if method.exchanges:
        check_method(config.defence, method)
    if CODECS[config.codec.name].unit and not method.message.of_proxy_rows:
        raise UserError(
            f"codec.name: {config.codec.name} carries numbers from 0 to 1, but method {name} sends others: "
            "use float16 or float32"
        )
    if method.exchanges or name == config.method_name:
        _check_rows(config, method)
        if any(model.heads == 2 for model in config.model):
            _check_heads(config, method)
    models = {model.name for model in config.model}
    if method.message is MessageKind.PARAMETERS and len(models) > 1:
        raise UserError(
            f"model: method {name} averages parameters, so all clients need the same model: list one model only"
        )


def check_one_head(config: Config) -> None:
    """Check that devices can run the config's models: a bundle holds models of one head only.

    Raises:
        UserError: if a model has two heads.
    """
    if any(model.heads == 2 for model in config.model):
        raise UserError("model.heads=2 runs in simulations only: a device's bundle has a model of one head; remove it")


def _check_heads(config: Config, method: Method) -> None:
    """Check that models with two heads can train with this method, distillation and recording."""
    if not method.distils_proxy_rows or method.server_model:
        raise UserError(
            "model.heads=2: the second head learns a teacher's soft labels of proxy rows, which method "
            f"{method.name} does not send to clients alone: use heads=1"
        )
    if needs_logits(config.distillation):
        raise UserError(
            "model.heads=2 has its own loss: remove distillation.loss and distillation.temperature, or use heads=1"
        )
    if config.run.record_knowledge:
        raise UserError(
            "model.heads=2: an audit supports models of one head only: remove run.record_knowledge, or use heads=1"
        )


def _check_rows(config: Config, method: Method) -> None:
    """Check that the config's selection and distillation apply to the messages of a method."""
    queries = config.selection.name in SERVER_RULES
    if queries and not method.answers_queries:
        raise UserError(
            f"selection: the server cannot choose rows for method {method.name}, whose messages are not soft labels of "
            f"the queried proxy rows: remove {config.selection.name}"
        )
    changes_training = config.distillation != Distillation() or not (queries or config.selection == Selection())
    if changes_training and not method.distils_proxy_rows:
        raise UserError(
            f"method {method.name} learns something else than the soft labels of proxy rows: remove the sections "
            "selection and distillation"
        )
