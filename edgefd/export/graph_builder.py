"""`GraphBuilder`: an ONNX graph under construction. Equal nodes are created once, and transposes only where needed.

A convolution computes with channels last, and torch's tensors have channels second. Therefore a `Value` carries the
permutation that would bring it into torch's order. Elementwise operators work on any memory order, and most transposes
are never created.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

from edgefd.export.fuse import fuse
from edgefd.wire.onnx_reader import IR_VERSION, OPSET, PRODUCER

CHANNELS_LAST = (0, 3, 1, 2)


@dataclass(frozen=True)
class Value:
    """A tensor of the graph. Axis i of its logical `shape` is axis `perm[i]` of the tensor called `name`.

    A size of the shape is an int, or a symbol (the batch size of a graph for any batch size).
    """

    name: str
    shape: tuple[Any, ...]
    perm: tuple[int, ...]

    @property
    def memory(self) -> tuple[Any, ...]:
        """The shape of the tensor in memory."""
        return tuple(self.shape[self.perm.index(axis)] for axis in range(len(self.perm)))

    @property
    def in_order(self) -> bool:
        """Whether the memory order is the logical order."""
        return self.perm == tuple(range(len(self.perm)))


class GraphBuilder:
    """Collects the nodes of a graph; `model` builds the ONNX model."""

    rows: Value | None = None
    """input [batch] of a training step that is 1 for its rows and 0 for padding, if the step has this input"""

    def __init__(self) -> None:
        self._nodes: list[onnx.NodeProto] = []
        self._inputs: list[onnx.ValueInfoProto] = []
        self._outputs: list[onnx.ValueInfoProto] = []
        self._constants: dict[tuple[str, tuple[int, ...], bytes], onnx.TensorProto] = {}
        self._node_outputs: dict[tuple[Any, ...], tuple[str, ...]] = {}
        self._zeros: set[str] = set()

    def input(self, name: str, shape: Sequence[Any]) -> Value:
        """Add a float32 input. A size that is not an int becomes the free dimension `batch`."""
        sizes = [d if isinstance(d, int) else "batch" for d in shape]
        self._inputs.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, sizes))
        return plain(name, shape)

    def output(self, name: str, value: Value) -> None:
        """Declare a value as an output with this name."""
        source = self.ordered(value)
        self._nodes.append(helper.make_node("Identity", [source.name], [name]))
        sizes = [d if isinstance(d, int) else "batch" for d in value.shape]
        self._outputs.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, sizes))

    def constant(self, array: npt.ArrayLike) -> str:
        """Return the name of a constant tensor with these values."""
        a = np.ascontiguousarray(array).reshape(np.shape(array))
        key = (a.dtype.str, a.shape, a.tobytes())
        if key not in self._constants:
            self._constants[key] = numpy_helper.from_array(a, f"k{len(self._constants)}")
        return self._constants[key].name

    def constant_tensor(self, name: str) -> onnx.TensorProto | None:
        """Return the constant with this name, or None if the name is that of a computed value."""
        return next((tensor for tensor in self._constants.values() if tensor.name == name), None)

    def is_zero(self, value: Value) -> bool:
        """Return whether a value is known to be zero everywhere."""
        if value.name in self._zeros:
            return True
        tensor = self.constant_tensor(value.name)
        return tensor is not None and not numpy_helper.to_array(tensor).any()

    def expand(self, value: Value, shape: Sequence[Any]) -> Value:
        """Return the value in a larger shape, to which its axes of size 1 are repeated.

        An axis for the rows of a batch has a size that only the graph's first input `x` has.
        """
        full = tuple(shape)
        if value.shape == full:
            return value
        source = self.ordered(self.reshape(value, (1,) * (len(full) - len(value.shape)) + value.shape))
        repeated = [d if isinstance(d, int) else 1 if source.shape[i] == d else -1 for i, d in enumerate(full)]
        name = self.op("Expand", source.name, self._shape(repeated))
        if self.is_zero(value):
            self._zeros.add(name)
        return plain(name, full)

    def _shape(self, sizes: Sequence[int]) -> str:
        """Return a shape as a tensor. The size -1 stands for the number of rows of the input `x`."""
        if -1 not in sizes:
            return self.constant(np.array(sizes, np.int64))
        rows = self.op("Shape", "x", start=0, end=1)
        parts = [rows if d == -1 else self.constant(np.array([d], np.int64)) for d in sizes]
        return self.op("Concat", *parts, axis=0) if len(parts) > 1 else rows

    def node(self, kind: str, *inputs: str, n: int = 1, **attributes: Any) -> tuple[str, ...]:
        """Return the names of the `n` outputs of a node. The same node is never created twice."""
        key = (kind, inputs, n, tuple(sorted((k, _hashable(v)) for k, v in attributes.items())))
        if key not in self._node_outputs:
            names = tuple(f"v{len(self._node_outputs)}_{i}" for i in range(n))
            self._nodes.append(helper.make_node(kind, list(inputs), list(names), **attributes))
            self._node_outputs[key] = names
        return self._node_outputs[key]

    def op(self, kind: str, *inputs: str, **attributes: Any) -> str:
        """Return the name of the only output of a node."""
        return self.node(kind, *inputs, **attributes)[0]

    def mask(self, condition: str) -> str:
        """Return 1 where the condition is true, and 0 elsewhere.

        Multiplication by a mask is much faster than the operator Where of ONNX Runtime.
        """
        return self.op("Cast", condition, to=TensorProto.FLOAT)

    @property
    def one(self) -> onnx.TensorProto:
        """The value attribute with which ConstantOfShape creates ones."""
        return numpy_helper.from_array(np.ones(1, np.float32))

    def ordered(self, value: Value) -> Value:
        """Return the value with its memory in logical order."""
        return self.arranged(value, tuple(range(len(value.perm))))

    def arranged(self, value: Value, perm: tuple[int, ...]) -> Value:
        """Return the same logical tensor with another memory order: logical axis i is memory axis `perm[i]`."""
        if value.perm == perm:
            return value
        to = [value.perm[perm.index(axis)] for axis in range(len(perm))]  # memory axis ← old memory axis
        memory = tuple(value.memory[axis] for axis in to)
        long_axes = [axis for axis in to if value.memory[axis] != 1]
        if long_axes == sorted(long_axes):  # only axes of size 1 change their place, so no number does
            return Value(self._reshaped(value.name, memory), value.shape, perm)
        return Value(self.op("Transpose", value.name, perm=to), value.shape, perm)

    def reshape(self, value: Value, shape: Sequence[Any]) -> Value:
        """Return a value with another shape and the same numbers in logical order."""
        source = self.ordered(value)
        return source if source.shape == tuple(shape) else plain(self._reshaped(source.name, shape), shape)

    def unsqueeze(self, value: Value, axis: int) -> Value:
        """Return the value with one more logical axis, of size 1. In memory, it comes before the axis that follows."""
        place = value.perm[axis] if axis < len(value.perm) else len(value.perm)
        perm = [p + (p >= place) for p in value.perm]
        perm.insert(axis, place)
        shape = (*value.shape[:axis], 1, *value.shape[axis:])
        return self._same_numbers(value, shape, tuple(perm))

    def squeeze(self, value: Value, axis: int) -> Value:
        """Return the value without a logical axis of size 1."""
        place = value.perm[axis]
        perm = tuple(p - (p > place) for i, p in enumerate(value.perm) if i != axis)
        return self._same_numbers(value, (*value.shape[:axis], *value.shape[axis + 1 :]), perm)

    def _same_numbers(self, value: Value, shape: tuple[Any, ...], perm: tuple[int, ...]) -> Value:
        moved = Value(value.name, shape, perm)
        return Value(self._reshaped(value.name, moved.memory), shape, perm)

    def permute(self, value: Value, axes: Sequence[int]) -> Value:
        """Return the value with its logical axes in another order. No node is created."""
        return Value(value.name, tuple(value.shape[a] for a in axes), tuple(value.perm[a] for a in axes))

    def model(self) -> onnx.ModelProto:
        """Build the ONNX model and check it."""
        constants = {tensor.name: tensor for tensor in self._constants.values()}
        outputs = {o.name for o in self._outputs}
        nodes, needed = _pruned(fuse(self._nodes, constants, outputs), outputs)
        used = [constant for name, constant in constants.items() if name in needed]
        model = helper.make_model(
            helper.make_graph(nodes, "edgefd", self._inputs, self._outputs, initializer=used),
            opset_imports=[helper.make_opsetid("", OPSET)],
            ir_version=IR_VERSION,
            producer_name=PRODUCER,
        )
        onnx.checker.check_model(model, full_check=True)
        return model

    def _reshaped(self, name: str, shape: Sequence[Any]) -> str:
        sizes = [d if isinstance(d, int) else -1 for d in shape]
        if sizes.count(-1) > 1:
            raise NotImplementedError("two axes of a shape depend on the batch size")
        return self.op("Reshape", name, self.constant(np.array(sizes, np.int64)))


def plain(name: str, shape: Sequence[Any]) -> Value:
    """Return a value whose memory order is its logical order."""
    return Value(name, tuple(shape), tuple(range(len(shape))))


def _hashable(value: Any) -> Any:
    if isinstance(value, onnx.TensorProto):
        return value.SerializeToString()
    return tuple(value) if isinstance(value, list) else value


def _pruned(nodes: Sequence[onnx.NodeProto], outputs: set[str]) -> tuple[list[onnx.NodeProto], set[str]]:
    """Return the nodes that the outputs need, in order, and the names of all values that these read."""
    needed, remaining = set(outputs), []
    for node in reversed(nodes):
        if needed & set(node.output):
            remaining.append(node)
            needed.update(node.input)
    return remaining[::-1], needed
