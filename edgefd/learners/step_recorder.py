"""A training step recorded once and played again: the same operators on other numbers, without modules or autograd.

For a small model on one core, a third of an eager step is Python walking through modules and autograd building and
walking its graph. A tape is the flat list of tensor operators that remains, so a played step has the eager step's bits.
It holds for inputs of the same shapes, and for a step that does not look at numbers to decide what to do.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, fx
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only

StepReplay = Callable[..., list[Tensor]]
"""The recorded outputs, for other inputs."""

_DETACH, _TRANSPOSE = torch.ops.aten.detach.default, torch.ops.aten.t.default
_BOUND = ("_log_softmax", "addmm", "clamp", "convolution", "div", "dot", "exp_", "mm", "mul", "neg", "relu", "sum", "t")
"""Operators that torch binds by hand too: `torch.mm` is called in less time than `torch.ops.aten.mm.default`."""


def record(step: Callable[[], Sequence[Tensor]], inputs: Sequence[Tensor]) -> tuple[list[Tensor], StepReplay]:
    """Do the step, and record it.

    Args:
        step: computes tensors from `inputs`, which are all that changes from one call to the next.
        inputs: tensors.

    Returns:
        What the step returned, and a function that takes such inputs one by one and returns the same of them.

    Raises:
        LookupError: if the step computes with a tensor that comes from elsewhere, or with a tensor's number.
    """
    recorder = _Recorder(inputs)
    with recorder:
        outputs = list(step())
    graph = recorder.graph
    graph.output([recorder.node_of(tensor) for tensor in outputs])
    _shorten(graph)
    _bind(graph)
    play: StepReplay = fx.GraphModule({}, graph).forward
    return outputs, play


class _Recorder(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Notes every operator that runs, autograd's too. Tensors are told apart by identity, so all are kept alive."""

    def __init__(self, inputs: Sequence[Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.graph = fx.Graph()
        self._nodes: dict[int, fx.Node] = {}
        self._kept: list[Tensor] = []
        for i, tensor in enumerate(inputs):
            self._note(tensor, self.graph.placeholder(f"input{i}"))

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # else torch imports its compiler, for a second, to keep it out of here

    def node_of(self, tensor: Tensor) -> fx.Node:
        """What made the tensor."""
        if id(tensor) not in self._nodes:
            raise LookupError(f"a tensor of shape {list(tensor.shape)} comes from elsewhere")
        return self._nodes[id(tensor)]

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        node = self.graph.call_function(func, *tree_map_only(Tensor, self.node_of, (args, kwargs or {})))
        if isinstance(out, Tensor):
            self._note(out, node)
        elif isinstance(out, tuple):
            for i, part in enumerate(out):
                if isinstance(part, Tensor):
                    self._note(part, self.graph.call_function(operator.getitem, (node, i)))
        else:
            raise LookupError(f"{func} gives a number to decide by")
        return out

    def _note(self, tensor: Tensor, node: fx.Node) -> None:
        self._nodes[id(tensor)] = node
        self._kept.append(tensor)


def _shorten(graph: fx.Graph) -> None:
    """Without what changes nothing: detached tensors, matrices transposed twice, results that nobody uses."""
    for node in graph.nodes:
        if node.target is _DETACH:
            node.replace_all_uses_with(node.args[0])
        elif node.target is _TRANSPOSE and node.args[0].target is _TRANSPOSE:
            node.replace_all_uses_with(node.args[0].args[0])
    for node in reversed(graph.nodes):
        if node.op == "call_function" and not node.users and not _changes_its_input(node.target):
            graph.erase_node(node)


def _bind(graph: fx.Graph) -> None:
    for node in graph.nodes:
        if isinstance(node.target, torch._ops.OpOverload) and node.target.namespace == "aten":
            name = node.target._schema.name.removeprefix("aten::")
            node.target = getattr(torch, name) if name in _BOUND else node.target


def _changes_its_input(target: Any) -> bool:
    return isinstance(target, torch._ops.OpOverload) and target._schema.is_mutable
