"""Load the data of a config, build its federation, and check all inputs before a run begins."""

from __future__ import annotations

from dataclasses import asdict, dataclass

from edgefd.config.schema import Config
from edgefd.core.errors import UserError, require
from edgefd.data.datasets import Dataset
from edgefd.defences.apply import claim
from edgefd.defences.dp_sgd import DpSgd
from edgefd.defences.dp_sgd import check_model as check_private_model
from edgefd.federation.clients import Federation, proxy_labels_of
from edgefd.federation.terms import FederationTerms
from edgefd.poisoning.attacks import attackers
from edgefd.rounds.participation import check_rules
from edgefd.runs.load_data import federate, load_data
from edgefd.selection.settings import check_budget


@dataclass(frozen=True, eq=False)
class PreparedRun:
    """A config with its data set and federation, after all checks of the input."""

    config: Config
    dataset: Dataset
    federation: Federation


def prepare(config: Config, trains: bool = True) -> PreparedRun:
    """Load the data, build the federation and check both against the config.

    Args:
        config: the config of the run.
        trains: whether this process trains; if not, models are not checked, and torch is not loaded.

    Raises:
        UserError: if the data are missing or malformed, or do not fit the config.
    """
    dataset = load_data(config)
    if trains:
        check_fits(config, dataset)
    federation = federate(config, dataset)
    attackers(config.attack, len(federation.clients), config.seed)
    if config.method.proxy_labels:
        proxy_labels_of(federation)  # raises here, not in the middle of a run, if there are none
    federation = config.method.transform_federation(federation)
    check_rules(config.coordinator, len(federation.clients))
    check_budget(config.selection, len(federation.proxy))
    return PreparedRun(config, dataset, federation)


def check_fits(config: Config, dataset: Dataset) -> None:
    """Check that models and training fit the samples, and that the packages that they need are installed.

    Raises:
        UserError: if a model or setting does not fit, or a package is missing.
    """
    from edgefd.learners.models import build_model, check_model

    shape = dataset.x_train.shape[1:]
    if config.train.augment_shift and len(shape) != 3:
        raise UserError(
            f"train.augment_shift shifts images, but samples of {dataset.name} have shape {list(shape)}: set it to 0"
        )
    for model in config.model:
        check_model(config.factory(model), shape, dataset.n_classes)
        if (model.learner or config.run.learner) == "onnx":
            require("export", "onnx", "onnxruntime")
        if isinstance(config.defence, DpSgd):
            check_private_model(model.name, build_model(config.factory(model), shape, dataset.n_classes, config.seed))
    if claim(config.defence) is not None:
        require("privacy", "dp_accounting")


def terms_of(config: Config, federation: Federation) -> FederationTerms:
    """Return the terms on which devices and coordinator of this federation must agree."""
    return FederationTerms(
        method=config.method_name,
        method_config=asdict(config.method_config),
        codec=config.codec.name,
        seed=config.seed,
        n_classes=federation.n_classes,
        proxy_sha256=federation.proxy.sha256,
        defence=asdict(config.defence),
    )
