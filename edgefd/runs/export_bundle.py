"""Export a bundle for devices from a config."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from edgefd.config.consistency import check_one_head
from edgefd.config.schema import Config, Model
from edgefd.core.errors import UserError
from edgefd.defences.apply import check_devices_can as check_defence
from edgefd.export.write_bundle import BundleSpec, export_bundle
from edgefd.learners.models import build_model
from edgefd.methods import check_devices_can
from edgefd.runs.load_data import extractor_of
from edgefd.runs.prepare import prepare, terms_of
from edgefd.wire.bundle_manifest import Manifest


def export_config(config: Config, model: str | None, out: Path) -> Manifest:
    """Export the named model, or the config's first, with the proxy set and scale of its federation.

    Raises:
        UserError: if `out` exists, or devices cannot run the method, the models or the defence of the config.
    """
    if out.exists():
        raise UserError(f"{out} exists already: choose another folder, or remove it")
    name = model or config.model[0].name
    if ":" in config.method_name:
        raise UserError(f"method {config.method_name!r} cannot be exported: a device runs the methods of edgefd only")
    check_devices_can(config.method, config.method_config)
    check_one_head(config)
    check_defence(config.defence)
    federation = prepare(replace(config, model=(Model(name),))).federation
    proxy = federation.proxy.x
    spec = BundleSpec(
        model=build_model(name, proxy.shape[1:], federation.n_classes, config.seed),
        name=name,
        optimizer=config.train.optimizer,
        batch=config.train.batch_size,
        proxy=proxy,
        scale=(federation.scale.mean, federation.scale.std),
        heldout=config.data.heldout,
        terms=terms_of(config, federation),
        extractor=extractor_of(config),
    )
    return export_bundle(out, spec)
