"""`ServedRun`: a config, and what its bundles say about the federation. A coordinator needs no data set."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edgefd.config.schema import Config
from edgefd.core.arrays import Int64
from edgefd.core.errors import UserError
from edgefd.data.labels import classes_of
from edgefd.data.npz import read_npz
from edgefd.federation.clients import ProxySet
from edgefd.federation.terms import FederationTerms
from edgefd.rounds.participation import check_rules
from edgefd.rounds.validation import expected_teacher
from edgefd.runs.callbacks import load_callbacks
from edgefd.runs.deployable import check_deployable
from edgefd.runs.facts import RunFacts
from edgefd.runs.terms import terms_with
from edgefd.wire.bundle_manifest import MANIFEST, Manifest
from edgefd.wire.bundle_reader import Bundle, read_bundle
from edgefd.wire.expected import Expected


@dataclass(frozen=True)
class BundleFiles:
    """A bundle folder that devices may download."""

    folder: Path
    digest: str
    """sha256 of the manifest"""
    sizes: dict[str, int]
    """bytes of each file, by name"""


@dataclass(frozen=True, eq=False)
class ServedRun:
    """A run of devices, as its coordinator knows it."""

    config: Config
    n_clients: int
    terms: FederationTerms
    proxy: ProxySet
    proxy_labels: Int64 | None
    """labels of the proxy samples, int64 [P]; None = not given"""
    bundles: tuple[BundleFiles, ...]
    """one for each of the config's models, in order: client i gets bundle i modulo their number"""

    @property
    def expected_teacher(self) -> Expected:
        """What the clients of the run expect of a teacher."""
        return expected_teacher(self.config.method, self.terms, len(self.proxy), self.n_clients)

    @property
    def facts(self) -> RunFacts:
        """The facts that the run folder records."""
        n_proxy, sha256 = len(self.proxy), self.terms.proxy_sha256
        partition = {"clients": None, "proxy": n_proxy, "proxy_sha256": sha256, "test": None, "label_names": None}
        disclosed = n_proxy if self.config.proxy.source == "contributed" else 0
        name = Path(self.config.data.name).stem
        return RunFacts(self.n_clients, partition, disclosed, name, self.bytes_once, self.terms.codec)

    @property
    def bytes_once(self) -> int | None:
        """Bytes of the bundles of all clients; None if no bundle is known."""
        sizes = [sum(bundle.sizes.values()) for bundle in self.bundles]
        return sum(sizes[client % len(sizes)] for client in range(self.n_clients)) if sizes else None


def read_served_run(config: Config, bundles: Sequence[Path], proxy_labels: Path | None = None) -> ServedRun:
    """Read the bundles of a run, each once, and check that they belong to the config.

    Args:
        config: of the run.
        bundles: one folder for each of the config's models, in order.
        proxy_labels: npz file with the labels `y` of the proxy samples; None = no labels.

    Raises:
        UserError: if devices cannot run the config, a bundle is missing or does not belong to the config, or the labels
            are missing although the method needs them.
    """
    check_deployable(config)
    load_callbacks(config)  # raises here, before anything is written or sent, if one is missing
    models = [model.name for model in config.model]
    if len(bundles) != len(models):
        raise UserError(f"--bundle must be given once for each model of the config, in order: {', '.join(models)}")
    first = read_bundle(bundles[0])
    n_clients, shared = first.manifest.n_clients, first.manifest.terms
    terms = terms_with(config, shared.n_classes, shared.proxy_sha256)
    files = []
    for folder, model in zip(bundles, models, strict=True):
        bundle = first if folder == bundles[0] else read_bundle(folder)
        _check_manifest(folder, bundle.manifest, model, terms, n_clients)
        files.append(bundle_files(folder, bundle))
    partition_clients = getattr(config.partition, "n_clients", n_clients)
    if partition_clients != n_clients:
        raise UserError(
            f"{bundles[0]} is a bundle for {n_clients} clients, but partition.n_clients is {partition_clients}: "
            "export it again"
        )
    proxy = ProxySet(first.proxy, np.full(len(first.proxy), -1))  # a bundle does not say who contributed a row
    check_rules(config.coordinator, n_clients)
    config.selection.check_budget(len(proxy))
    labels = _proxy_labels(config, proxy_labels, len(proxy), terms.n_classes)
    return ServedRun(config, n_clients, terms, proxy, labels, tuple(files))


def bundle_files(folder: Path, bundle: Bundle) -> BundleFiles:
    """Return the files of a bundle that was read from the folder."""
    sizes = {name: record.bytes for name, record in bundle.manifest.files.items()}
    return BundleFiles(folder, bundle.digest, sizes | {MANIFEST: (folder / MANIFEST).stat().st_size})


def _check_manifest(folder: Path, manifest: Manifest, model: str, terms: FederationTerms, n_clients: int) -> None:
    if manifest.model != model:
        raise UserError(f"{folder} is a bundle of {manifest.model}, but the config's model is {model}")
    different = terms.differences(manifest.terms) + ["n_clients"] * (manifest.n_clients != n_clients)
    if different:
        raise UserError(f"{folder} is not of this config ({', '.join(different)} differ): export it again")


def _proxy_labels(config: Config, path: Path | None, n_proxy: int, n_classes: int) -> Int64 | None:
    if path is None:
        if config.method.proxy_labels:
            raise UserError(
                f"method {config.method_name} needs the labels of the proxy samples at the coordinator: "
                "give --proxy-labels FILE.npz (`edgefd export --proxy-labels` writes it)"
            )
        return None
    return classes_of(read_npz(path, ("y",))["y"], n_proxy, n_classes, None, str(path))
