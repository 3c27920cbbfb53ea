"""ONNX Runtime: the only module that imports it, and the only place where it opens a graph."""

from __future__ import annotations

import os
from typing import Any

os.environ.setdefault(
    "ORT_DISABLE_TELEMETRY", "1"
)  # from its import on, it would keep a number of the device, and send it

import onnxruntime as ort

from edgefd.core.errors import UserError
from edgefd.core.objects import one_line

__all__ = ["EXTENDED", "open_session", "ort", "session_options"]

EXTENDED = ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED


def session_options(threads: int) -> Any:
    """Return `onnxruntime.SessionOptions` for a number of threads, with errors only in the log."""
    options = ort.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.log_severity_level = 3
    return options


def open_session(graph: bytes, options: Any) -> Any:
    """Return a session of a serialised ONNX graph, on the CPU.

    Without the setting below, ONNX Runtime would read bytes that begin like its own format in that format, which no
    check of this project reads. It has neither libraries of custom operators nor a folder for data outside the graph.

    Args:
        graph: the bytes; a graph from another party has passed `edgefd.wire.onnx_reader` before.
        options: `session_options`, with changes.

    Raises:
        UserError: if ONNX Runtime refuses the graph.
    """
    options.add_session_config_entry("session.load_model_format", "ONNX")
    try:
        return ort.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # the errors of ONNX Runtime have no common base class
        raise UserError(f"ONNX Runtime refuses the graph: {one_line(error)[:300]}") from error
