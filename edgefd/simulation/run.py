"""Simulate the runs of a config, each in its run folder, and return them as `Run` objects."""

from __future__ import annotations

import functools
import logging
from collections import deque
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
import torch
from threadpoolctl import threadpool_limits

from edgefd.config.load import baseline_config
from edgefd.config.schema import Config
from edgefd.core.errors import UserError
from edgefd.core.knowledge import Knowledge
from edgefd.core.paths import user_path
from edgefd.data.datasets import Dataset
from edgefd.federation.clients import Federation
from edgefd.learners.device import CPU, Device, unused_gpu
from edgefd.learners.torch_learner import one_thread
from edgefd.rounds.loop import RoundResult
from edgefd.rounds.participation import check_supported_over_flower
from edgefd.runs.callbacks import Callback, CallbackList, load_callbacks
from edgefd.runs.execute import execute_run
from edgefd.runs.folder import BASELINES
from edgefd.runs.learners import trained_model
from edgefd.runs.model_files import final_weights
from edgefd.runs.prepare import PreparedRun, prepare
from edgefd.runs.read import is_complete, read_run, read_summary
from edgefd.runs.record import check_unrecorded, weights_of
from edgefd.runs.round_metrics import RoundMetrics
from edgefd.runs.stacks import device_of
from edgefd.simulation.checkpoint import checkpoint_of, locked, open_folder, resuming
from edgefd.simulation.engine import InProcess, open_transport, simulate
from edgefd.simulation.kept_models import models_of
from edgefd.simulation.notebook import run_html
from edgefd.simulation.ray import check_ray, simulate_ray
from edgefd.simulation.table import table

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from rich.console import Console

    from edgefd.report.matplotlib_plots import PlotKind

_LOG = logging.getLogger(__name__)

Engine = Literal["local", "ray"]


@dataclass(frozen=True, eq=False)
class Run:
    """A finished run of a simulation: its results, its models, and the folder that holds its files.

    `print(run)` shows one line. All accuracies are those of the final round, never those of the best round.
    """

    folder: Path
    """the run folder: config.yaml, env.json, partition.json, metrics.jsonl, evaluation.json, summary.json"""
    config: Config
    """the config with every default"""
    summary: dict[str, Any]
    """the content of summary.json, such as accuracy_mean, accuracy_worst, bytes_up, kept_fraction"""
    rounds: tuple[RoundMetrics, ...]
    """the metrics of each round; the last one is the closing distillation"""
    dataset: Dataset
    """the raw data"""
    federation: Federation
    """the data as the models get them: clients, proxy set and test set, standardised by `federation.scale`"""
    teacher: Knowledge | None = None
    """the last teacher; None if the method has none, and with engine="ray\""""
    weights: tuple[dict[str, np.ndarray], ...] = ()
    """final parameters and buffers of each client's model by name, float32; empty with engine="ray", and for a run that
    was complete before it was resumed and kept no final models"""
    baselines: Mapping[str, Run] = field(default_factory=dict)
    """the runs of the config's baselines on the same split, by method; their folders are in `folder`/also"""

    @property
    def metrics(self) -> Any:
        """The rounds as a table, with the fields of metrics.jsonl as columns (see `RoundMetrics`).

        It is a pandas DataFrame where pandas is installed, otherwise `Rows`: a list of dicts with `head` and `tail`.
        """
        return table([{k: v for k, v in m.to_dict().items() if k != "evaluation"} for m in self.rounds])

    @functools.cached_property
    def models(self) -> tuple[torch.nn.Module, ...]:
        """The final model of each client, as a torch module in evaluation mode.

        It takes float32 samples as in `federation.x_test` and returns logits [n, C]; with `model.heads=2`, it returns
        [n, 2C], the logits of the private head before those of the taught head. Empty with engine="ray".
        """
        return tuple(trained_model(self.config, self.federation, i, state) for i, state in enumerate(self.weights))

    def plot(self, kind: PlotKind = "accuracy") -> Figure:
        """Return a plot of this run and its baselines, as `edgefd.plot` does."""
        from edgefd.report.matplotlib_plots import plot_runs

        return plot_runs([self.folder], kind)

    def report(self, out: str | Path | None = None) -> Path:
        """Write one HTML page about this run and its baselines, and return its path; a notebook shows the page.

        Args:
            out: the file (None = report.html in the run folder).

        Raises:
            UserError: if the file cannot be written, or exists and is no report.
        """
        from edgefd.report.command import write_report

        return write_report([self.folder], None if out is None else user_path(out))

    def _repr_html_(self) -> str:
        named = {self.summary["method"]: self.summary} | {name: run.summary for name, run in self.baselines.items()}
        return run_html(named, self.folder)

    def __repr__(self) -> str:
        accuracy = self.summary["accuracy_mean"]
        name = f"{self.summary['method']} on {self.summary['dataset']}, {self.summary['scenario']}"
        return f"<Run of {name}: accuracy {accuracy:.4f} after {self.summary['rounds']} rounds, in {self.folder}>"


def simulate_config(
    config: Config,
    out: Path | None = None,
    engine: Engine = "local",
    callbacks: Sequence[Callback] = (),
    console: Console | None = None,
    resume: bool = False,
) -> Run:
    """Run the config's method in `out`, then each of its baselines on the same split in `out`/also/<method>.

    Args:
        config: the config.
        out: the run folder, which must not exist (None = a new folder in runs/).
        engine: "local" = this machine; "ray" = Flower on Ray.
        callbacks: callbacks of the caller, in addition to those that the config names.
        console: where the data and the progress are printed (None = nowhere).
        resume: continue the run in `out` after its last checkpoint; its finished methods are not repeated. If `out`
            does not exist, or its run had not begun, the run begins.

    Raises:
        UserError: for bad input of any of the methods, before the first run begins, and for a run that cannot be
            resumed.
        RunError: if a client fails or a file cannot be written.
        Stopped: on Ctrl-C; the message names the folder of the completed rounds.
    """
    if engine not in get_args(Engine):
        raise UserError(f"engine must be {' or '.join(get_args(Engine))}, not {engine!r}")
    if engine == "ray":
        _check_ray(config, resume)
    device = _device(config, engine)
    following = load_callbacks(config, callbacks)
    with one_thread(), threadpool_limits(1, "blas"):
        return _simulate(config, out, engine, following, console, resume, device)


