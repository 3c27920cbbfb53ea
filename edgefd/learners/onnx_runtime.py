"""ONNX Runtime, as `ort`, without its telemetry: it would keep a number of the device, and send it, from its import on.

Every other module imports it from here.
"""

from __future__ import annotations

import os

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

import onnxruntime as ort

__all__ = ["ort"]
