"""Names of the layers that traced operators belong to, for errors: `blocks.2.attn`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from torch import fx, nn
from torch.fx.experimental.proxy_tensor import get_proxy_mode

_LAYER = "layer"


@contextmanager
def noted_layers(model: nn.Module) -> Iterator[list[str]]:
    """Note at each operator that is traced within the context in which layer of the module it is.

    The context gives the names of the layers that run, the innermost last.
    """
    path: list[str] = [""]
    noted: set[fx.Node] = set()

    def note() -> None:
        """Give the name of the current layer to the operators since the last change of the layer."""
        mode = get_proxy_mode()
        if mode is not None:
            for node in reversed(mode.tracer.graph.nodes):
                if node in noted:
                    break
                noted.add(node)
                node.meta[_LAYER] = path[-1]

    def enter(name: str, *_: Any) -> None:
        note()
        path.append(name)

    def leave(*_: Any) -> None:
        note()
        path.pop()

    hooks = [layer.register_forward_pre_hook(partial(enter, name)) for name, layer in model.named_modules()]
    hooks += [layer.register_forward_hook(leave) for layer in model.modules()]
    try:
        yield path
    finally:
        for hook in hooks:
            hook.remove()


def layer_of(node: fx.Node) -> str:
    """Return the name of the layer of an operator and `: `, or "" if it is in no layer.

    A gradient is in the layer of the tensors that it reads.
    """
    names = [n.meta.get(_LAYER) for n in (node, *node.all_input_nodes)]
    found = next((name for name in names if name), "")
    return f"{found}: " if found else ""
