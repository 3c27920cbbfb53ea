"""Rewrites of a finished graph that ONNX Runtime does not make itself. Each one saves a pass over a weight matrix."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import onnx
from onnx import helper, numpy_helper

Nodes = list[onnx.NodeProto]
Constants = Mapping[str, onnx.TensorProto]


def fuse(nodes: Sequence[onnx.NodeProto], constants: Constants, outputs: Collection[str]) -> Nodes:
    """Return nodes that compute the same outputs with fewer nodes. Nodes with several outputs do not change."""
    return _name_outputs_directly(_fuse_products(list(nodes), constants), outputs)


def _fuse_products(nodes: Nodes, constants: Constants) -> Nodes:
    """Replace Add(Mul(c, k), Gemm(a, b)) by Gemm(a, b, c, beta=k).

    A momentum update is then part of the matrix product of the gradient.
    """
    uses = Counter(name for node in nodes for name in node.input)
    producers = {node.output[0]: node for node in nodes}
    replaced: dict[str, onnx.NodeProto] = {}
    removed: set[str] = set()
    for node in nodes:
        if node.op_type != "Add":
            continue
        for product, scaled in (tuple(node.input), tuple(reversed(node.input))):
            gemm, mul = producers.get(product), producers.get(scaled)
            if gemm is None or mul is None or uses[product] != 1 or uses[scaled] != 1:
                continue
            factor = _scale(mul, constants)
            if gemm.op_type == "Gemm" and len(gemm.input) == 2 and factor is not None:
                other, beta = factor
                flags: dict[str, Any] = {a.name: a.i for a in gemm.attribute}
                fused = helper.make_node("Gemm", [*gemm.input, other], list(node.output), beta=beta, **flags)
                replaced[node.output[0]] = fused
                removed |= {product, scaled}
                break
    return [replaced.get(node.output[0], node) for node in nodes if node.output[0] not in removed]


def _scale(node: onnx.NodeProto, constants: Constants) -> tuple[str, float] | None:
    """Return (x, k) if the node is a Mul of x and a constant number k."""
    if node.op_type == "Mul":
        for other, name in (tuple(node.input), tuple(reversed(node.input))):
            if name in constants and not constants[name].dims:
                return other, float(numpy_helper.to_array(constants[name]))
    return None


def _name_outputs_directly(nodes: Nodes, outputs: Collection[str]) -> Nodes:
    """Give values the names of the outputs that they are. Otherwise each output would be a copy."""
    computed = {name for node in nodes for name in node.output}
    names: dict[str, str] = {}
    for node in nodes:
        if node.op_type == "Identity" and node.output[0] in outputs and node.input[0] in computed:
            names.setdefault(node.input[0], node.output[0])
    remaining = [n for n in nodes if not (n.op_type == "Identity" and names.get(n.input[0]) == n.output[0])]
    for node in remaining:
        node.input[:] = [names.get(name, name) for name in node.input]
        node.output[:] = [names.get(name, name) for name in node.output]
    return remaining
