"""Tracker for MLflow. Its variables choose the place: MLFLOW_TRACKING_URI, and MLFLOW_EXPERIMENT_NAME (edgefd)."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from typing import Any

from edgefd.core.errors import require
from edgefd.runs.callbacks import Callback, RunInfo
from edgefd.runs.round_metrics import RoundMetrics
from edgefd.runs.trackers._numbers import round_numbers, settings, summary_numbers

_MOST = 100
"""most params that MLflow takes at a time"""


class Tracker(Callback):
    """Tracker `mlflow`: settings as params, numbers of each round as metrics by step, and the state of the run."""

    def __init__(self) -> None:
        require("mlflow", "mlflow")

    def on_start(self, run: RunInfo) -> None:
        """Create a run in the experiment and store the settings."""
        from mlflow import MlflowClient
        from mlflow.entities import Param

        name, self._last = os.environ.get("MLFLOW_EXPERIMENT_NAME", "edgefd"), 0
        self._client = MlflowClient()
        known = self._client.get_experiment_by_name(name)
        experiment = self._client.create_experiment(name) if known is None else known.experiment_id
        tags = {"edgefd.folder": str(run.folder.resolve()), "edgefd.method": run.config.method_name}
        self._id = self._client.create_run(experiment, tags=tags, run_name=run.name).info.run_id
        params = [Param(key, str(value)) for key, value in settings(run.config).items()]
        for i in range(0, len(params), _MOST):
            self._client.log_batch(self._id, params=params[i : i + _MOST])

    def on_round(self, metrics: RoundMetrics) -> None:
        """Store the numbers of a round."""
        self._last = metrics.round
        self._log(round_numbers(metrics))

    def on_end(self, summary: Mapping[str, Any] | None) -> None:
        """Store the summary, and close the run as FINISHED, or as KILLED if it did not reach its end."""
        self._log(summary_numbers(summary))
        self._client.set_terminated(self._id, "FINISHED" if summary and summary["complete"] else "KILLED")

    def _log(self, numbers: Mapping[str, float]) -> None:
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        metrics = [Metric(name, float(value), now, self._last) for name, value in numbers.items()]
        self._client.log_batch(self._id, metrics=metrics)
