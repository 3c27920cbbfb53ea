"""A feature extractor that consists of one matrix product."""

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

MATRIX = np.random.default_rng(0).normal(0, 0.1, (784, 12)).astype(np.float32)


def graph(matrix: np.ndarray = MATRIX) -> bytes:
    """Return an ONNX graph that maps samples x [n, 1, 28, 28] to x @ matrix."""
    nodes = [helper.make_node("Flatten", ["x"], ["flat"]), helper.make_node("MatMul", ["flat", "m"], ["y"])]
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 1, 28, 28])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", matrix.shape[1]])
    whole = helper.make_graph(nodes, "g", [x], [y], [numpy_helper.from_array(matrix, "m")])
    model = helper.make_model(whole, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)
    onnx.checker.check_model(model)
    out: bytes = model.SerializeToString()
    return out
