"""Run folders: runs/<id>/{config.yaml, env.json, partition.json, metrics.jsonl, evaluation.json, summary.json}."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
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
    for folder in _new_folders(config) if out is None else [out]:
        try:
            folder.mkdir(parents=True)
        except FileExistsError:
            if out is None:  # another run began in the same second
                continue
            if or_empty and folder.is_dir() and all(path.name.startswith(".") for path in folder.iterdir()):
                return folder
            raise UserError(f"run folder {folder} exists already: choose another with --out, or remove it") from None
        except OSError as error:
            raise UserError(f"cannot write run folder {folder}: {error.strerror}; choose another with --out") from error
        return folder
    raise AssertionError("there is always another number")


def _new_folders(config: Config) -> Iterator[Path]:
    """Yield runs/<time>-<method>-<data>-<partition>-s<seed>, then the same with the numbers 2, 3, ... at the end."""
    stamp, data = datetime.now().strftime("%Y%m%d-%H%M%S"), Path(config.data.name).stem
    name = f"{stamp}-{config.method_name}-{data}-{config.partition.name}-s{config.seed}".replace(":", ".")
    yield Path("runs") / name
    yield from (Path("runs") / f"{name}-{i}" for i in itertools.count(2))


def write_config(folder: Path, config: Config) -> None:
    """Write config.yaml: the resolved config with every default."""
    text = dump_yaml(config.to_dict())
    if config.objects:
        text = f"# This file alone cannot repeat the run: env.json describes {', '.join(config.objects)}.\n{text}"
    with writing(folder / "config.yaml") as path:
        path.write_text(text, encoding="utf-8")
