"""Tracing of a function of tensors to a small set of torch operators, each with the name of the layer that calls it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn
from torch._dispatch.python import enable_python_dispatcher
from torch._guards import detect_fake_mode
from torch.func import functionalize
from torch.fx import traceback
from torch.fx.experimental.proxy_tensor import make_fx
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.overrides import TorchFunctionMode

from edgefd.core.errors import UserError
from edgefd.export.decompositions import decompositions


def trace(function: Callable[..., list[Tensor]], arguments: Sequence[Tensor], model: nn.Module) -> fx.GraphModule:
    """Trace a function that calls the model.

    Recurrent layers are unrolled, and attention is traced as products and a softmax: the fused operators of torch have
    no counterpart on a device.

    Raises:
        UserError: if torch cannot trace it.
    """
    mode: Literal["real", "fake"] = "real" if detect_fake_mode(arguments) is None else "fake"
    pure = functionalize(function, remove="mutations")
    tracer = make_fx(pure, decomposition_table=decompositions(), tracing_mode=mode)
    try:
        with _layer_names(model), _small_operators():
            traced: fx.GraphModule = tracer(*arguments)
    except UserError:
        raise
    except Exception as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UserError(f"torch cannot trace the training step of this module: {reason}") from error
    traced.graph.eliminate_dead_code()
    return traced


def layer_of(node: fx.Node) -> str:
    """Return the qualified name and the type of the layer that called an operator, or "" if no layer did."""
    return str(node.meta.get("custom", {}).get("layer", ""))


@contextmanager
def _layer_names(model: nn.Module) -> Iterator[None]:
    """Give every traced operator of the forward pass the name of the layer that calls it."""
    active: list[str] = []

    def enter(name: str) -> Callable[..., None]:
        def hook(layer: nn.Module, _: Any) -> None:
            active.append(f"{name} ({type(layer).__name__})")
            traceback.get_current_meta()["custom"] = {"layer": active[-1]}

        return hook

    def leave(*_: Any) -> None:
        active.pop()
        traceback.get_current_meta()["custom"] = {"layer": active[-1]} if active else {}

    handles = []
    for name, layer in model.named_modules():
        if name:
            handles.append(layer.register_forward_pre_hook(enter(name)))
            handles.append(layer.register_forward_hook(leave))
    try:
        with traceback.preserve_node_meta():
            yield
    finally:
        traceback.get_current_meta().pop("custom", None)
        for handle in handles:
            handle.remove()


@contextmanager
def _small_operators() -> Iterator[None]:
    """Let recurrent layers and attention call small operators instead of fused ones."""
    enabled = torch._C._get_mkldnn_enabled()
    torch._C._set_mkldnn_enabled(False)
    try:
        with sdpa_kernel(SDPBackend.MATH), enable_python_dispatcher(), _LinearAsProduct():
            yield
    finally:
        torch._C._set_mkldnn_enabled(enabled)


class _LinearAsProduct(TorchFunctionMode):
    """Trace a linear layer on [n, positions, features] as one product of matrices.

    torch's own way asks for the sizes as plain integers, which would fix the number of rows.
    """

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is not F.linear or args[0].dim() < 3:
            return func(*args, **(kwargs or {}))
        return _product(*args, **(kwargs or {}))


def _product(input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    rows = input.reshape(-1, input.shape[-1])
    product = rows.mm(weight.t()) if bias is None else torch.addmm(bias, rows, weight.t())
    return product.reshape(*input.shape[:-1], weight.shape[0])
