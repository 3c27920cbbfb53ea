"""Tracker that writes RUN/tensorboard, for `tensorboard --logdir runs`. It needs neither torch nor TensorFlow."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from edgefd.core.errors import require
from edgefd.runs.callbacks import Callback, RunInfo
from edgefd.runs.round_metrics import RoundMetrics
from edgefd.runs.trackers._numbers import round_numbers, settings, summary_numbers


class Tracker(Callback):
    """Tracker `tensorboard`: numbers of each round as scalars, and the settings for the page HPARAMS."""

    def __init__(self) -> None:
        require("tensorboard", "tensorboard")

    def on_start(self, run: RunInfo) -> None:
        """Create an event file and write the settings."""
        from tensorboard.compat.proto.event_pb2 import SessionLog
        from tensorboard.compat.proto.summary_pb2 import Summary
        from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData, SessionStartInfo
        from tensorboard.summary.writer.event_file_writer import EventFileWriter

        self._writer, self._last = EventFileWriter(str(run.folder / "tensorboard")), 0
        self._write(session_log=SessionLog(status=SessionLog.START))  # readers drop the rounds of a process before it
        start = SessionStartInfo(group_name=run.name)
        for name, value in settings(run.config).items():
            kind = "bool" if isinstance(value, bool) else "string" if isinstance(value, str) else "number"
            setattr(start.hparams[name], f"{kind}_value", value)
        summary = Summary()
        hparams = summary.value.add(tag="_hparams_/session_start_info").metadata.plugin_data
        hparams.plugin_name = "hparams"
        hparams.content = HParamsPluginData(version=0, session_start_info=start).SerializeToString()
        self._write(summary=summary)

    def on_round(self, metrics: RoundMetrics) -> None:
        """Write the numbers of a round to the disk."""
        self._last = metrics.round
        self._write_scalars(round_numbers(metrics))

    def on_end(self, summary: Mapping[str, Any] | None) -> None:
        """Write the summary under the number of the last round, and close the file."""
        self._write_scalars(summary_numbers(summary))
        self._writer.close()

    def _write_scalars(self, numbers: Mapping[str, float]) -> None:
        from tensorboard.compat.proto.summary_pb2 import Summary

        values = [Summary.Value(tag=name, simple_value=value) for name, value in numbers.items()]
        self._write(summary=Summary(value=values))

    def _write(self, **content: Any) -> None:
        from tensorboard.compat.proto.event_pb2 import Event

        self._writer.add_event(Event(wall_time=time.time(), step=self._last, **content))
        self._writer.flush()
