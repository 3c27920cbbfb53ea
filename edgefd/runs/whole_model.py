"""One ONNX graph from raw samples to logits: extractor, scale and model with its weights."""

from __future__ import annotations

import numpy as np
import onnx
import onnx.compose
import onnx.version_converter
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from edgefd.core.errors import UserError
from edgefd.core.objects import one_line
from edgefd.data.model_input import InputFormat
from edgefd.export.operators import to_onnx
from edgefd.export.step import parameters_of, trace_logits
from edgefd.wire.onnx_reader import OPSET

_KINDS = {"uint8": TensorProto.UINT8, "float32": TensorProto.FLOAT}


def whole_graph(model: nn.Module, expected: InputFormat, extractor: bytes | None = None) -> bytes:
    """Return an ONNX graph with the input `x`, raw samples [n, ...], and the output `logits`, float32 [n, C].

    logits = model((f(x) - mean) / std), where f is the extractor, or the identity.

    Args:
        model: the trained module.
        expected: format of the raw samples, with mean and std.
        extractor: graph that computes features; None if the model takes samples.

    Raises:
        UserError: for an operator that cannot be exported, or an extractor whose operators cannot be converted.
    """
    whole = to_onnx(trace_logits(model, expected.shape))
    graph = whole.graph
    weights = {name: tensor.detach().numpy() for name, tensor in parameters_of(model).items()}
    graph.initializer.extend(numpy_helper.from_array(values, name) for name, values in weights.items())
    del graph.input[:]
    graph.input.append(helper.make_tensor_value_info("x", _KINDS[expected.units.dtype], ["n", *expected.sample_shape]))
    for node in graph.node:
        node.input[:] = ["scaled" if name == "x" else name for name in node.input]
    first = [helper.make_node("Cast", ["x"], ["raw"], to=TensorProto.FLOAT)]
    features = "raw"
    if extractor is not None:
        features = _join(whole, first, extractor)
    mean, std = (np.array(numbers, np.float32) for numbers in expected.scale)
    for name, numbers in (("mean", mean), ("std", std)):
        shaped = numbers.reshape(-1, *[1] * (len(expected.shape) - 1))
        graph.initializer.append(numpy_helper.from_array(shaped, f"scale/{name}"))
    first.append(helper.make_node("Sub", [features, "scale/mean"], ["centred"]))
    first.append(helper.make_node("Div", ["centred", "scale/std"], ["scaled"]))
    nodes = [*first, *graph.node]
    del graph.node[:]
    graph.node.extend(nodes)
    onnx.checker.check_model(whole)
    blob: bytes = whole.SerializeToString()
    return blob


def _join(whole: onnx.ModelProto, first: list[onnx.NodeProto], extractor: bytes) -> str:
    """Add an extractor to the first nodes, which read `raw`; return the name of its features."""
    other = onnx.load_from_string(extractor)
    if {o.version for o in other.opset_import if not o.domain} != {OPSET}:
        try:
            other = onnx.version_converter.convert_version(other, OPSET)
        except Exception as error:  # the converter has errors of many kinds
            raise UserError(f"the extractor cannot be joined with the model: {one_line(error)[:200]}") from error
    other = onnx.compose.add_prefix(other, "extractor/")
    for node in other.graph.node:
        node.input[:] = ["raw" if name == other.graph.input[0].name else name for name in node.input]
    first.extend(other.graph.node)
    whole.graph.initializer.extend(other.graph.initializer)
    return str(other.graph.output[0].name)
