"""Run folders: runs/<id>/{config.yaml, env.json, partition.json, metrics.jsonl, evaluation.json, summary.json}."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

from edgefd.config.schema import Config
from edgefd.core.errors import UserError
from edgefd.core.files import PRIVATE, folder_mode, put, removed_on_error, writing
from edgefd.core.yaml_files import dump_yaml

METRICS = "metrics.jsonl"


def has_round(folder: Path) -> bool:
    """Return whether a run folder holds the metrics of at least one round."""
    path = folder / METRICS
    return path.is_file() and b"\n" in path.read_bytes()


@contextmanager
def run_folder(
    config: Config,
    out: Path | None,
    or_empty: bool = False,
    parts: Sequence[str] = (),
    begun: Callable[[Path], bool] = has_round,
) -> Iterator[Path]:
    """Create the folder of a new run: `out`, or runs/<time>-<method>-<data>-<partition>-s<seed>.

    Only its owner can read it. An error in the context before the run has begun, also Ctrl-C, removes what was created.

    Args:
        config: of the run.
        out: the folder; None = a new one in runs.
        or_empty: accept also a folder that holds nothing but hidden files: a server that was killed before its first
            round leaves one. It is not removed after an error, but its `parts` are.
        parts: names of the files and folders that may be created before the run has begun.
        begun: returns whether the run has begun, so that its folder must be kept. By default: whether it has completed
            a round.

    Raises:
        UserError: if the folder exists already (no run is ever overwritten) or cannot be written.
    """
    folder, of_another = out if out is not None else _new_folder(config), False
    with removed_on_error(folder, *(folder / part for part in parts), unless=lambda: of_another or begun(folder)):
        try:
            folder.parent.mkdir(parents=True, exist_ok=True)
            folder.mkdir(mode=folder_mode(PRIVATE))
        except FileExistsError:
            if not (or_empty and folder.is_dir() and all(path.name.startswith(".") for path in folder.iterdir())):
                of_another = True
                raise UserError(
                    f"run folder {folder} exists already: choose another with --out, or remove it"
                ) from None
        except OSError as error:
            raise UserError(f"cannot write run folder {folder}: {error.strerror}; choose another with --out") from error
        yield folder


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
        put(path, text.encode())
