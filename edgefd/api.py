"""The functions of `import edgefd`, such as simulate and load_model, for scripts, the prompt and notebooks."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy.typing as npt

from edgefd.config.load import Source as ConfigSource
from edgefd.config.load import load_config
from edgefd.config.overrides import Overrides, read_overrides
from edgefd.config.schema import OBJECT, Config
from edgefd.core.errors import Stopped, UserError, require
from edgefd.core.host import cores
from edgefd.core.objects import importable_name
from edgefd.core.paths import user_path
from edgefd.core.terminal import safe_console
from edgefd.data.datasets import Dataset, dataset_of
from edgefd.data.partitions import Function
from edgefd.data.sources.python_objects import read_object
from edgefd.data.sources.source import Source
from edgefd.federation.method import Method
from edgefd.methods import check_method, get_method, method_names
from edgefd.runs.folder import CONFIG
from edgefd.simulation.table import table

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from edgefd.learners.models import Factory
    from edgefd.report.matplotlib_plots import PlotKind
    from edgefd.runs.callbacks import Callback
    from edgefd.runs.trained_model import TrainedModel
    from edgefd.simulation.run import Engine, Run
    from edgefd.simulation.run_cells import Cell

Folder = str | os.PathLike[str]
Arrays = tuple[npt.ArrayLike, npt.ArrayLike, npt.ArrayLike, npt.ArrayLike]
"""x_train, y_train, x_test, y_test: samples in rows, uint8 or float, and labels, numbers or text"""


def simulate(
    config: ConfigSource | None = None,
    overrides: Overrides = (),
    *,
    method: str | Method | None = None,
    model: str | Factory | Sequence[str | Factory] | None = None,
    data: Folder | Dataset | Arrays | Mapping[str, npt.ArrayLike] | Any = None,
    partition: str | Function | Any = None,
    out: Folder | None = None,
    resume: Folder | None = None,
    callbacks: Sequence[Callback] = (),
    engine: Engine = "local",
    progress: bool = False,
) -> Run:
    """Simulate a federation, write its run folder, and return the finished run, as `edgefd simulate` does.

    Args:
        config: a YAML file, a dict of its sections, or a `Config`. The path simulations/quickstart.yaml is found from
            every folder.
        overrides: settings that replace those of `config`: {"train.rounds": 2}, or ["train.rounds=2"].
        method: a name or a `Method`.
        model: a name, or a function (shape of a sample, number of classes) → torch module; or a list of names and
            functions, which are assigned to the clients in turn.
        data: a name or a path, as `data.name` of a config; a `Dataset`; the arrays (x_train, y_train, x_test, y_test);
            a dict of arrays; a dataset of torch, or a pair of them (train, test); or a Hugging Face data set.
        partition: a name, a function (labels int64 [n], random generator) → one array of indices for each client, or a
            partitioner of flwr-datasets.
        out: the run folder, which must not exist (None = a new folder in runs/ of the current folder).
        resume: instead of `out`, the folder of a run to continue after its last checkpoint, with the same bits as
            without a stop. `config` may then be left out; objects of the session must be passed again. A run that has
            not begun begins in this folder.
        callbacks: objects that follow the run and those of its baselines, in addition to those that run.trackers and
            run.callbacks name.
        engine: "local" = this machine; "ray" = Flower on Ray, which returns neither teacher nor models.
        progress: whether the progress is printed.

    Raises:
        UserError: for bad input, in one line, before anything is written.
        RunError: if a client fails or a file cannot be written.
        KeyboardInterrupt: on Ctrl-C; the message names the folder with the completed rounds.
    """
    require("sim", "torch", "scipy")
    from edgefd.simulation.run import simulate_config

    if resume is not None and out is not None:
        raise UserError("resume is the run folder: remove the argument out")
    if config is None:
        config = _config_of(resume)
    objects = _kept_objects(config, {"method": method, "model": model, "data": data, "partition": partition})
    chosen = {
        "method.name": method if method is None or isinstance(method, str) else _name_of_method(method, objects),
        "model": None if model is None else _names_of_models(model, objects),
        "data.name": None if data is None else _name_of_data(data, objects),
        "partition.name": _name_of_partition(partition, objects),
    }
    settings = {key: name for key, name in chosen.items() if name is not None} | dict(read_overrides(overrides))
    loaded = _with_dataset(load_config(config, settings, objects))
    console = None
    if progress:
        console = safe_console()
    with _interruptible():
        folder = out if resume is None else resume
        folder = None if folder is None else user_path(folder)
        return simulate_config(loaded, folder, engine, callbacks, console, resume is not None)


def sweep(
    grid: ConfigSource,
    overrides: Overrides = (),
    *,
    out: Folder = "runs/sweep",
    jobs: int | None = None,
    on_done: Callable[[str, str], object] | None = None,
) -> list[Path]:
    """Run a grid of methods, data sets, splits and seeds in several processes, and return the run folders.

    Repeat the call to resume a sweep that was stopped. The processes do not run the calling script again, so it needs
    no `if __name__ == "__main__"`.

    Args:
        grid: a sweep file, or its content as a dict with base, grid and cases.
        overrides: other values for a key of the grid, such as {"seed": [0, 1]}, or another setting of base.
        out: the folder of all run folders.
        jobs: number of runs at the same time (None = one for each core).
        on_done: called with the name of a run and its outcome, in one line, when the run ends.

    Raises:
        UserError: for the first error in the grid or its data, before any run starts.
        RunError: at the end, if runs failed; the message names them.
        KeyboardInterrupt: on Ctrl-C; finished runs are kept.
    """
    require("sim", "torch", "scipy")
    from edgefd.simulation.sweep import load_sweep, run_sweep

    if jobs is not None and jobs < 1:
        raise UserError(f"jobs must be at least 1, not {jobs}")
    cells = load_sweep(grid, overrides)

    def report(cell: Cell, outcome: str) -> None:
        if on_done is not None:
            on_done(cell.name, outcome)

    with _interruptible():
        return run_sweep(cells, user_path(out), jobs or cores(), report)


def compare(runs: Run | Folder | Sequence[Run | Folder], *, over: str = "seed") -> Any:
    """Compare finished runs: mean accuracy over seeds with its 95 % interval, bytes and seconds, best first.

    Accuracies are fractions. `Rows` is a list of dicts with `head` and `tail`.

    Args:
        runs: runs, run folders, or folders that contain run folders. A run brings its baselines.
        over: the setting to average over.

    Returns:
        A table with one row for each method and its settings: a pandas DataFrame, or `Rows` if pandas is missing.

    Raises:
        UserError: if there is no such run or setting, a run did not reach its end, or a run is listed twice.
    """
    require("sim", "scipy")
    from edgefd.report.compare import compare as group
    from edgefd.report.compare import load_runs

    listed: Any = runs if isinstance(runs, list | tuple) else [runs]
    return table([asdict(row) for row in group(load_runs([_folder_of(run) for run in listed]), over)])


def plot(runs: Run | Folder | Sequence[Run | Folder], kind: PlotKind = "accuracy") -> Figure:
    """Return a matplotlib figure of runs and their baselines; it is not registered with pyplot.

    Runs that differ only in the seed are one curve: their mean, with its 95 % interval.

    Args:
        runs: runs, run folders, or folders that contain run folders.
        kind: "accuracy" = mean accuracy by round; "clients" = accuracy of each client by round, in the run with the
            lowest seed; "bytes" = bytes of all rounds, and accuracy against the bytes sent.

    Raises:
        UserError: if there is no such plot or run, the runs are of different data, or matplotlib is missing.
    """
    require("sim", "scipy")
    from edgefd.report.matplotlib_plots import plot_runs

    listed: Any = runs if isinstance(runs, list | tuple) else [runs]
    return plot_runs([_folder_of(run) for run in listed], kind)


def audit(
    run: Run | Folder,
    *,
    level: int | None = None,
    attacks: Sequence[str] = (),
    adversaries: Sequence[str] = (),
    shadows: int | None = None,
    replace: bool = False,
    progress: bool = False,
) -> dict[str, Any]:
    """Measure what a recorded run disclosed, and to whom; write the results to RUN/audit and return them.

    Args:
        run: a run, or its folder. The config of the run must have set run.record_knowledge=true.
        level: 0 = takes seconds; 1 = adds attacks on models; 2 = adds shadow federations; None = 1, or 0 for a run that
            a coordinator recorded.
        attacks: the attacks to run (none = all of the level).
        adversaries: server, client, holder, eavesdropper, observer (none = all).
        shadows: with level 2, the number of shadow federations (None = 16).
        replace: whether the results of a larger audit are replaced; otherwise both are kept.
        progress: whether the progress is printed.

    Returns:
        The content of audit.json, as docs/guides/audit.md describes it.

    Raises:
        UserError: for bad input, or a run that was not recorded.
        RunError: if something cannot be written.
    """
    require("audit", "torch", "scipy", "sklearn", "threadpoolctl")
    from edgefd.auditing.request import parse_request
    from edgefd.auditing.run_audit import audit as run_audit

    if level not in (None, 0, 1, 2):
        raise UserError(f"level must be 0, 1 or 2, not {level!r}")
    request = parse_request(level, attacks, adversaries, [], shadows, replace)
    objects = {} if isinstance(run, str | os.PathLike) else run.config.objects
    if not progress:
        return run_audit(_folder_of(run), request, lambda _: lambda _: None, objects)
    from edgefd.auditing.report import terminal

    with terminal.progress(safe_console()) as show:
        return run_audit(_folder_of(run), request, show, objects)


def _config_of(run: Folder | None) -> Path:
    """Return the config file of a run to continue."""
    if run is None:
        raise UserError("give a config, or resume=RUN")
    path = user_path(run) / CONFIG
    if not path.exists():
        raise UserError(f"{run} holds no run that has begun (no {CONFIG}): give a config")
    return path


def load_model(
    run: Run | Folder, client: int, *, round: int | None = None, model: Factory | None = None
) -> TrainedModel:
    """Return the model of a client that a run has kept. It takes raw samples, as in the data set of the run.

    `logits(x)` and `probabilities(x)` return float32 [n, C], `predict(x)` the labels, and `to_onnx(path)` writes one
    ONNX graph with the scale in it. `module` is a torch module from raw samples to logits.

    Args:
        run: a run, or its folder. Its config sets which models are kept by `run.keep`.
        client: number of the client, from 0.
        round: round in which the model was evaluated (None = the newest that is kept).
        model: the function that builds the module, if the run got a function that other processes cannot import.

    Raises:
        UserError: if the run keeps no such model.
    """
    require("sim", "torch", "safetensors")
    from edgefd.runs.trained_model import load_trained

    if model is None and not isinstance(run, str | os.PathLike):
        choice = run.config.model_of(client)
        model = run.config.objects.get(choice.name)
    return load_trained(_folder_of(run), client, round, model)


@contextmanager
def _interruptible() -> Iterator[None]:
    """Convert `Stopped` into a KeyboardInterrupt, which no `except Exception` of a user catches."""
    try:
        yield
    except Stopped as stop:
        raise KeyboardInterrupt(str(stop)) from None


def _folder_of(run: Run | Folder) -> Path:
    return user_path(run if isinstance(run, str | os.PathLike) else run.folder)


def _kept_objects(config: ConfigSource, replaced: Mapping[str, object]) -> dict[str, object]:
    """Return the objects of a config whose sections no argument replaces: another object must not get their names."""
    if not isinstance(config, Config):
        return {}
    names = {
        "method": [config.method_name],
        "model": [model.name for model in config.model],
        "data": [config.data.name],
        "partition": [config.partition.name],
    }
    kept = {name for section, argument in replaced.items() if argument is None for name in names[section]}
    return {name: value for name, value in config.objects.items() if name in kept}


def _name_of_method(method: Method, objects: dict[str, object]) -> str:
    """Return the name that a config holds for a method. Other processes can import most methods by this name."""
    check_method(method, f"method {method!r:.60}")
    if method.name in method_names() and get_method(method.name) is method:
        return method.name
    hooks = [value for value in vars(method).values() if callable(value)]
    return importable_name(method, *hooks) or _add(objects, method.name, method)


def _names_of_models(model: str | Factory | Sequence[str | Factory], objects: dict[str, object]) -> Any:
    if isinstance(model, Sequence) and not isinstance(model, str):
        return [_names_of_models(one, objects) for one in model]
    if not isinstance(model, str) and not callable(model):
        raise UserError(f"model: {model!r:.60} is neither a name nor a function")
    return model if isinstance(model, str) else _name_of_function(model, objects)


def _name_of_data(data: Any, objects: dict[str, object]) -> str:
    if isinstance(data, str | os.PathLike):
        return os.fspath(data)
    if isinstance(data, Dataset):
        return _add(objects, data.name, data)
    return _add(objects, "arrays" if _is_arrays(data) else "data", data)


def _with_dataset(config: Config) -> Config:
    """Return the config with the object that its data set names as a `Dataset`; how it was read is in its `source`."""
    name, source = config.data.name, config.data
    if name not in config.objects:
        return config
    if isinstance(data := config.objects[name], Dataset):
        source.check_used((), "Dataset objects")
        return config
    dataset = dataset_of(name.removeprefix(OBJECT), read_object(data, source), f"{_kind(data)} of this session", source)
    plain: dict[str, Any] = {field.name: field.default for field in fields(Source) if field.name != "name"}
    return replace(config, data=replace(source, **plain), objects={**config.objects, name: dataset})


def _is_arrays(data: object) -> bool:
    return isinstance(data, tuple | list) and len(data) == 4


def _kind(data: object) -> str:
    parts = data if isinstance(data, tuple | list) else [data]
    return "arrays" if _is_arrays(data) or isinstance(data, dict) else type(parts[0]).__name__


def _name_of_partition(partition: Any, objects: dict[str, object]) -> str | None:
    if partition is None or isinstance(partition, str):
        return partition
    if not callable(partition) and not hasattr(partition, "load_partition"):
        raise UserError(f"partition: {partition!r:.60} is neither a name, nor a function, nor a partitioner")
    return _name_of_function(partition, objects)


def _name_of_function(function: Callable[..., Any], objects: dict[str, object]) -> str:
    name = str(getattr(function, "__name__", type(function).__name__))
    return importable_name(function) or _add(objects, name, function)


def _add(objects: dict[str, object], name: str, value: object) -> str:
    """Add an object that no other process can import, and return its name, which is unique."""
    for key, known in objects.items():
        if known is value:
            return key
    key = f"{OBJECT}{name}"
    while key in objects:
        key += "'"
    objects[key] = value
    return key
