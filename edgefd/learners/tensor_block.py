"""One block of memory with tensors of any type in it, such as all tensors of a module.

A simulation passes shared memory, so forked processes see each other's changes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor, nn

from edgefd.core.arrays import Float32
from edgefd.core.errors import RunError

_ALIGNMENT = 64  # bytes


def placed(
    like: Sequence[Tensor], allocate: Callable[[tuple[int, ...]], Float32], device: torch.device
) -> tuple[Tensor, list[Tensor]]:
    """Return one block of memory, and tensors in it with the types, shapes and memory orders of `like`, all zero.

    `allocate` creates the memory of a CPU; that of another device is allocated by torch.
    """
    sizes = [space(tensor) for tensor in like]
    shape = (sum(sizes) // 4,)
    block = torch.from_numpy(allocate(shape)) if device.type == "cpu" else torch.zeros(shape, device=device)
    parts = torch.split(block.view(torch.uint8), sizes)
    return block, [
        part[: tensor.nbytes]
        .view(tensor.dtype)
        .as_strided(tensor.shape, torch.empty_like(tensor, device="meta").stride())
        for part, tensor in zip(parts, like, strict=True)
    ]


def space(tensor: Tensor) -> int:
    """Return the number of bytes that a tensor occupies in a block."""
    return -(-tensor.nbytes // _ALIGNMENT) * _ALIGNMENT


class Buffers:
    """The buffers of a module, which stay at their places in a block even if the module assigns new tensors to them."""

    def __init__(self, model: nn.Module) -> None:
        self._places = [
            (owner, name, buffer)
            for owner in model.modules()
            for name, buffer in owner.named_buffers(recurse=False, remove_duplicate=False)
        ]

    def keep_new_values(self) -> None:
        """Copy tensors that the module has assigned to the places of its buffers.

        Raises:
            RunError: if such a tensor has another type or shape.
        """
        for owner, name, place, new in self._assigned():
            if not isinstance(new, Tensor) or (new.shape, new.dtype) != (place.shape, place.dtype):
                raise RunError(f"the module changed the shape or type of its buffer {name!r}: copy into it instead")
            place.copy_(new.detach())
            setattr(owner, name, place)

    def drop_new_values(self) -> None:
        """Forget tensors that the module has assigned to its buffers."""
        for owner, name, place, _ in self._assigned():
            setattr(owner, name, place)

    def _assigned(self) -> Iterator[tuple[nn.Module, str, Tensor, object]]:
        for owner, name, place in self._places:
            if (new := getattr(owner, name)) is not place:
                yield owner, name, place, new
