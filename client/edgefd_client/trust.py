"""Check of the graphs that a device runs: those of the catalogue, and those whose digest its user gives."""

from __future__ import annotations

from pathlib import Path

from edgefd.core.errors import UserError
from edgefd.wire.bundle_reader import Bundle, read_bundle

HOW_TO_TRUST = "edgefd-client inspect-bundle --bundle"


def read_trusted_bundle(folder: Path, trust: str | None) -> Bundle:
    """Read a bundle whose graphs this device may run. Nothing of the private data is read before.

    Args:
        folder: of the bundle.
        trust: digest of `edgefd-client inspect-bundle`; None = run known graphs only.

    Raises:
        UserError: if the bundle is not valid, its graphs are not known and not trusted, or `trust` is another digest.
    """
    bundle = read_bundle(folder)
    parsed = bundle.parsed
    if trust is not None and trust != parsed.digest:
        raise UserError(
            f"--trust-graph {trust[:80]} is not the digest of the graphs in {folder}, which is {parsed.digest}: "
            f"look at them with `{HOW_TO_TRUST} {folder}`"
        )
    if trust is None and parsed.unknown:
        raise UserError(
            f"{folder} holds graphs of no named model ({', '.join(parsed.unknown)}), which could send private samples: "
            f"look at them with `{HOW_TO_TRUST} {folder}`, and if you trust the person who made them, add "
            f"--trust-graph {parsed.digest}"
        )
    return bundle
