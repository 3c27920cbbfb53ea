"""Random numbers that a module draws: torch's, numpy's and Python's global generators, seeded for a while."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


@contextmanager
def seeded(*keys: int) -> Iterator[None]:
    """Seed the global generators with the keys until the context ends. Afterwards, they are as they were before it.

    One key is the seed of torch itself; several keys are mixed into one seed.
    """
    seed = keys[0] if len(keys) == 1 else int(np.random.SeedSequence(keys).generate_state(1, np.uint64)[0])
    of_python, of_numpy = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)  # torch.manual_seed would also seed the GPUs, which is not undone
            random.seed(seed)
            np.random.seed(seed % 2**32)
            yield
    finally:
        random.setstate(of_python)
        np.random.set_state(of_numpy)
