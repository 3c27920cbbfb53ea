"""Write the catalogue of known graphs (`edgefd.wire.known_graphs`), from exports of all named models at many sizes.

Run: python -m edgefd.export.known_graphs [--write] [--models NAME ...] [--seconds N]
Without --write, it exports models at random sizes and prints those that the catalogue does not know. With --write, it
exports each structure at several sizes, finds the formulas, and replaces the file. This takes about ten minutes. It is
needed after a change of a model, of the exporter, or of a version of torch that traces other operators.
"""

from __future__ import annotations

import argparse
import gzip
import itertools
import json
import random
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path

from edgefd.data.efficientnet import export_efficientnet
from edgefd.data.features import EFFICIENTNETS
from edgefd.export.model_graphs import export_graphs
from edgefd.export.step import constants_of
from edgefd.learners.graphs import Graphs
from edgefd.learners.models import MODELS, WINDOW_MODELS, build_model
from edgefd.learners.window_models import PATCHES
from edgefd.wire import known_graphs
from edgefd.wire.graph_structure import Structure, digest_of, structure_of
from edgefd.wire.known_graphs import CATALOGUE, FREE, FREE_ROWS, SMALL, known_model, symbols_of
from edgefd.wire.onnx_reader import OnnxGraph, read_extractor, read_training_graph

OPTIMIZERS = ("sgd", "adam")
EXAMPLES = 5
"""least number of exports of each structure from which its formulas are found; a formula has to hold in all of them"""
_STATED = ("B", "C", "s0", "s1", "s2")  # symbols that a manifest states
_SMALL_NUMBER = 8  # of such numbers, a few examples can have the same ratio by chance
_LARGEST_SHIFT = 16  # of a position from the end of an axis: the kernels of the named models are up to 9 wide
_CHANNELS = ((1,), (2, 3, 4), (5, 6, 9))  # the exporter treats up to four channels in another way, and one as an axis
_SIDES = (*range(16, 36), 40, 48, 65, 96)
_SMALL = 20  # pixels; of smaller images, poolings leave one pixel
_FLAT = ("linear", "mlp")  # models that take samples of any shape
_PATCHED = ("gru", "transformer")  # models that leave out the first steps if 16 does not divide their number
_SAME_FOR_ALL_SIDES = ("resnet8", "dwnet", "cnn1d")  # models whose structure does not depend on the size of an image


@dataclass(frozen=True)
class Sizes:
    """The sizes of an export that a manifest states."""

    batch: int
    n_classes: int
    shape: tuple[int, ...]

    @property
    def symbols(self) -> dict[str, int]:
        """The symbols of formulas, with their values."""
        return symbols_of(self.batch, self.n_classes, self.shape)


Example = tuple[Sizes, tuple[Structure, ...]]


def random_sizes(model: str, rng: random.Random) -> Sizes:
    """Return sizes that a model takes."""
    channels = rng.choice(rng.choice(_CHANNELS))
    if model in WINDOW_MODELS:
        shape: tuple[int, ...] = (channels, rng.randrange(16, 257))
    elif model in _FLAT and rng.random() < 0.5:
        shape = (rng.randrange(2, 1281),) if rng.random() < 0.5 else (channels, rng.randrange(2, 257))
    else:
        shape = (channels, rng.choice(_SIDES), rng.choice(_SIDES))
    return Sizes(rng.randrange(2, 257), rng.randrange(2, 101), shape)


def exported(model: str, optimizer: str, sizes: Sizes) -> Graphs:
    """Export a named model."""
    network = build_model(model, sizes.shape, sizes.n_classes, 0)
    return export_graphs(network, optimizer, sizes.batch, sizes.shape, sizes.n_classes)


def read_graphs(graphs: Graphs) -> tuple[OnnxGraph, OnnxGraph]:
    """Read the training step and the logits."""
    return read_training_graph(graphs.step, "train_step.onnx"), read_training_graph(graphs.logits, "model.onnx")


def formulas_of(examples: Sequence[Example]) -> list[str]:
    """Return a formula for each number of a structure that holds in all examples."""
    numbers = [[n for structure in structures for n in structure.numbers] for _, structures in examples]
    symbols = [dict(sizes.symbols) for sizes, _ in examples]
    found: list[str] = []
    for column in zip(*numbers, strict=True):
        formula = _formula(column, symbols)
        if formula in (FREE, FREE_ROWS):
            name = f"v{found.count(FREE) + found.count(FREE_ROWS)}"
            for values, number in zip(symbols, column, strict=True):
                values[name] = number // values["B"] if formula == FREE_ROWS else number
        found.append(formula)
    return found


