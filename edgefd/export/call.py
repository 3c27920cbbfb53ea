"""`Call`: one call of a torch operator that is to be translated to ONNX nodes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import torch

from edgefd.export.graph_builder import GraphBuilder, Value, plain

NUMPY_TYPES = {
    torch.float32: np.float32,
    torch.float64: np.float64,
    torch.int64: np.int64,
    torch.int32: np.int32,
    torch.bool: np.bool_,
}
ONNX_TYPES = {
    torch.float32: onnx.TensorProto.FLOAT,
    torch.float64: onnx.TensorProto.DOUBLE,
    torch.int64: onnx.TensorProto.INT64,
    torch.int32: onnx.TensorProto.INT32,
    torch.bool: onnx.TensorProto.BOOL,
}


@dataclass(frozen=True, eq=False)
class Call:
    """A call of a torch operator: its arguments, with Values for tensors, and shape and type of its result."""

    g: GraphBuilder
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    shape: tuple[Any, ...]
    """shape of the result; () if the operator has several results"""
    dtype: torch.dtype
    """type of the result; float32 if the operator has several results"""
    input_dtype: torch.dtype
    """type of the first tensor argument; float32 if there is none"""

    def get(self, index: int, name: str, default: Any = None) -> Any:
        """Return an argument by position or name."""
        return self.args[index] if len(self.args) > index else self.kwargs.get(name, default)

    def number(self, value: float) -> Value:
        """Return a constant with the type of the tensor arguments."""
        return plain(self.g.constant(np.array(value, NUMPY_TYPES[self.input_dtype])), ())
