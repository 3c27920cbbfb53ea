"""The catalogue of known graphs: what it accepts at any size, and what it does not."""

import random
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import onnx
import pytest
from onnx import ModelProto, numpy_helper

from edgefd.core.errors import UserError
from edgefd.data.efficientnet import export_efficientnet
from edgefd.data.features import EFFICIENTNETS
from edgefd.export.known_graphs import OPTIMIZERS, Sizes, exported, formulas_of, random_sizes, read_graphs
from edgefd.learners.graphs import Graphs
from edgefd.learners.models import MODELS
from edgefd.wire.graph_structure import Structure, digest_of, structure_of
from edgefd.wire.known_graphs import catalogue, fits, known_model, trust_digest
from edgefd.wire.onnx_reader import Port, read_extractor

SIZES = Sizes(7, 5, (2, 20, 21))


@pytest.fixture(scope="module")
def mlp() -> Graphs:
    return exported("mlp", "sgd", SIZES)


def known(graphs: Graphs, sizes: Sizes = SIZES, constants: dict[str, float] | None = None) -> str | None:
    given = graphs.constants if constants is None else constants
    return known_model(read_graphs(graphs), given, sizes.batch, sizes.n_classes, sizes.shape)


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("model", MODELS)
def test_every_named_model_is_known_at_random_sizes(model: str, optimizer: str) -> None:
    rng = random.Random(11)
    for sizes in (random_sizes(model, rng) for _ in range(4)):
        assert known(exported(model, optimizer, sizes), sizes) == f"{model} with {optimizer}", sizes


@pytest.mark.slow
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", EFFICIENTNETS)
def test_every_named_extractor_is_known_at_other_sizes(name: str, channels: int) -> None:
    pytest.importorskip("efficientnet_lite_pytorch")
    graph = read_extractor(export_efficientnet(name, (channels, 40, 30), 96), "extractor.onnx")
    assert known_model((graph,), {}, 1, 1, (channels, 40, 30)) == name


def changed(graphs: Graphs, which: str, change: Callable[[ModelProto], object]) -> Graphs:
    model = onnx.load_from_string(getattr(graphs, which))
    change(model)
    return replace(graphs, **{which: model.SerializeToString()})


def set_constant(model: ModelProto, old: np.ndarray, new: np.ndarray) -> None:
    tensor = next(t for t in model.graph.initializer if np.array_equal(numpy_helper.to_array(t), old))
    tensor.raw_data = new.astype(old.dtype).tobytes()


def set_operator(model: ModelProto, old: str, new: str) -> None:
    next(n for n in model.graph.node if n.op_type == old).op_type = new


def replace_gradient(model: ModelProto) -> None:
    """Take another tensor of the same shape for the gradient of a bias."""
    node = next(n for n in model.graph.node if n.output[0] == "new/optimizer/momentum_buffer/fc2.bias")
    node.input[1] = next(n for n in model.graph.node if n.output[0].endswith("fc1.bias")).input[1]


def exchange_outputs(model: ModelProto) -> None:
    for node in model.graph.node:
        names = {"new/model/fc1.bias": "new/model/fc2.bias", "new/model/fc2.bias": "new/model/fc1.bias"}
        node.output[:] = [names.get(name, name) for name in node.output]


