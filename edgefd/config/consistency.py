"""Rules of a config that involve more than one section."""

from __future__ import annotations

from edgefd.config.schema import Config, FromFile
from edgefd.core.errors import UserError, hint
from edgefd.defences.apply import NoDefence, Private, check_method, check_private
from edgefd.federation.method import MessageKind, Method
from edgefd.learners.distillation_loss import Distillation, needs_logits
from edgefd.methods import get_method
from edgefd.poisoning.robust_aggregation import Aggregator
from edgefd.selection.settings import SERVER_RULES, Selection
from edgefd.wire.codecs import CODECS


def check_consistency(config: Config) -> None:
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
    for name in (config.method_name, *config.baselines):
        _check_method(config, name)


def _check_method(config: Config, name: str) -> None:
    """Whether a method goes with the rest of the config."""
    method = get_method(name)
    if config.aggregator != Aggregator() and not method.averages_labels:
        raise UserError(f"aggregator: method {name} has an aggregate of its own; leave the section out")
    if config.attack.name != "none" and not method.message.of_proxy_rows:
        raise UserError(f"attack: attackers lie about soft labels of proxy rows; method {name} sends something else")
    if method.exchanges:
        check_method(config.defence, method)
    if CODECS[config.codec.name].unit and not method.message.of_proxy_rows:
        raise UserError(
            f"codec.name: {config.codec.name} carries numbers from 0 to 1, method {name} sends others: "
            "float16 or float32"
        )
    if method.exchanges or name == config.method_name:
        _check_rows(config, method)
        if any(model.heads == 2 for model in config.model):
            _check_heads(config, method)
    models = {model.name for model in config.model}
    if method.message is MessageKind.PARAMETERS and len(models) > 1:
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
    if not method.distils_proxy_rows or method.server_model:
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
    asks = config.selection.name in SERVER_RULES
    if asks and not method.answers_queries:
        raise UserError(
            f"selection: the server cannot choose rows for method {method.name}, whose messages are not soft labels of "
            f"the proxy rows it is asked about: leave {config.selection.name} out"
        )
    learns = config.distillation != Distillation() or not (asks or config.selection == Selection())
    if learns and not method.distils_proxy_rows:
        raise UserError(
            f"method {method.name} learns something else than the soft labels of proxy rows: leave the sections "
            "selection and distillation out"
        )
