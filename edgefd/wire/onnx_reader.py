"""A strict reader of ONNX files, without the package onnx. ONNX Runtime gets a file only after it was read here.

It accepts what `edgefd export` writes, and what the exporter of torch writes for an extractor, and nothing else: all
data are inside the file, all operators are of the default domain and in a list, and no graph holds another graph.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from edgefd.core.errors import UserError
from edgefd.wire.protobuf_fields import Field, Message, read_message

Attribute = int | float | str | tuple[int, ...] | npt.NDArray[Any]

OPSET = 20
IR_VERSION = 10
PRODUCER = "edgefd"
MAX_NODES = 10_000
"""largest number of nodes of a graph; those of the named models have up to 500"""


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


TRAINING_OPERATORS = _names(
    "Abs Add And ArgMax ArgMin Cast Ceil Concat ConstantOfShape Conv ConvTranspose Cos CumSum Div Equal Erf Exp "
    "Expand Floor Gather GatherElements Gemm Greater GreaterOrEqual Identity LayerNormalization Less LessOrEqual "
    "Log LogSoftmax MatMul Max Min Mul Neg Not Or Pad Pow Reciprocal ReduceMax ReduceMean ReduceMin ReduceSum Relu "
    "Reshape Round ScatterElements Shape Sigmoid Sign Sin Slice Softmax Split Sqrt Sub Tanh Tile Transpose Where"
)
"""operators that `edgefd export` can write"""
EXTRACTOR_OPERATORS = TRAINING_OPERATORS | _names(
    "ArgMax ArgMin AveragePool BatchNormalization Ceil Clip Constant Cos CumSum DepthToSpace Einsum Elu Flatten "
    "Floor GatherElements Gelu GlobalAveragePool GlobalMaxPool GroupNormalization HardSigmoid HardSwish "
    "InstanceNormalization LRN LeakyRelu MaxPool Mean Mish Mod Neg PRelu Range ReduceL2 ReduceMin ReduceProd Resize "
    "Round Selu Shape Sign Sin Size Softplus Softsign SpaceToDepth Squeeze Sum Tile TopK Unsqueeze"
)
"""operators that an extractor may have: those of the usual networks for images and signals"""

_TENSOR = Message(
    "tensor",
    {
        1: Field("dims", "int", repeated=True),
        2: Field("data_type", "int"),
        8: Field("name", "text"),
        9: Field("raw_data", "bytes"),
    },
    {
        13: "data outside the file (external_data)",
        14: "data outside the file (data_location)",
        **dict.fromkeys((4, 5, 6, 7, 10, 11), "numbers in fields of their own instead of raw_data"),
    },
)
_ATTRIBUTE = Message(
    "attribute",
    {
        1: Field("name", "text"),
        2: Field("f", "float"),
        3: Field("i", "int"),
        4: Field("s", "text"),
        5: Field("t", _TENSOR),
        8: Field("ints", "int", repeated=True),
        20: Field("type", "int"),
    },
    {6: "a graph of its own", 11: "graphs of its own", 22: "a sparse tensor", 23: "sparse tensors"},
)
_ATTRIBUTE_TYPES = {1: "f", 2: "i", 3: "s", 4: "t", 7: "ints"}
_NODE = Message(
    "node",
    {
        1: Field("input", "text", repeated=True),
        2: Field("output", "text", repeated=True),
        3: Field("name", "text"),
        4: Field("op_type", "text"),
        5: Field("attribute", _ATTRIBUTE, repeated=True),
    },
    {7: "a domain", 8: "an overload", 9: "metadata"},
)
_DIMENSION = Message("dimension", {1: Field("dim_value", "int"), 2: Field("dim_param", "text")})
_SHAPE = Message("shape", {1: Field("dim", _DIMENSION, repeated=True)})
_TENSOR_TYPE = Message("tensor type", {1: Field("elem_type", "int"), 2: Field("shape", _SHAPE)})
_TYPE = Message("type", {1: Field("tensor_type", _TENSOR_TYPE)})
_PORT = Message("graph input or output", {1: Field("name", "text"), 2: Field("type", _TYPE)})
_GRAPH = Message(
    "graph",
    {
        1: Field("node", _NODE, repeated=True),
        2: Field("name", "text"),
        5: Field("initializer", _TENSOR, repeated=True),
        11: Field("input", _PORT, repeated=True),
        12: Field("output", _PORT, repeated=True),
    },
    {13: "value_info", 14: "quantization", 15: "sparse initialisers", 16: "metadata"},
)
_OPSET = Message("operator set", {1: Field("domain", "text"), 2: Field("version", "int")})
_MODEL = Message(
    "model",
    {
        1: Field("ir_version", "int"),
        2: Field("producer_name", "text"),
        3: Field("producer_version", "text"),
        7: Field("graph", _GRAPH),
        8: Field("opset_import", _OPSET, repeated=True),
    },
    {14: "metadata", 20: "training_info", 25: "functions", 26: "a device configuration"},
)
_TYPES: dict[int, Any] = {1: np.float32, 6: np.int32, 7: np.int64, 9: np.bool_, 11: np.float64}
_ORT_FORMAT = b"ORTM"  # at this place, it makes ONNX Runtime read the file in a format of its own
MAX_ELEMENTS = 2**28
"""largest number of elements of a tensor whose shape a graph states"""
_MAX_DIMENSION = 2**31
_ENDLESS = 2**63 - 1  # the end of a slice that has none


@dataclass(frozen=True)
class Port:
    """An input or output of a graph, float32. A size that is not fixed has a name."""

    name: str
    shape: tuple[int | str, ...]


@dataclass(frozen=True, eq=False)
class Node:
    """One operator of a graph. An optional input that is left out has the name ""."""

    operator: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: dict[str, Attribute]


@dataclass(frozen=True, eq=False)
class OnnxGraph:
    """The content of an ONNX file. Nodes are in the order of computation, and every value is computed once."""

    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    nodes: tuple[Node, ...]
    constants: dict[str, npt.NDArray[Any]]
    opset: int


def read_training_graph(blob: bytes, name: str) -> OnnxGraph:
    """Read a graph that `edgefd export` wrote.

    Args:
        blob: content of the file.
        name: name of the file, for the text of an error.

    Raises:
        UserError: if the file holds anything that `edgefd export` never writes.
    """
    return _read(blob, name, TRAINING_OPERATORS, exported=True)


def read_extractor(blob: bytes, name: str) -> OnnxGraph:
    """Read the graph of an extractor, which may be of another exporter. See `read_training_graph`."""
    graph = _read(blob, name, EXTRACTOR_OPERATORS, exported=False)
    if len(graph.inputs) != 1 or len(graph.outputs) != 1:
        raise UserError(f"{name} must have one input and one output, not {len(graph.inputs)} and {len(graph.outputs)}")
    return graph


def _read(blob: bytes, name: str, operators: Collection[str], exported: bool) -> OnnxGraph:
    try:
        if blob[4:8] == _ORT_FORMAT:
            raise ValueError("it is in the format of ONNX Runtime")
        model = read_message(memoryview(blob), _MODEL)
        opsets = [(o.get("domain", ""), o.get("version")) for o in model.get("opset_import", ())]
        if len(opsets) != 1 or opsets[0][0] != "":
            raise ValueError(f"its operators are of the domains {', '.join(repr(d) for d, _ in opsets)}")
        made_by = (model.get("producer_name"), model.get("ir_version"), opsets[0][1])
        if exported and made_by != (PRODUCER, IR_VERSION, OPSET):
            raise ValueError(f"producer, format and operator set are {made_by}, not {(PRODUCER, IR_VERSION, OPSET)}")
        graph = _graph(model.get("graph", {}), int(opsets[0][1] or 0))
        _check(graph, operators)
    except ValueError as error:
        advice = "export the bundle again with `edgefd export`" if exported else "see docs/guides/filters.md"
        raise UserError(f"{name} is refused: {error}: {advice}") from error
    return graph


def _graph(fields: dict[str, Any], opset: int) -> OnnxGraph:
    if len(fields.get("node", ())) > MAX_NODES:
        raise ValueError(f"it has {len(fields['node'])} nodes, more than {MAX_NODES}")
    tensors = [(t.get("name", ""), _array(t)) for t in fields.get("initializer", ())]
    constants = dict(tensors)
    if len(constants) != len(tensors) or "" in constants:
        raise ValueError("two initialisers have the same name, or one has none")
    return OnnxGraph(
        inputs=tuple(_port(p) for p in fields.get("input", ())),
        outputs=tuple(_port(p) for p in fields.get("output", ())),
        nodes=tuple(_node(n) for n in fields.get("node", ())),
        constants=constants,
        opset=opset,
    )


def _node(fields: dict[str, Any]) -> Node:
    attributes: dict[str, Attribute] = {}
    for attribute in fields.get("attribute", ()):
        name, value_name = attribute.pop("name", ""), _ATTRIBUTE_TYPES.get(attribute.pop("type", 0), "")
        if name in attributes:
            raise ValueError(f"a node has two attributes {name!r}")
        value = attribute.pop(value_name, () if value_name == "ints" else None)
        if value is None or attribute:
            raise ValueError(f"the attribute {name!r} does not have exactly one value, of its type")
        attributes[name] = _array(value) if value_name == "t" else tuple(value) if value_name == "ints" else value
    inputs, outputs = tuple(fields.get("input", ())), tuple(fields.get("output", ()))
    return Node(fields.get("op_type", ""), inputs, outputs, attributes)


def _array(fields: dict[str, Any]) -> npt.NDArray[Any]:
    dims, raw, code = tuple(fields.get("dims", ())), fields.get("raw_data", b""), fields.get("data_type")
    if code not in _TYPES:
        raise ValueError(f"a tensor has the data type {code}")
    dtype = np.dtype(_TYPES[code])
    if len(dims) > 8 or min(dims, default=0) < 0 or math.prod(dims) * dtype.itemsize != len(raw):
        raise ValueError(f"a tensor of {list(dims)[:8]} has {len(raw)} bytes")
    array: npt.NDArray[Any] = np.frombuffer(raw, dtype).reshape(dims)
    if dtype == np.bool_ and len(raw) and max(raw) > 1:
        raise ValueError("a tensor of truth values holds other numbers")
    if dtype.kind == "f" and not np.isfinite(array).all():
        raise ValueError("a tensor holds numbers that are not finite")
    return array


def _port(fields: dict[str, Any]) -> Port:
    name, kind = fields.get("name", ""), fields.get("type", {}).get("tensor_type", {})
    if kind.get("elem_type") != 1 or "shape" not in kind:
        raise ValueError(f"the input or output {name!r} is not float32 of a known shape")
    shape = []
    for dim in kind["shape"].get("dim", ()):
        if len(dim) > 1 or not 0 <= dim.get("dim_value", 1) < _MAX_DIMENSION:
            raise ValueError(f"the shape of the input or output {name!r} is not valid")
        shape.append(dim.get("dim_value", dim.get("dim_param", "")))
    return Port(name, tuple(shape))


def _check(graph: OnnxGraph, operators: Collection[str]) -> None:
    """Check operators, the order of computation, and the shapes that the graph states.

    Raises:
        ValueError: if one is not as `edgefd export` writes it.
    """
    known = set(graph.constants)
    for name in (*(port.name for port in graph.inputs), *(name for node in graph.nodes for name in node.outputs)):
        if name in known or not name:
            raise ValueError(f"the value {name!r} is defined twice, or has no name")
        known.add(name)
    defined = set(graph.constants) | {port.name for port in graph.inputs} | {""}
    for node in graph.nodes:
        if node.operator not in operators:
            raise ValueError(f"it has the operator {node.operator!r}, which a device does not run")
        if unknown := set(node.inputs) - defined:
            raise ValueError(f"a node reads {sorted(unknown)[0]!r} before it is computed")
        _check_stated_shape(node, graph.constants)
        defined |= set(node.outputs)
    outputs = [port.name for port in graph.outputs]
    if not outputs or len(set(outputs)) != len(outputs) or not set(outputs) <= defined - {""}:
        raise ValueError("an output is not computed, or is named twice")


def _check_stated_shape(node: Node, constants: dict[str, npt.NDArray[Any]]) -> None:
    """Check that no operator that creates a tensor of a stated shape creates one that fits into no memory."""
    values = [constants[name] for name in node.inputs if name in constants]
    if any(
        v.dtype == np.int64 and v.size and ((v < -_MAX_DIMENSION) | (v > _MAX_DIMENSION) & (v != _ENDLESS)).any()
        for v in values
    ):
        raise ValueError(f"the operator {node.operator} has a size of more than {_MAX_DIMENSION}")
    position = {"ConstantOfShape": 0, "Expand": 1, "Tile": 1}.get(node.operator)
    if position is not None and position < len(node.inputs) and node.inputs[position] in constants:
        shape = constants[node.inputs[position]].reshape(-1).tolist()
        if math.prod(abs(int(d)) for d in shape) > MAX_ELEMENTS:
            raise ValueError(f"the operator {node.operator} creates a tensor of shape {shape[:8]}")
