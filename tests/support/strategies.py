"""Hypothesis strategies for knowledge."""

import numpy as np
from hypothesis import strategies as st

from edgefd.core.knowledge import Knowledge


@st.composite
def knowledge(draw: st.DrawFn, width: int = 3, rows: int = 12) -> Knowledge:
    ids = sorted(draw(st.sets(st.integers(0, rows - 1))))
    seed = draw(st.integers(0, 2**16))
    rng = np.random.default_rng(seed)
    return Knowledge(
        np.array(ids, np.int64),
        rng.dirichlet(np.ones(width), len(ids)).astype(np.float32).reshape(len(ids), width),
        (1 - rng.random(len(ids))).astype(np.float32),
    )
