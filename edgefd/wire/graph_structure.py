"""The structure of a graph: everything in it but its sizes and its frozen numbers, in one canonical text.

Operators, attributes, dataflow, names of inputs and outputs, and every constant by which a tensor is multiplied or
shifted are in the text. Two graphs with the same text compute the same function, at other sizes. What the text leaves
out are the `numbers`: sizes of tensors, and the elements of constants that state a shape, an axis or a position.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from edgefd.wire.onnx_reader import Node, OnnxGraph, Port

_SIZE_ATTRIBUTES = frozenset({"output_padding"})  # rows and columns that a strided convolution did not use


@dataclass(frozen=True)
class Structure:
    """The structure of a graph, and the numbers that are not part of it."""

    text: str
    numbers: tuple[int, ...]
    """sizes, axes and positions, in the order in which the text leaves them out"""


def structure_of(graph: OnnxGraph) -> Structure:
    """Return the structure of a graph."""
    numbers: list[int] = []
    names = {port.name: repr(port.name) for port in graph.inputs}
    constants = dict(graph.constants)
    lines = [f"opset {graph.opset}", *(f"input {_port(port, numbers)}" for port in graph.inputs)]
    for i, node in enumerate(graph.nodes):
        if node.operator == "Constant" and isinstance(value := node.attributes.get("value"), np.ndarray):
            constants[node.outputs[0]] = value
            continue
        inputs = (
            _constant(constants[name], numbers, node, k) if name in constants else names.get(name, "-")
            for k, name in enumerate(node.inputs)
        )
        attributes = (
            f"{name!r}={_attribute(node.attributes[name], name, numbers)}" for name in sorted(node.attributes)
        )
        lines.append(f"{i} {node.operator}({', '.join(inputs)}) {' '.join(attributes)} -> {len(node.outputs)}")
        names |= {name: f"{i}.{k}" for k, name in enumerate(node.outputs)}
    lines += [f"output {_port(port, numbers)} = {names.get(port.name, '-')}" for port in graph.outputs]
    return Structure("\n".join(lines), tuple(numbers))


def digest_of(*structures: Structure) -> str:
    """Return the digest of the structures of graphs that belong together."""
    return hashlib.sha256("\n\n".join(s.text for s in structures).encode()).hexdigest()


def _port(port: Port, numbers: list[int]) -> str:
    numbers += [d for d in port.shape if isinstance(d, int)]
    return f"{port.name!r} [{', '.join('size' if isinstance(d, int) else 'any' for d in port.shape)}]"


def _attribute(value: Any, name: str, numbers: list[int]) -> str:
    if name in _SIZE_ATTRIBUTES:
        numbers += value
        return f"{len(value)} sizes"
    if isinstance(value, np.ndarray):
        return f"{value.dtype}{list(value.shape)} {value.tobytes().hex()}"
    return value.hex() if isinstance(value, float) else repr(value)


def _constant(value: npt.NDArray[Any], numbers: list[int], node: Node, position: int) -> str:
    """Return the text of a constant that a node reads.

    Of integers, the text says how many there are. Indices of a `Gather` may be many: their number is not part of the
    text either. Other numbers are in the text if all of them are equal, as are the factors of an optimizer. Otherwise
    they are the frozen numbers of a layer, which are as free as its first parameters.
    """
    kind = f"{value.dtype}[{'size, ' * value.ndim}]"
    if value.dtype == np.int64:
        if node.operator == "Gather" and position == 1 and value.ndim == 1:
            numbers.append(len(value))
            return f"{kind} indices"
        numbers += value.reshape(-1).tolist()
        return f"{kind} {value.size} numbers"
    if value.ndim == 0 and (count := _counted(float(value), node.operator, position)) is not None:
        numbers.append(count)
        return f"{kind} count"
    if value.dtype.kind != "f":
        return f"{value.dtype}{list(value.shape)} {value.tobytes().hex()}"
    numbers += value.shape
    first = value.reshape(-1)[:1]
    if first.tobytes() * value.size == value.tobytes():
        return f"{kind} all {first.tobytes().hex()}"
    return f"{kind} frozen"


def _counted(factor: float, operator: str, position: int) -> int | None:
    """Return n if a division by n or a product with 1 / n is that of a mean of n values, whose number is a size."""
    n = factor if operator == "Div" and position == 1 else 1 / factor if operator == "Mul" and factor > 0 else 0
    exact = float(np.float32(1 / round(n))) if operator == "Mul" and n >= 1 else float(round(n))
    return round(n) if n >= 1 and exact == factor else None
