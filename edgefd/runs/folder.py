"""Run folders: runs/<id>/{config.yaml, env.json, partition.json, metrics.jsonl, evaluation.json, summary.json}."""

from __future__ import annotations

import itertools
from datetime import datetime
from pathlib import Path

from edgefd.config.schema import Config
from edgefd.core.errors import UserError
from edgefd.core.files import writing
from edgefd.core.yaml_files import dump_yaml


def run_folder(config: Config, out: Path | None, or_empty: bool = False) -> Path:
    """Create the folder of a new run: `out`, or runs/<time>-<method>-<data>-<partition>-s<seed>.

    With `or_empty`, a folder that holds nothing but hidden files is accepted too: a server that was killed before its
    first round leaves one.

    Raises:
        UserError: if the folder exists already (no run is ever overwritten) or cannot be written.
    """
    folder = out if out is not None else _new_folder(config)
    try:
        folder.mkdir(parents=True)
    except FileExistsError:
        if or_empty and folder.is_dir() and all(path.name.startswith(".") for path in folder.iterdir()):
            return folder
        raise UserError(f"run folder {folder} exists already: choose another with --out, or remove it") from None
    except OSError as error:
        raise UserError(f"cannot write run folder {folder}: {error.strerror}; choose another with --out") from error
    return folder


def _new_folder(config: Config) -> Path:
    """Return runs/<time>-<method>-<data>-<partition>-s<seed>, with a number at the end if it exists already."""
    stamp, data = datetime.now().strftime("%Y%m%d-%H%M%S"), Path(config.data.name).stem
    name = f"{stamp}-{config.method_name}-{data}-{config.partition.name}-s{config.seed}".replace(":", ".")
    numbered = (Path("runs") / (f"{name}-{i}" if i > 1 else name) for i in itertools.count(1))
    return next(folder for folder in numbered if not folder.exists())


def write_config(folder: Path, config: Config) -> None:
    """Write config.yaml: the resolved config with every default."""
    text = dump_yaml(config.to_dict())
    if config.objects:
        text = f"# This file alone cannot repeat the run: env.json describes {', '.join(config.objects)}.\n{text}"
    with writing(folder / "config.yaml") as path:
        path.write_text(text, encoding="utf-8")
