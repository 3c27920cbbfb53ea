"""The step recorder: it records the tensor operators of a training step and replays them for other inputs.

For a small model on one core, a third of the time of an eager step is spent in Python, which walks through modules, and
in autograd, which builds and walks its graph. A recording is the flat list of tensor operators without this work, so a
replayed step has the bits of the eager step. A recording is valid for inputs of the same shapes, and for a step whose
sequence of operators does not depend on the values of tensors.
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
"""Computes the recorded outputs for other inputs."""

_DETACH, _TRANSPOSE = torch.ops.aten.detach.default, torch.ops.aten.t.default
_BOUND = ("_log_softmax", "addmm", "clamp", "convolution", "div", "dot", "exp_", "mm", "mul", "neg", "relu", "sum", "t")
"""Operators that torch also binds directly: a call of `torch.mm` is faster than one of `torch.ops.aten.mm.default`."""


def record(step: Callable[[], Sequence[Tensor]], inputs: Sequence[Tensor]) -> tuple[list[Tensor], StepReplay]:
    """Run a step and record its operators.

    Args:
        step: computes tensors from `inputs`. Nothing else may change between two calls.
        inputs: the tensors that a replay replaces.

    Returns:
        The outputs of the step, and a function that takes other inputs as its arguments and returns their outputs.

    Raises:
        LookupError: if the step uses a tensor that is not computed from `inputs`, or reads the value of a tensor.
    """
    recorder = _Recorder(inputs)
    with recorder:
        outputs = list(step())
    graph = recorder.graph
    graph.output([recorder.node_of(tensor) for tensor in outputs])
    _shorten(graph)
    _bind(graph)
    replay: StepReplay = fx.GraphModule({}, graph).forward
    return outputs, replay


class _Recorder(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Records every operator that runs, including those of autograd.

    The recorder identifies tensors by `id`, so it keeps all of them alive.
    """

    def __init__(self, inputs: Sequence[Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.graph = fx.Graph()
        self._nodes: dict[int, fx.Node] = {}
        self._alive: list[Tensor] = []
        for i, tensor in enumerate(inputs):
            self._register(tensor, self.graph.placeholder(f"input{i}"))

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # otherwise torch imports its compiler, which takes a second

    def node_of(self, tensor: Tensor) -> fx.Node:
        """Return the node that computed the tensor."""
        if id(tensor) not in self._nodes:
            raise LookupError(f"a tensor of shape {list(tensor.shape)} is not computed from the inputs")
        return self._nodes[id(tensor)]

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        node = self.graph.call_function(func, *tree_map_only(Tensor, self.node_of, (args, kwargs or {})))
        if isinstance(out, Tensor):
            self._register(out, node)
        elif isinstance(out, tuple | list):
            for i, part in enumerate(out):
                if isinstance(part, Tensor):
                    self._register(part, self.graph.call_function(operator.getitem, (node, i)))
        else:
            raise LookupError(f"{func} reads the value of a tensor")
        return out

    def _register(self, tensor: Tensor, node: fx.Node) -> None:
        self._nodes[id(tensor)] = node
        self._alive.append(tensor)


def _shorten(graph: fx.Graph) -> None:
    """Remove operators without effect: detached tensors, double transposes, and unused results."""
    for node in graph.nodes:
        if node.target is _DETACH:
            node.replace_all_uses_with(node.args[0])
        elif node.target is _TRANSPOSE and node.args[0].target is _TRANSPOSE:
            node.replace_all_uses_with(node.args[0].args[0])
    for node in reversed(graph.nodes):
        if node.op == "call_function" and not node.users and not _mutates_its_input(node.target):
            graph.erase_node(node)


def _bind(graph: fx.Graph) -> None:
    for node in graph.nodes:
        if isinstance(node.target, torch._ops.OpOverload) and node.target.namespace == "aten":
            name = node.target._schema.name.removeprefix("aten::")
            node.target = getattr(torch, name) if name in _BOUND else node.target


def _mutates_its_input(target: Any) -> bool:
    return isinstance(target, torch._ops.OpOverload) and target._schema.is_mutable
