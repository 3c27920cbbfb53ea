"""Rewrites of a traced training step before it becomes ONNX: statistics of batches, and random masks as inputs."""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch import fx, nn

from edgefd.core.errors import UserError
from edgefd.learners.mask_noise import noise_input
from edgefd.learners.noise import CounterMasks

_aten = torch.ops.aten
_COPIES = (_aten.clone.default, _aten.alias.default, _aten.detach.default)
_IN_PLACE = (_aten.native_batch_norm.default, _aten._native_batch_norm_legit.default)
_FUNCTIONAL = _aten._native_batch_norm_legit_functional.default
_WITHOUT_STATISTICS = _aten._native_batch_norm_legit.no_stats
_PROBES = (2, 3)  # rows of two batches that show which axis of a mask is that of the rows


def return_statistics(graph: fx.Graph) -> bool:
    """Let batch normalisation return its new statistics. Return whether a layer uses the statistics of the batch.

    torch's operator writes them into its arguments, which a trace does not show.
    """
    found = any(n.target is _WITHOUT_STATISTICS for n in graph.nodes)
    for node in [n for n in graph.nodes if n.target in (*_IN_PLACE, _FUNCTIONAL)]:
        mean, variance, training = node.args[3:6]
        found = found or bool(training)
        if training and mean is not None and node.target in _IN_PLACE:
            node.target = _FUNCTIONAL
            nodes = list(graph.nodes)
            later = set(nodes[nodes.index(node) + 1 :])
            for index, old in ((4, variance), (3, mean)):
                with graph.inserting_after(node):
                    new = graph.call_function(operator.getitem, (node, index))
                new.meta["val"] = old.meta["val"]
                old.replace_all_uses_with(new, delete_user_cb=later.__contains__)
    return found


def unchanged_outputs(graph: fx.Graph) -> set[int]:
    """Return the positions of the outputs that are inputs, or copies of inputs."""
    found = set()
    results: Any = graph.output_node().args[0]
    for i, result in enumerate(results):
        while result.op == "call_function" and result.target in _COPIES:
            result = result.args[0]
        if result.op == "placeholder":
            found.add(i)
    return found


def keep_outputs(graph: fx.Graph, kept: list[int]) -> None:
    """Keep the outputs at these positions only."""
    node = graph.output_node()
    results = node.args[0]
    node.args = ([results[i] for i in kept],)  # type: ignore[index]
    graph.eliminate_dead_code()


def read_masks(graph: fx.Graph, model: nn.Module, batch: int, shape: tuple[int, ...]) -> list[str]:
    """Compute each random mask from an input of uniform numbers. Return the names of these inputs, the last ones.

    Raises:
        UserError: if a mask has no axis of rows, or two such axes.
    """
    nodes = [n for n in graph.nodes if n.target is _aten.bernoulli.p]
    if not nodes:
        return []
    axes = _axes_of_masks(model, shape)
    if len(axes) != len(nodes):
        raise UserError("the number of random masks of the module differs between two batches: use nn.Dropout")
    last = [n for n in graph.nodes if n.op == "placeholder"][-1]
    names = []
    for i, (node, (axis, each)) in enumerate(zip(nodes, axes, strict=True)):
        size = tuple(node.meta["val"].shape)
        if size[axis] != each * batch:
            raise UserError("a random mask of the module depends on more than the rows of a batch: use nn.Dropout")
        names.append(noise_input(i, axis))
        with graph.inserting_after(last):
            numbers = last = graph.placeholder(f"noise{i}")
        numbers.meta["val"] = torch.empty(size, device="meta")
        with graph.inserting_before(node):
            below = graph.call_function(_aten.lt.Scalar, (numbers, node.args[1]))
            mask = graph.call_function(_aten._to_copy.default, (below,), {"dtype": torch.float32})
        below.meta["val"] = torch.empty(size, dtype=torch.bool, device="meta")
        mask.meta["val"] = numbers.meta["val"]
        node.replace_all_uses_with(mask)
        graph.erase_node(node)
    graph.eliminate_dead_code()
    return names


def _axes_of_masks(model: nn.Module, shape: tuple[int, ...]) -> list[tuple[int, int]]:
    """Return of each mask the axis along which the rows are, and its size for one row."""
    few, more = (_shapes_of_masks(model, n, shape) for n in _PROBES)
    found = []
    for a, b in zip(few, more, strict=True):
        different = [i for i, (before, after) in enumerate(zip(a, b, strict=True)) if before != after]
        if len(different) != 1 or a[different[0]] * _PROBES[1] != b[different[0]] * _PROBES[0]:
            raise UserError(
                f"a random mask of shape {list(a)} for {_PROBES[0]} rows is not independent for each row, so a device "
                "cannot draw it: use nn.Dropout on tensors whose first axis is the rows"
            )
        found.append((different[0], a[different[0]] // _PROBES[0]))
    return found


def _shapes_of_masks(model: nn.Module, rows: int, shape: tuple[int, ...]) -> list[tuple[int, ...]]:
    masks = CounterMasks((0,))
    with torch.no_grad(), masks:
        model(torch.zeros(rows, *shape))
    return masks.shapes