def _formula(column: Sequence[int], symbols: Sequence[Mapping[str, int]]) -> str:
    """Return the simplest formula of a number.

    It is a constant, else k times a product of up to four symbols, else a symbol or twice a symbol plus a small
    integer. Of several, that with the fewest symbols and the smallest numbers is chosen.
    """
    if len(set(column)) == 1:
        return str(column[0])
    if max(column) <= _SMALL_NUMBER:
        stated = (name for name in _STATED if column == tuple(values.get(name) for values in symbols))
        return next(stated, SMALL)
    for count in (1, 2, 3, 4):
        fitting = [
            fit
            for names in itertools.combinations_with_replacement(symbols[0], count)
            for fit in _fits(column, [prod(values[name] for name in names) for values in symbols], names)
        ]
        if fitting:
            return min(fitting)[-1]
    multiples = all(number % values["B"] == 0 for values, number in zip(symbols, column, strict=True))
    return FREE_ROWS if multiples else FREE


def _fits(column: Sequence[int], products: Sequence[int], names: Sequence[str]) -> Iterator[tuple[int, int, str]]:
    """Yield the formulas k * product, and d + k * product of a single symbol, that give every number of the column.

    Before each formula stand k and the size of d.
    """
    k = column[0] // products[0] if products[0] else 0
    choices = {(k, 0)} if k else set()
    if len(names) == 1:
        choices |= {(factor, column[0] - factor * products[0]) for factor in (1, 2)}
    for k, d in choices:
        if abs(d) <= _LARGEST_SHIFT and all(d + k * p == number for p, number in zip(products, column, strict=True)):
            term = "*".join([*([str(k)] if k != 1 else []), *names])
            yield k, abs(d), f"{d}+{term}" if d else term


def training_examples(model: str, optimizer: str, rng: random.Random) -> Iterator[Example]:
    """Export a model at random sizes, until each kind of sizes was exported and each structure has enough examples."""
    counts: Counter[str] = Counter()
    digests: dict[_Kind, str] = {}
    for turn in range(EXAMPLES):
        for i, kind in enumerate(_kinds(model)):
            if counts[digests.get(kind, "")] >= EXAMPLES:
                continue
            sizes = _sizes_of_kind(model, kind, kind.channels[(turn + i) % len(kind.channels)], rng)
            structures = tuple(structure_of(graph) for graph in read_graphs(exported(model, optimizer, sizes)))
            digests[kind] = digest_of(*structures)
            counts[digests[kind]] += 1
            yield sizes, structures


@dataclass(frozen=True)
class _Kind:
    """Shapes for which the exporter writes the same structure."""

    axes: int
    channels: tuple[int, ...] = ()
    remainders: tuple[int, ...] = ()
    """of the sides, divided by `modulus`: poolings and strides leave out the last rows of an odd height"""
    modulus: int = 4
    small: bool | None = None

    def holds(self, shape: tuple[int, ...]) -> bool:
        """Return whether a shape is of this kind."""
        if len(shape) != self.axes or shape[0] not in self.channels:
            return False
        sides = shape[1:]
        return not self.remainders or (
            tuple(side % self.modulus for side in sides) == self.remainders
            and self.small in (None, max(sides) < _SMALL)
        )


def _kinds(model: str) -> list[_Kind]:
    """Return the kinds of shapes of which the structure of a model can depend on."""
    if model in _FLAT:
        return [_Kind(1, tuple(range(2, 1281))), *(_Kind(axes, some) for axes in (2, 3) for some in _CHANNELS)]
    if model in _PATCHED:
        return [_Kind(2, some, (rest,), modulus=PATCHES) for some, rest in itertools.product(_CHANNELS, (0, 5, 11))]
    if model in _SAME_FOR_ALL_SIDES:
        axes = 2 if model in WINDOW_MODELS else 3
        sides = [(i, (3 * i + 1) % 8)[: axes - 1] for i in range(8)]  # three strides
        return [_Kind(axes, some, each, modulus=8) for some, each in itertools.product(_CHANNELS, sides)]
    remainders = itertools.product(range(4), range(4))
    kinds = itertools.product(_CHANNELS, remainders, (False, True))
    return [_Kind(3, some, sides, small=small) for some, sides, small in kinds]


