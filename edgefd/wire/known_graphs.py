"""The catalogue of known graphs: the structures of all named models, and the relations between their sizes.

A device runs graphs that it knows, and others only if its user trusts exactly these. A hostile training graph could
store private samples in the parameters, and a hostile model could answer with them. No check of single operators finds
this, because a gradient is a function of the samples too: only a graph that is known as a whole is known to compute it.

`known_graphs.json.gz` is written by `python -m edgefd.export.known_graphs --write`. For each structure
(`edgefd.wire.graph_structure`), it holds a formula for each number that is not part of the structure. A formula is a
sum of an integer and a product of an integer and symbols: B (rows of a batch), C (classes), s0, s1, s2 (the shape of
a sample), and v0, v1, ... (sizes inside a network, such as the height after a pooling). "?" is a number that no
formula gives: it defines the next v. "?*B" is a multiple of B that defines the next v as its other factor. "~" is a
small size, of which no formula can be found. A number that is a multiple of B has a formula with B, so the rows of a
batch cannot be mixed.
"""

from __future__ import annotations

import functools
import gzip
import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any

from edgefd.wire.graph_structure import Structure, digest_of, structure_of
from edgefd.wire.onnx_reader import OnnxGraph

CATALOGUE = "known_graphs.json.gz"
FREE, FREE_ROWS = "?", "?*B"
SMALL = "~"
_LARGEST_SIZE = 2**24


@dataclass(frozen=True)
class KnownGraph:
    """A model of the catalogue, at all sizes."""

    model: str
    """name of the model or extractor"""
    constants: Mapping[str, float]
    """values of the additional inputs of its training step"""
    formulas: tuple[str, ...]
    """formula of each number of its structures"""


def known_model(
    graphs: Sequence[OnnxGraph], constants: Mapping[str, float], batch: int, n_classes: int, shape: Sequence[int]
) -> str | None:
    """Return the name of the model whose graphs these are, or None if they are not in the catalogue.

    Args:
        graphs: training step and logits, or an extractor alone.
        constants: values of the additional inputs of the training step.
        batch: rows of a batch.
        n_classes: number of classes.
        shape: shape of one sample.
    """
    structures = [structure_of(graph) for graph in graphs]
    symbols = symbols_of(batch, n_classes, shape)
    for known in catalogue().get(digest_of(*structures), ()):
        if constants == known.constants and fits(known.formulas, structures, symbols):
            return known.model
    return None


def symbols_of(batch: int, n_classes: int, shape: Sequence[int]) -> dict[str, int]:
    """Return the values of the symbols that a manifest determines."""
    return {"B": batch, "C": n_classes, **{f"s{axis}": size for axis, size in enumerate(shape)}}


def fits(formulas: Sequence[str], structures: Sequence[Structure], symbols: Mapping[str, int]) -> bool:
    """Return whether the numbers of the structures are those that the formulas give."""
    values, free = dict(symbols), 0
    numbers = [number for structure in structures for number in structure.numbers]
    for formula, number in zip(formulas, numbers, strict=True):
        if formula == SMALL:
            if not 0 <= number <= _LARGEST_SIZE:
                return False
        elif formula in (FREE, FREE_ROWS):
            size, rest = divmod(number, symbols["B"] if formula == FREE_ROWS else 1)
            if rest or not 0 <= size <= _LARGEST_SIZE:
                return False
            values[f"v{free}"] = size
            free += 1
        elif value_of(formula, values) != number:
            return False
    return True


def value_of(formula: str, values: Mapping[str, int]) -> int | None:
    """Return the value of a formula, or None if a symbol has no value.

    >>> value_of("-1+2*B*s0", {"B": 3, "s0": 5}), value_of("7", {}), value_of("s2", {"s0": 5})
    (29, 7, None)
    """
    products = (term.split("*") for term in formula.split("+"))
    try:
        return sum(math.prod(int(f) if f.lstrip("-").isdigit() else values[f] for f in factors) for factors in products)
    except KeyError:
        return None


@functools.cache
def catalogue() -> dict[str, list[KnownGraph]]:
    """Return the models of the catalogue by the digest of their structures."""
    packed = resources.files("edgefd.wire").joinpath(CATALOGUE).read_bytes()
    entries: dict[str, list[dict[str, Any]]] = json.loads(gzip.decompress(packed))
    return {
        digest: [KnownGraph(e["model"], e["constants"], tuple(e["formulas"].split())) for e in known]
        for digest, known in entries.items()
    }


def trust_digest(*blobs: bytes | None) -> str:
    """Return the digest that a user trusts: it determines every byte of the graphs of a bundle."""
    text = " ".join("none" if blob is None else hashlib.sha256(blob).hexdigest() for blob in blobs)
    return hashlib.sha256(text.encode()).hexdigest()
