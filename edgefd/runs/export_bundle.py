"""Export a bundle for devices from a config, and the labels of its proxy set for the coordinator."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

from edgefd.config.schema import Config, Model
from edgefd.core.errors import UserError
from edgefd.core.files import os_errors, put, removed_on_error
from edgefd.core.npz import npz_bytes
from edgefd.export.write_bundle import BundleSettings, export_bundle
from edgefd.federation.units import units_of
from edgefd.learners.models import build_model
from edgefd.runs.deployable import check_deployable
from edgefd.runs.load_data import extractor_of, load_raw
from edgefd.runs.prepare import prepare
from edgefd.runs.terms import terms_of
from edgefd.runs.weights import initial_path, load_initial
from edgefd.wire.bundle_manifest import Manifest

_LOG = logging.getLogger(__name__)


def export_config(config: Config, model: str | None, out: Path, proxy_labels: Path | None = None) -> Manifest:
    """Export the named model, or the config's first, with the proxy set and scale of its federation.

    Args:
        config: of the run.
        model: name of the model; None = the config's first.
        out: the bundle folder, which must not exist.
        proxy_labels: npz file to which the labels `y` of the proxy samples are written, for a coordinator that measures
            the teacher; devices never get it. None = no such file.

    Raises:
        UserError: if a file exists already, the proxy samples have no labels, or devices cannot run the config.
    """
    paths = [out] if proxy_labels is None else [out, proxy_labels]
    for path in paths:
        if path.exists():
            raise UserError(f"{path} exists already: choose another path, or remove it")
    name = model or config.model[0].name
    choice = next((each for each in config.model if each.name == name), Model(name))
    check_deployable(config)
    if choice.init is not None:
        initial_path(choice.init, None)  # a bundle is for several clients: a folder of their models is refused
    prepared = prepare(replace(config, model=(Model(name, init=choice.init),)))
    for warning in prepared.all_warnings:
        _LOG.warning("%s", warning)
    federation = prepared.federation
    if proxy_labels is not None and federation.proxy_labels is None:
        raise UserError("--proxy-labels: the file of proxy.path has no labels y: add them, or leave the option out")
    proxy = federation.proxy.x
    settings = BundleSettings(
        name=name,
        optimizer=config.train.optimizer,
        batch=config.train.largest_batch,
        scale=(federation.scale.mean, federation.scale.std),
        heldout=config.data.heldout,
        n_clients=len(federation.clients),
        terms=terms_of(config, federation),
        units=units_of(load_raw(config).x_train, proxy),
        label_names=prepared.dataset.label_names,
    )
    network = build_model(name, proxy.shape[1:], federation.n_classes, config.seed)
    load_initial(network, choice.init, None)
    with removed_on_error(*paths):
        manifest = export_bundle(out, network, proxy, settings, extractor_of(config))
        if proxy_labels is not None and federation.proxy_labels is not None:
            with os_errors(f"write {proxy_labels}"):
                put(proxy_labels, npz_bytes({"y": federation.proxy_labels}))
    return manifest
