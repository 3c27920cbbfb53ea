"""Random generators keyed by purpose, so that results do not depend on which process draws, or in which order."""

from __future__ import annotations

import secrets
from enum import IntEnum

import numpy as np


class Purpose(IntEnum):
    """Purpose of a stream of random numbers. The numbers are part of every result: never renumber them."""

    PARTITION = 1
    PROXY = 2
    HELDOUT = 3
    LIMIT = 4
    VALIDATION = 5
    TEST = 6
    CORE_SET = 7
    FILTER = 11
    DISTIL = 12
    TRAIN = 13
    SUBSET = 16
    UPLOAD = 17
    ATTACKERS = 21
    ATTACK = 22
    SAMPLING = 31
    DROPOUT = 32
    LATENESS = 33
    QUERY = 36
    FLEET = 37
    AVAILABILITY = 38
    FAILURE = 39
    STUDENT = 41
    INITIAL = 42
    AUDIT = 51
    DEFENCE = 61
    TUNING = 71


class AuditStream(IntEnum):
    """First key after `Purpose.AUDIT`: the part of an audit that draws. Never renumber them either."""

    DISCLOSURE_CONTROLS = 0
    TEST_SET_HALVES = 1
    CANDIDATES = 2
    REFERENCE_MODELS = 3
    ADVERSARY_TRAINING = 4
    FILTER_CANARIES = 5
    INTERVALS = 6
    STUDENT_MODELS = 7
    SHADOW_MEMBERSHIP = 8
    RERUN_SEED = 9
    SHADOW_CONTROLS = 10
    INSERTION_GROUPS = 11
    PLANTED_CANARIES = 12
    EXTRACTION_CONTROL = 13
    INVERSION_DECODER = 15
    EVIDENCE = 16
    CENTROID_CONTROLS = 17
    MESSAGE_SIZES = 18
    USER_LEVEL = 19


def make_rng(seed: int, purpose: Purpose, *keys: int) -> np.random.Generator:
    """Return the generator for (seed, purpose, keys), for example (seed, DISTIL, round, client).

    >>> a, b = make_rng(0, Purpose.TRAIN, 3, 1), make_rng(0, Purpose.TRAIN, 3, 1)
    >>> bool(a.random() == b.random())
    True
    """
    return np.random.default_rng([seed, int(purpose), *(int(key) for key in keys)])


NoiseKey = tuple[int, ...]
"""Key of a client's noise for differential privacy: numbers below 2**32, which nobody else may know."""
KEY_WORDS = 4
"""numbers of a `NoiseKey`"""


def noise_key(seed: int | None = None) -> NoiseKey:
    """Draw a key from the entropy of the operating system; for tests, compute it from a seed.

    >>> noise_key(7) == noise_key(7), noise_key() == noise_key()
    (True, False)
    """
    entropy = secrets.randbits(32 * KEY_WORDS) if seed is None else seed
    return tuple(np.random.SeedSequence(entropy).generate_state(KEY_WORDS).tolist())
