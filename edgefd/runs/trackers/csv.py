"""Tracker that writes RUN/metrics.csv: one row for each round, for spreadsheets. It needs no package."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from typing import Any

from edgefd.core.files import writing
from edgefd.runs.callbacks import Callback, RunInfo
from edgefd.runs.round_metrics import RoundMetrics
from edgefd.runs.trackers._numbers import NAMES, round_numbers


class Tracker(Callback):
    """Tracker `csv`. A number that was not measured is an empty cell; the config and the summary are other files."""

    def on_start(self, run: RunInfo) -> None:
        """Create the file, or replace the one of a run that is resumed, whose rounds follow."""
        with writing(run.folder / "metrics.csv") as path:
            self._file = path.open("w", newline="")
        self._rows = csv.DictWriter(self._file, ("round", *NAMES))
        self._rows.writeheader()

    def on_round(self, metrics: RoundMetrics) -> None:
        """Write a row to the disk."""
        self._rows.writerow({"round": metrics.round, **round_numbers(metrics)})
        self._file.flush()

    def on_end(self, summary: Mapping[str, Any] | None) -> None:
        """Close the file."""
        self._file.close()
