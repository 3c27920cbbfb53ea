"""Load the data set of a config and build the federation that it describes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from edgefd.config.partition import (
    ByGroup,
    Dirichlet,
    FromFile,
    Iid,
    LabelQuantity,
    Own,
    QuantitySkew,
    Shards,
    Strong,
    Weak,
)
from edgefd.config.schema import Config
from edgefd.core.arrays import Int64
from edgefd.core.errors import UserError
from edgefd.core.seeding import Purpose, make_rng
from edgefd.data import own_partitions, partitions
from edgefd.data.build_federation import ProxySpec, build_federation, collected_owners
from edgefd.data.datasets import Dataset, digest, load_dataset
from edgefd.data.features import extractor_graph, with_features
from edgefd.data.proxy_data import load_proxy_data
from edgefd.data.validation import split_validation
from edgefd.federation.clients import Federation, Scale, unit_scale


def load_data(config: Config) -> Dataset:
    """Return the data set as `load_raw`; with `data.extractor`, its features."""
    dataset = _load_whole(config)
    if config.data.extractor is not None:
        dataset = with_features(dataset, config.data.extractor, config.data.extractor_size)
    return split_validation(dataset, config.data.validation, config.data.evaluate_on == "validation")


def load_raw(config: Config) -> Dataset:
    """Return the data set, limited to `data.limit` samples and without its validation part, before any extractor."""
    return split_validation(_load_whole(config), config.data.validation, config.data.evaluate_on == "validation")


def _load_whole(config: Config) -> Dataset:
    """Return the data set, limited to `data.limit` samples, and `proxy.data`; the cache of features is for all."""
    dataset = config.objects.get(config.data.name)
    if dataset is None:
        dataset = load_dataset(config.data)
    if config.data.limit is not None:
        dataset = limit_samples(dataset, config.data.limit)
    if config.proxy.data is not None:
        dataset = replace(dataset, proxy=load_proxy_data(config.proxy.data, dataset))
    return dataset


def extractor_of(config: Config) -> tuple[bytes, tuple[int, ...]] | None:
    """Return the config's extractor as an ONNX graph and the shape of a raw sample; None without an extractor."""
    if config.data.extractor is None:
        return None
    shape = load_raw(config).x_train.shape[1:]
    return extractor_graph(config.data.extractor, shape, config.data.extractor_size), shape


def limit_samples(dataset: Dataset, limit: int) -> Dataset:
    """Return the data set with limit // C training samples of each class, the same samples for every seed of a run.

    Raises:
        UserError: if a class has fewer samples than that.
    """
    each = limit // dataset.n_classes
    counts = np.bincount(dataset.y_train, minlength=dataset.n_classes)
    if each < 1 or counts.min() < each:
        raise UserError(
            f"data.limit={limit} means {each} samples of each of {dataset.n_classes} classes, but "
            f"{dataset.name} has {counts.min()} to {counts.max()}: set another data.limit"
        )
    rng = make_rng(0, Purpose.LIMIT)
    rows = np.concatenate(
        [rng.permutation(np.flatnonzero(dataset.y_train == c))[:each] for c in range(dataset.n_classes)]
    )
    rows.sort()
    group = None if dataset.group_train is None else dataset.group_train[rows]
    part = replace(dataset, x_train=dataset.x_train[rows], y_train=dataset.y_train[rows], group_train=group)
    return replace(part, sha256=digest(part))


def federate(config: Config, dataset: Dataset, scale: Scale | None = None) -> Federation:
    """Build clients, proxy set and test set; `scale` replaces the scale of the config."""
    return build_federation(
        dataset,
        partition_function(config),
        _proxy_spec(config),
        config.data.heldout,
        config.seed,
        scale or _scale(config, dataset),
    )


def proxy_owners(config: Config, dataset: Dataset, federation: Federation) -> Int64:
    """Return the contributor of each proxy row, int64 [P]; -1 = public, -2 = a client that is not recorded."""
    if config.proxy.source == "contributed" and config.proxy.path is not None:
        return collected_owners(_proxy_spec(config), dataset, config.seed)
    return federation.proxy.owner


def _proxy_spec(config: Config) -> ProxySpec:
    path = None if config.proxy.path is None else Path(config.proxy.path)
    return ProxySpec(config.proxy.source, config.proxy.alpha, config.proxy.keep, path, config.proxy.core)


def _scale(config: Config, dataset: Dataset) -> Scale | Literal["all", "columns"]:
    """Return the scale of the config, or the kind of scale that it asks for from the proxy set.

    Raises:
        UserError: if `data.mean` has neither one number, nor one number for each column or channel.
    """
    if config.data.scale != "unit":
        return config.data.scale
    mean, deviation = config.data.mean, config.data.deviation
    if len(mean) not in (1, columns := dataset.x_train.shape[1]):
        raise UserError(
            f"data.mean has {len(mean)} numbers, but samples of {dataset.name} have {columns} columns or channels: "
            "give one number, or one for each"
        )
    return unit_scale(dataset.x_train.dtype, mean, deviation)


def own_partition(config: Config) -> Any:
    """Return the partition of a config that names a function, class or object of a user, or one of flwr-datasets."""
    name = config.partition.name
    return config.objects[name] if name in config.objects else own_partitions.load_partition(name)


def check_partition(config: Config) -> None:
    """Check that a partition of a user, or of flwr-datasets, exists and has the settings of the config.

    Raises:
        UserError: if it cannot be loaded, or a setting is missing or unknown.
    """
    if isinstance(config.partition, Own):
        name, arguments = config.partition.name, config.partition.arguments
        own_partitions.settings_of(own_partition(config), name, arguments, config.seed)


def partition_function(config: Config) -> Callable[[Int64, Int64 | None, np.random.Generator], list[Int64]]:
    """Return the config's partition as a function: (labels, groups, rng) → one index array for each client."""
    p = config.partition

    def split(y: Int64, group: Int64 | None, rng: np.random.Generator) -> list[Int64]:
        match p:
            case Strong():
                return partitions.strong(y, p.n_clients, rng)
            case Weak():
                return partitions.weak(y, p.n_clients, rng)
            case Iid():
                return partitions.iid(y, p.n_clients, rng)
            case Dirichlet():
                return partitions.dirichlet(y, p.n_clients, p.alpha, rng, balanced=p.balanced)
            case Shards():
                return partitions.shards(y, p.n_clients, p.classes_per_client, rng)
            case LabelQuantity():
                return partitions.label_quantity(y, p.n_clients, p.classes_per_client, rng)
            case QuantitySkew():
                return partitions.quantity_skew(y, p.n_clients, p.alpha, rng)
            case ByGroup():
                return partitions.by_group(group)
            case Own():
                return own_partitions.split_by(
                    own_partition(config), p.name, p.arguments, own_partitions.Rows(y, group, config.seed, rng)
                )
            case FromFile():
                return partitions.from_file(Path(p.path), len(y))

    return split
