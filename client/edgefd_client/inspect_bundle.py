"""Description of a bundle and of the possible disclosure, for `edgefd-client inspect-bundle`. No graph is run."""

from __future__ import annotations

import math
from collections import Counter

from edgefd.data.labels import shown_names
from edgefd.federation.training import Training
from edgefd.wire.bundle_reader import Bundle
from edgefd.wire.codecs import CODECS
from edgefd.wire.onnx_reader import Node, OnnxGraph

METRIC_BITS = 64
MAX_FACT = 1000
"""most characters of a fact: a manifest may hold names of a megabyte"""


def describe_bundle(bundle: Bundle) -> dict[str, str]:
    """Return facts about a bundle by their names, in the order in which to print them."""
    manifest, parsed = bundle.manifest, bundle.parsed
    training = manifest.terms.training
    files = ", ".join(parsed.unknown)
    unknown = f"UNKNOWN: {files} can be any program; run it only if you trust the person who made it"
    names = " and ".join(name for name in (parsed.known, parsed.known_extractor) if name is not None)
    facts = {
        "name": f"{manifest.model!a}, as the coordinator calls it",
        "structure": unknown if parsed.unknown else f"known: {names}",
        "training": f"{_optimizer(manifest.optimizer, training)}, batches of {training.batch_size} rows, "
        f"{training.private_rows_per_batch} of them private{_adjusted(training)}, then {_locally(training)} of private "
        f"rows; learning rate {training.lr:g}",
        "samples": f"shape {list(manifest.sample_shape)}, {manifest.n_classes} classes{_labels(manifest.label_names)}",
        "parameters": f"{sum(a.size for n, a in bundle.init.items() if n.startswith('model/')):,} numbers",
        "step": _operators(parsed.step),
        "model": _operators(parsed.logits),
    }
    if parsed.extractor is not None:
        facts["extractor"] = _operators(parsed.extractor)
    return facts | {"dataflow": _dataflow(bundle), "a round": _disclosed(bundle), "digest": parsed.digest}


def _labels(names: tuple[str, ...] | None) -> str:
    return "" if names is None else f" with the labels {shown_names([ascii(name)[1:-1] for name in names])}"


def _adjusted(training: Training) -> str:
    if training.adjusted_steps == "auto":
        return ", batches of private rows alone between them (at least one pass)"
    return f", {training.adjusted_steps} batches of private rows alone between them" if training.adjusted_steps else ""


def _locally(training: Training) -> str:
    amount = f"{training.local_epochs} passes" if training.local_epochs else f"{training.local_steps} batches"
    size = "" if training.local_batch_size is None else f" in batches of {training.local_batch_size}"
    first = f", and {training.warmup_steps} batches in the first round," if training.warmup_steps else ""
    return f"{amount}{size}{first}"


def _optimizer(name: str, training: Training) -> str:
    momentum = f" with momentum {training.momentum:g}" if name == "sgd" else ""
    decay = f", weight decay {training.weight_decay:g}" if training.weight_decay else ""
    return f"{name}{momentum}{decay}{', fresh in each round' if training.reset_optimizer else ''}"


def bits_a_row(bundle: Bundle) -> int:
    """Return how many bits a device says about a proxy row: its soft label, its weight, and whether it answers."""
    terms = bundle.manifest.terms
    return CODECS[terms.codec].row_bits(terms.n_classes) + 1


def _disclosed(bundle: Bundle) -> str:
    rows, bits = len(bundle.proxy), bits_a_row(bundle)
    return (
        f"sends at most {rows:,} rows x {bits} bits = {math.ceil(rows * bits / 8):,} bytes, and {METRIC_BITS} bits for "
        "each metric"
    )


def _operators(graph: OnnxGraph) -> str:
    counts = Counter(node.operator for node in graph.nodes)
    return f"{len(graph.nodes)} nodes: " + ", ".join(f"{name} {n}" for name, n in sorted(counts.items()))


def _dataflow(bundle: Bundle) -> str:
    """Return whether the parameters change as an optimizer changes them. This alone does not show that a graph is safe.

    A hostile graph can have this form too: it can write private samples where the gradient should be.
    """
    graph = bundle.parsed.step
    producers = {name: node for node in graph.nodes for name in node.outputs}
    parameters = [name for name in bundle.manifest.state if name.startswith("model/")]
    odd = [name for name in parameters if not _is_update(producers, name)]
    if odd:
        return f"{len(odd)} of {len(parameters)} parameters do not change by a step of an optimizer, such as {odd[0]!a}"
    return f"all {len(parameters)} parameters change by a product with the learning rate (this alone proves nothing)"


def _is_update(producers: dict[str, Node], name: str) -> bool:
    """Return whether new = old - a product of something with a number that is computed from the learning rate only."""
    node = producers.get(f"new/{name}")
    if node is None or node.operator != "Sub" or node.inputs[0] != name:
        return False
    product = producers.get(node.inputs[1])
    return (
        product is not None
        and product.operator == "Mul"
        and any("lr" in (read := _read(producers, factor)) and "x" not in read for factor in product.inputs)
    )


def _read(producers: dict[str, Node], name: str) -> set[str]:
    """Return the names of the inputs and constants from which a value is computed."""
    read, new = set[str](), {name}
    while new:
        read |= new
        new = {source for value in new if value in producers for source in producers[value].inputs} - read
    return read
