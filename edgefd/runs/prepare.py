"""Load the data of a config, build its federation, and check all inputs before a run begins."""

from __future__ import annotations

import functools
from dataclasses import dataclass

from edgefd.config.schema import Config
from edgefd.core.errors import require
from edgefd.data.datasets import Dataset
from edgefd.defences.dp_sgd import DpSgd
from edgefd.defences.dp_sgd import check_model as check_private_model
from edgefd.federation.clients import Federation, proxy_labels_of
from edgefd.poisoning.attacks import attackers
from edgefd.rounds.participation import check_rules
from edgefd.runs.data_warnings import data_warnings, proxy_shifts, shift_warnings
from edgefd.runs.facts import RunFacts, partition_record
from edgefd.runs.load_data import check_partition, federate, load_data
from edgefd.runs.terms import terms_of
from edgefd.wire.packing import pack_samples


@dataclass(frozen=True, eq=False)
class PreparedRun:
    """A config with its data set and federation, after all checks of the input."""

    config: Config
    dataset: Dataset
    federation: Federation
    warnings: tuple[str, ...] = ()
    """sentences about the units of the data that a user must see"""

    @functools.cached_property
    def proxy_shifts(self) -> tuple[float | None, ...]:
        """Shift of the proxy set from the data of each client; None for a client with few samples."""
        return proxy_shifts(self.federation)

    @property
    def all_warnings(self) -> tuple[str, ...]:
        """`warnings`, and those about a proxy set of another kind, if clients send labels of proxy rows."""
        if not (self.config.method.exchanges and self.config.method.message.of_proxy_rows):
            return self.warnings
        return (*self.warnings, *shift_warnings(self.proxy_shifts))

    @functools.cached_property
    def bytes_once(self) -> int:
        """Bytes that are sent once: contributed raw samples up, and to every client the proxy set as a bundle packs it.

        The proxy set counts if messages are about its rows. The other files of a bundle do not count: graphs, initial
        parameters, self-test and manifest are known only after an export, and all methods need about the same ones.
        """
        up = self.federation.raw_samples_disclosed * int(self.dataset.x_train[0].nbytes)
        if not self.config.method.message.of_proxy_rows:
            return up
        proxy = pack_samples(self.federation.proxy.x, self.federation.scale)[1]
        return up + len(self.federation.clients) * len(proxy)

    @property
    def facts(self) -> RunFacts:
        """The facts that the run folder records."""
        dataset, federation = self.dataset, self.federation
        return RunFacts(
            n_clients=len(federation.clients),
            partition=partition_record(
                federation, self.proxy_shifts, self.config.run.record_knowledge, dataset.label_names
            ),
            raw_samples_disclosed=federation.raw_samples_disclosed,
            dataset=dataset.name,
            bytes_once=self.bytes_once,
            codec=terms_of(self.config, federation).codec if self.config.method.exchanges else None,
            data_source=dataset.source,
            data_samples=len(dataset.x_train) + len(dataset.x_test),
            data_sha256=dataset.sha256,
            proxy_source=None if dataset.proxy is None else dataset.proxy.source,
            proxy_source_sha256=None if dataset.proxy is None else dataset.proxy.sha256,
        )


def prepare(config: Config) -> PreparedRun:
    """Load the data, build the federation and check both against the config.

    Raises:
        UserError: if the data are missing or malformed, or do not fit the config.
    """
    dataset = load_data(config)
    check_fits(config, dataset)
    federation = federate(config, dataset)
    warnings = (*data_warnings(dataset, federation), *_check_initial(config, federation))
    attackers(config.attack, len(federation.clients), config.seed)
    if config.method.proxy_labels:
        proxy_labels_of(federation)  # raises here, not in the middle of a run, if there are none
    federation = config.method.transform(federation)
    check_rules(config.coordinator, len(federation.clients))
    config.selection.check_budget(len(federation.proxy))
    return PreparedRun(config, dataset, federation, warnings)


def _check_initial(config: Config, federation: Federation) -> list[str]:
    """Check that `model.init` fits the models, once for each file; return warnings about the scale of its samples.

    Raises:
        UserError: if it does not.
    """
    from edgefd.learners.models import build_model
    from edgefd.runs.weights import initial_path, load_initial, scale_warning

    shape, checked, warnings = federation.proxy.x.shape[1:], set(), []
    for client in range(len(federation.clients)):
        choice = config.model_of(client)
        if choice.init is None or (key := (choice, initial_path(choice.init, client))) in checked:
            continue
        checked.add(key)
        model = build_model(config.factory(choice), shape, choice.heads * federation.n_classes, config.seed)
        load_initial(model, choice.init, client)
        warnings.append(scale_warning(choice.init, client, federation.scale))
    return [warning for warning in dict.fromkeys(warnings) if warning is not None]


def check_fits(config: Config, dataset: Dataset) -> None:
    """Check that models, training and partition can be used, and that the packages that they need are installed.

    Raises:
        UserError: if a model or setting does not fit, or a package is missing.
    """
    from edgefd.learners.models import build_model, check_model

    check_partition(config)
    shape = dataset.x_train.shape[1:]
    config.train.check_shift(shape)
    for model in config.model:
        check_model(config.factory(model), shape, dataset.n_classes, config.train.optimizer)
        if config.learner_of(model) == "onnx":
            require("export", "onnx", "onnxruntime")
        if isinstance(config.defence, DpSgd):
            check_private_model(model.name, build_model(config.factory(model), shape, dataset.n_classes, config.seed))
