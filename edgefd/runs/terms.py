"""Build the terms of a federation from its config."""

from __future__ import annotations

from dataclasses import asdict

from edgefd.config.schema import Config
from edgefd.federation.clients import Federation
from edgefd.federation.terms import FederationTerms
from edgefd.wire.codecs import codec_for


def terms_with(config: Config, n_classes: int, proxy_sha256: str) -> FederationTerms:
    """Return the terms of a config whose federation has this number of classes and this proxy set.

    Args:
        config: of the run.
        n_classes: number of classes C.
        proxy_sha256: SHA-256 of the scaled proxy samples.
    """
    return FederationTerms(
        method=config.method_name,
        method_config=asdict(config.method_config),
        codec=codec_for(config.codec.name, config.method.values, n_classes),
        seed=config.seed,
        n_classes=n_classes,
        proxy_sha256=proxy_sha256,
        defence=asdict(config.defence),
        changes_above=config.codec.changes_above,
        training=config.train,
        selection=config.selection,
        distillation=config.distillation,
    )


def terms_of(config: Config, federation: Federation) -> FederationTerms:
    """Return the terms on which devices and coordinator of this federation must agree."""
    return terms_with(config, federation.n_classes, federation.proxy.sha256)
