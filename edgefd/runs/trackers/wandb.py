"""Tracker for Weights & Biases. Its variables choose the place: WANDB_MODE, WANDB_ENTITY, WANDB_PROJECT (edgefd)."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from edgefd.core.errors import require
from edgefd.runs.callbacks import Callback, RunInfo
from edgefd.runs.round_metrics import RoundMetrics
from edgefd.runs.trackers._numbers import round_numbers, summary_numbers


class Tracker(Callback):
    """Tracker `wandb`: the config, numbers of each round by step, and the summary; its files are in RUN/wandb."""

    def __init__(self) -> None:
        require("wandb", "wandb")

    def on_start(self, run: RunInfo) -> None:
        """Create a run; a run and its baselines are a group."""
        import wandb

        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", "edgefd"),
            name=run.name,
            group=run.name.partition("/")[0],
            dir=run.folder.resolve(),  # its process has a current folder of its own
            config=run.config.to_dict(),
            reinit="create_new",  # a run that the calling program has open stays as it is
            settings=wandb.Settings(console="off"),  # what this process prints is not uploaded
        )

    def on_round(self, metrics: RoundMetrics) -> None:
        """Store the numbers of a round."""
        self._run.log(round_numbers(metrics), step=metrics.round)

    def on_end(self, summary: Mapping[str, Any] | None) -> None:
        """Store the summary, and close the run, as failed if it did not reach its end."""
        self._run.summary.update(summary_numbers(summary))
        self._run.finish(exit_code=0 if summary and summary["complete"] else 1)
