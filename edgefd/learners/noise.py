"""Random numbers that a module draws: seeded global generators, and masks of dropout that devices draw too."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from edgefd.learners.mask_noise import uniforms

# A compiled module would otherwise compile the generator too, whose integers the compiler does not know.
_uniforms = torch._disable_dynamo(uniforms)  # type: ignore[attr-defined]


@contextmanager
def seeded(*keys: int, device: torch.device | None = None) -> Iterator[None]:
    """Seed the global generators with the keys until the context ends. Afterwards, they are as they were before it.

    One key is the seed of torch itself; several keys are mixed into one seed. Of GPUs, only the generator of a CUDA
    `device` is seeded.
    """
    seed = keys[0] if len(keys) == 1 else int(np.random.SeedSequence(keys).generate_state(1, np.uint64)[0])
    of_python, of_numpy = random.getstate(), np.random.get_state()
    try:
        gpus = [device] if device is not None and device.type == "cuda" else []
        with torch.random.fork_rng(devices=gpus):
            torch.default_generator.manual_seed(seed)  # torch.manual_seed would also seed all GPUs, which is not undone
            for gpu in gpus:
                with torch.cuda.device(gpu):
                    torch.cuda.manual_seed(seed)
            random.seed(seed)
            np.random.seed(seed % 2**32)
            yield
    finally:
        random.setstate(of_python)
        np.random.set_state(of_numpy)


class CounterMasks(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Computes the random masks of one forward pass from `edgefd.learners.mask_noise`.

    All forms of dropout in torch draw their masks with one operator, `bernoulli_`: layers and functions of dropout,
    the dropout of attention and of recurrent layers, and stochastic depth. Mask i has the keys (*keys, i).
    """

    def __init__(self, keys: Sequence[int]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._keys = tuple(keys)
        self.shapes: list[tuple[int, ...]] = []
        """shapes of the masks so far"""

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # otherwise torch imports its compiler, which takes a second

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten.bernoulli_.float:
            mask: Tensor = args[0]
            numbers = _uniforms((*self._keys, len(self.shapes)), mask.shape)
            self.shapes.append(tuple(mask.shape))
            return mask.copy_(torch.from_numpy(numbers < np.float32(args[1] if len(args) > 1 else 0.5)))
        return func(*args, **(kwargs or {}))
