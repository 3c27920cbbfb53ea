"""Randomness keyed by what it is for, so that results do not depend on who computes what, or in which order."""

from __future__ import annotations

from enum import IntEnum

import numpy as np


class Purpose(IntEnum):
    """What a stream of random numbers is for. The numbers are part of every result: never renumber them."""

    PARTITION = 1
    PROXY = 2
    HELDOUT = 3
    LIMIT = 4
    FILTER = 11
    DISTIL = 12
    TRAIN = 13
    SUBSET = 16
    ATTACKERS = 21
    ATTACK = 22
    SAMPLING = 31
    DROPOUT = 32
    QUERY = 36
    STUDENT = 41
    AUDIT = 51
    DEFENCE = 61


def make_rng(seed: int, purpose: Purpose, *keys: int) -> np.random.Generator:
    """The generator for (seed, purpose, keys), for example (seed, DISTIL, round, client).

    >>> a, b = make_rng(0, Purpose.TRAIN, 3, 1), make_rng(0, Purpose.TRAIN, 3, 1)
    >>> bool(a.random() == b.random())
    True
    """
    return np.random.default_rng([seed, int(purpose), *keys])
