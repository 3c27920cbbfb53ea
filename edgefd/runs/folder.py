"""Run folders: runs/<id>/{config.yaml, env.json, partition.json, metrics.jsonl, evaluation.json, summary.json}."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from functools import partial
from pathlib import Path

from edgefd.config.schema import Config
from edgefd.core.errors import UserError
from edgefd.core.files import PRIVATE, folder_mode, put, removed_on_error, writing
from edgefd.core.yaml_files import dump_yaml

CONFIG, METRICS = "config.yaml", "metrics.jsonl"
BASELINES = "also"
"""folder in a run folder that holds the run folders of the baselines, by method"""


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
    for folder in _new_folders(config) if out is None else [out]:
        of_another: list[Path] = []  # the folder, if it turns out that another run has it
        kept = partial(_kept, folder, begun, of_another)
        with removed_on_error(folder, *(folder / part for part in parts), unless=kept):
            try:
                folder.parent.mkdir(parents=True, exist_ok=True)
                folder.mkdir(mode=folder_mode(PRIVATE))
            except FileExistsError:
                if out is None:  # another run began in the same second
                    continue
                if not (or_empty and folder.is_dir() and all(path.name.startswith(".") for path in folder.iterdir())):
                    of_another.append(folder)
                    advice = "choose another with --out, or remove it"
                    raise UserError(f"run folder {folder} exists already: {advice}") from None
            except OSError as error:
                raise UserError(
                    f"cannot write run folder {folder}: {error.strerror}; choose another with --out"
                ) from error
            yield folder
            return


def _kept(folder: Path, begun: Callable[[Path], bool], of_another: list[Path]) -> bool:
    return bool(of_another) or begun(folder)


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
    with writing(folder / CONFIG) as path:
        put(path, text.encode())
