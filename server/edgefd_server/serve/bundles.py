"""Check that bundles belong to a config."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from edgefd.config.schema import Config
from edgefd.core.errors import UserError
from edgefd.federation.terms import FederationTerms
from edgefd.wire.bundle_reader import read_bundle
from edgefd_server.grpc_link.bundle_files import BundleFiles, load_bundle_files


def check_bundles(config: Config, bundles: Sequence[Path], terms: FederationTerms) -> list[BundleFiles]:
    """Check that the bundles are those of the config's models, and return their files.

    Args:
        config: of the run.
        bundles: one folder for each of the config's models, in order.
        terms: of the run.

    Raises:
        UserError: if a bundle is missing or does not belong to the config.
    """
    models = [model.name for model in config.model]
    if len(bundles) != len(models):
        raise UserError(f"--bundle must be given once for each model of the config, in order: {', '.join(models)}")
    files = []
    for folder, model in zip(bundles, models, strict=True):
        read = read_bundle(folder)
        if read.manifest.model != model:
            raise UserError(f"{folder} is a bundle of {read.manifest.model}, but the config's model is {model}")
        if different := terms.differences(read.manifest.terms):
            raise UserError(f"{folder} is not of this config ({', '.join(different)} differ): export it again")
        files.append(load_bundle_files(folder, read.manifest, read.digest))
    return files