CHANGES: dict[str, tuple[str, Callable[[ModelProto], object]]] = {
    "momentum": ("step", lambda m: set_constant(m, np.float32(1e-8), np.float32(1e-3))),
    "shape of all rows": ("step", lambda m: set_constant(m, np.array([7, 840]), np.array([840, 7]))),
    "operator": ("step", lambda m: set_operator(m, "Relu", "Tanh")),
    "operator of the model": ("logits", lambda m: set_operator(m, "Relu", "Tanh")),
    "gradient": ("step", replace_gradient),
    "outputs": ("step", exchange_outputs),
    "a new output of a node": ("step", lambda m: m.graph.node[0].output.append("more")),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_graph_of_another_function_is_not_known(mlp: Graphs, change: str) -> None:
    assert known(mlp) == "mlp with sgd"
    assert known(changed(mlp, *CHANGES[change])) is None


def test_names_cannot_imitate_the_lines_of_another_structure(mlp: Graphs) -> None:
    """A name may hold any text, also that of other lines of the structure."""
    structure = structure_of(read_graphs(mlp)[1])
    first, second = structure.text.splitlines()[1:3]
    port = Port(f"{first.split(chr(39))[1]}' [size, size]\ninput '{second.split(chr(39))[1]}", (1, 1))
    forged = structure_of(replace(read_graphs(mlp)[1], inputs=(port,)))
    assert len(forged.text.splitlines()) == len(structure.text.splitlines()) - len(read_graphs(mlp)[1].inputs) + 1


def test_other_sizes_in_the_manifest_or_other_constants_are_not_known(mlp: Graphs) -> None:
    for sizes in (replace(SIZES, batch=8), replace(SIZES, n_classes=6), replace(SIZES, shape=(2, 21, 20))):
        assert known(mlp, sizes) is None
    adam = exported("linear", "adam", SIZES)
    assert known(adam) == "linear with adam"
    assert known(adam, constants={"eps": 1.0}) is None
    assert known(adam, constants={}) is None


def test_every_number_of_a_dense_model_is_determined_by_the_manifest(mlp: Graphs) -> None:
    structures = [structure_of(graph) for graph in read_graphs(mlp)]
    (entry,) = catalogue()[digest_of(*structures)]
    numbers = [n for s in structures for n in s.numbers]
    assert fits(entry.formulas, [Structure("", tuple(numbers))], SIZES.symbols)
    for i in range(len(numbers)):
        for other in (numbers[i] + 1, 0 if numbers[i] else 2):
            some = [*numbers[:i], other, *numbers[i + 1 :]]
            assert not fits(entry.formulas, [Structure("", tuple(some))], SIZES.symbols)


def test_no_size_that_depends_on_the_rows_of_a_batch_is_free() -> None:
    """Otherwise a graph could mix rows, and for example use one row in place of all."""
    sizes = Sizes(101, 7, (3, 29, 31))
    for model in ("cnn", "resnet8", "cnn_gn"):
        graphs = exported(model, "sgd", sizes)
        structures = [structure_of(graph) for graph in read_graphs(graphs)]
        (entry,) = catalogue()[digest_of(*structures)]
        for formula, number in zip(entry.formulas, [n for s in structures for n in s.numbers], strict=True):
            assert number == 0 or number % sizes.batch or "B" in formula, (formula, number)


def test_what_stays_free_are_parameters_frozen_numbers_and_the_pixels_that_a_convolution_takes() -> None:
    sizes = Sizes(6, 4, (5, 20, 20))
    graphs = exported("random_features", "sgd", sizes)
    assert known(graphs, sizes) == "random_features with sgd"

    def other_filters(model: ModelProto) -> None:
        tensor = next(t for t in model.graph.initializer if t.data_type == 1 and len(t.dims) == 4)
        tensor.raw_data = np.ones(tuple(tensor.dims), np.float32).tobytes()[:-4] + np.float32(2).tobytes()

    def other_pixels(model: ModelProto) -> None:
        gather = next(n for n in model.graph.node if n.op_type == "Gather")
        tensor = next(t for t in model.graph.initializer if t.name == gather.input[1])
        tensor.raw_data = bytes(len(tensor.raw_data))

    for change in (other_filters, other_pixels):
        assert known(changed(graphs, "step", change), sizes) == "random_features with sgd"


def test_a_formula_holds_in_all_examples_and_names_a_new_size_once() -> None:
    examples = [
        (Sizes(b, c, (h,)), (Structure("", (b * c, h - 3, v, v * b, 4, 2 * v)),))
        for b, c, h, v in ((5, 11, 31, 17), (7, 13, 40, 29), (11, 3, 64, 50))
    ]
    assert formulas_of(examples) == ["B*C", "-3+s0", "?", "B*v0", "4", "2*v0"]
    assert formulas_of(
        [(s, (Structure("", (s.batch * v,)),)) for (s, _), v in zip(examples, (19, 23, 88), strict=True)]
    ) == ["?*B"]


def test_the_digest_to_trust_determines_which_file_has_which_bytes() -> None:
    digests = {trust_digest(b"a", b"b", None), trust_digest(b"b", b"a", None), trust_digest(b"a", b"b", b"")}
    assert len(digests) == 3


def test_a_graph_with_another_header_is_refused(mlp: Graphs) -> None:
    with pytest.raises(UserError, match="producer, format and operator set"):
        read_graphs(changed(mlp, "step", lambda m: setattr(m, "ir_version", 11)))