def _sizes_of_kind(model: str, kind: _Kind, channels: int, rng: random.Random) -> Sizes:
    """Return random sizes of a kind with this number of channels."""
    while True:
        sizes = random_sizes(model, rng)
        if kind.holds(sizes.shape) and (kind.axes == 1 or sizes.shape[0] == channels):
            return sizes


def extractor_examples(name: str, channels: int) -> Iterator[Example]:
    """Export an EfficientNet for images of several sizes."""
    for size, height, width in ((192, 32, 32), (64, 28, 28), (100, 96, 17), (129, 33, 64), (224, 48, 80)):
        graph = read_extractor(export_efficientnet(name, (channels, height, width), size), "extractor.onnx")
        yield Sizes(1, 1, (channels, height, width)), (structure_of(graph),)


def unknown_sizes(model: str, optimizer: str, rng: random.Random, seconds: float) -> Iterator[tuple[Sizes, bool]]:
    """Export a model at random sizes for some seconds. Yield the sizes, and whether the catalogue knows the graphs."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        sizes = random_sizes(model, rng)
        graphs = exported(model, optimizer, sizes)
        name = known_model(read_graphs(graphs), graphs.constants, sizes.batch, sizes.n_classes, sizes.shape)
        yield sizes, name == f"{model} with {optimizer}"


def catalogue_text(models: Sequence[str], extractors: Sequence[str]) -> str:
    """Return the text of a new catalogue. It takes about ten minutes for all models.

    The entries of all other models and extractors stay as they are.
    """
    examples: dict[tuple[str, str], list[Example]] = {}
    constants: dict[str, dict[str, float]] = {}
    for model, optimizer in itertools.product(models, OPTIMIZERS):
        print(f"exporting {model} with {optimizer}", flush=True)
        constants[f"{model} with {optimizer}"] = constants_of(optimizer)
        for sizes, structures in training_examples(model, optimizer, random.Random(0)):
            examples.setdefault((digest_of(*structures), f"{model} with {optimizer}"), []).append((sizes, structures))
    for name, channels in itertools.product(extractors, (1, 3)):
        print(f"exporting {name} for {channels} channels", flush=True)
        for sizes, structures in extractor_examples(name, channels):
            examples.setdefault((digest_of(*structures), name), []).append((sizes, structures))
    packed = Path(known_graphs.__file__).with_name(CATALOGUE).read_bytes()
    replaced = {name for _, name in examples}
    entries: dict[str, list[dict[str, object]]] = {}
    for digest, known in json.loads(gzip.decompress(packed)).items():
        if others := [entry for entry in known if entry["model"] not in replaced]:
            entries[digest] = others
    for (digest, name), some in sorted(examples.items()):
        entry: dict[str, object] = {
            "model": name,
            "constants": constants.get(name, {}),
            "formulas": " ".join(formulas_of(some)),
        }
        entries.setdefault(digest, []).append(entry)
    return json.dumps(dict(sorted(entries.items())), indent=0) + "\n"


def main() -> None:
    """Write the catalogue, or look for exports that it does not know."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help="replace the catalogue")
    parser.add_argument("--models", nargs="+", choices=MODELS, help="only these models, without the extractors")
    parser.add_argument("--seconds", type=float, default=10.0, help="without --write: seconds for each model")
    options = parser.parse_args()
    if options.write:
        path = Path(known_graphs.__file__).with_name(CATALOGUE)
        text = catalogue_text(options.models or tuple(MODELS), () if options.models else EFFICIENTNETS)
        path.write_bytes(gzip.compress(text.encode(), mtime=0))
        return
    for model, optimizer in itertools.product(options.models or MODELS, OPTIMIZERS):
        tried = list(unknown_sizes(model, optimizer, random.Random(1), options.seconds))
        unknown = [sizes for sizes, known in tried if not known]
        print(f"{model} with {optimizer}: {len(tried)} exports, {len(unknown)} unknown: {unknown[:3]}", flush=True)


if __name__ == "__main__":
    main()
