"""Commands that list the methods and the data sets."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.table import Table

from edgefd.cli.common import console
from edgefd.methods import get_method, method_names


def methods() -> None:
    """List the methods and their settings.

    Example: edgefd methods
    """
    from dataclasses import fields

    table = Table("method", "what it does", "settings", "proxy labels")
    for name in method_names():
        method = get_method(name)
        settings = ", ".join(f"{f.name}={f.default}" for f in fields(method.config))
        table.add_row(name, method.summary, settings, "yes" if method.proxy_labels else "no")
    console.print(table)


def datasets(
    download: Annotated[
        str | None, typer.Option("--download", metavar="NAME", help="download the original files of this data set")
    ] = None,
) -> None:
    """List the data sets and where they are stored, or download one.

    Example: edgefd datasets --download mnist
    """
    from edgefd.data.datasets import DATASETS, download_hint, find_dataset
    from edgefd.data.download import fetch_dataset

    if download is not None:
        console.print(f"{download}: downloaded to {fetch_dataset(download)}")
        return
    table = Table("name", "contents", "location")
    for name, contents in DATASETS.items():
        table.add_row(name, contents, find_dataset(name) or f"not found: {download_hint(name)}")
    console.print(table)