def _simulate(
    config: Config,
    out: Path | None,
    engine: Engine,
    following: CallbackList,
    console: Console | None,
    resume: bool,
    device: Device,
) -> Run:
    """Run the method and its baselines. See `simulate_config`."""
    runs = [prepare(config), *(prepare(baseline_config(config, name)) for name in config.baselines)]
    _check_loss(runs[0])
    with open_folder(config, out, resume) as folder, locked(folder):
        for warning in (*runs[0].all_warnings, unused_gpu(device)):
            if warning is not None:
                _LOG.warning("%s", warning)
        if console is not None:
            from edgefd.simulation.progress import print_data

            print_data(runs[0], console)
            if device.is_gpu:
                console.print(f"device: {device.label}", soft_wrap=True)
        run = _run(runs[0], folder, engine, following, console)
        baselines: dict[str, Run] = {}
        for name, prepared in zip(config.baselines, runs[1:], strict=True):
            with open_folder(prepared.config, folder / BASELINES / name, resume) as own_folder:
                baselines[name] = _run(prepared, own_folder, engine, following, console)
    return replace(run, baselines=baselines)


def _device(config: Config, engine: Engine) -> Device:
    """Return where clients train. Ray's clients train on CPUs."""
    return CPU if engine == "ray" else device_of(config)


def _check_loss(prepared: PreparedRun) -> None:
    if prepared.config.distillation.loss == "mixed" and not any(
        len(c.contributed) for c in prepared.federation.clients
    ):
        raise UserError(
            "distillation.loss=mixed would change nothing: a simulation does not know who contributed the samples of "
            "proxy.path, only devices do; use another loss, or remove proxy.path"
        )


def _check_ray(config: Config, resume: bool) -> None:
    if resume:
        raise UserError("the Ray engine writes no checkpoints, so its runs cannot be resumed: use the local engine")
    if config.objects:
        raise UserError(
            f"{', '.join(config.objects)}: the processes of Ray cannot import objects of this session: "
            "put them into a module, or use engine='local'"
        )
    if config.run.keep not in ("last", "none"):
        raise UserError(f"run.keep={config.run.keep}: the Ray engine keeps no models: use the local engine")
    settings = config.run
    if settings.device not in ("auto", "cpu") or (settings.stack, settings.precision) != ("auto", "float32"):
        raise UserError(
            "the Ray engine trains one client after another on CPU cores, in float32: remove run.device, run.stack and "
            "run.precision, or use the local engine"
        )
    check_supported_over_flower(config.coordinator)
    if config.devices.fleet:
        raise UserError("devices works only with the local engine: remove the section to run on Ray")
    check_unrecorded(config, "with --engine ray")
    check_ray(config)


def _run(prepared: PreparedRun, folder: Path, engine: Engine, callbacks: CallbackList, console: Console | None) -> Run:
    """Run one method, from its checkpoint if the folder has one. Afterwards, only the result remains in this process.

    That is so after an error too.
    """
    config, federation = prepared.config, prepared.federation
    saved = checkpoint_of(prepared, folder)
    finished = is_complete(folder)
    completed = list(saved.metrics or (read_run(folder).rounds if finished else ()))
    last_result = deque[RoundResult](maxlen=1)
    transports: list[InProcess] = []

    with ExitStack() as stack:

        def rounds() -> Iterator[RoundMetrics]:
            if saved.progress.closed:
                return iter(())
            if engine == "ray":
                return stack.enter_context(closing(simulate_ray(config, len(federation.clients))))
            models = None if config.run.keep == "none" else models_of(prepared, folder)
            transport = open_transport(config, federation, models)
            transports.append(transport)
            stack.callback(transport.pool.close)
            resume = resuming(transport, saved, folder)
            return stack.enter_context(closing(simulate(transport, folder, last_result.append, resume)))

        def watch(rounds: Iterator[RoundMetrics]) -> Generator[RoundMetrics]:
            for metrics in rounds:
                yield metrics  # the caller writes them
                completed.append(metrics)

        def progress(rounds: Iterator[RoundMetrics]) -> Iterator[RoundMetrics]:
            if console is not None:
                from edgefd.simulation.progress import show_progress

                rounds = show_progress(prepared, console, rounds, len(saved.metrics))
            return stack.enter_context(closing(watch(rounds)))

        if finished:
            if console is not None:
                console.print(f"{config.method_name}: the run in {folder} is complete already", soft_wrap=True)
            summary = asdict(read_summary(folder))
        else:
            device = _device(config, engine).label
            before = read_run(folder).environment.get("device", device) if saved.metrics else device
            if before != device:
                _LOG.warning("the run began on %s and continues on %s: low bits will differ", before, device)
            summary = execute_run(config, prepared.facts, folder, progress, rounds, saved.metrics, callbacks, device)
    weights = tuple(weights_of(client) for transport in transports for client in transport.state.clients)
    teacher = last_result[0].teacher if last_result else saved.progress.teacher
    if saved.progress.closed or finished:
        weights = final_weights(folder, len(completed) - 1, len(federation.clients))
    return Run(folder, config, summary, tuple(completed), prepared.dataset, federation, teacher, weights)
