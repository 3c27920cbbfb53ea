"""Graph rewrites compute the same outputs with fewer nodes."""

import numpy as np
import onnx
import onnxruntime as ort
import pytest

from edgefd.export.graph_builder import GraphBuilder, plain

SHAPES = {"a": (5, 3), "b": (5, 2), "m": (3, 2)}


def run(model: onnx.ModelProto, feed: dict[str, np.ndarray]) -> list[np.ndarray]:
    out: list[np.ndarray] = ort.InferenceSession(model.SerializeToString()).run(None, feed)
    return out


def momentum(reused: bool) -> onnx.ModelProto:
    """Return the graph of 0.9 m + a'b. With `reused`, the graph also uses the product a'b elsewhere."""
    g = GraphBuilder()
    a, b, m = (g.input(name, shape) for name, shape in SHAPES.items())
    product = g.op("Gemm", a.name, b.name, transA=1)
    new = g.op("Add", g.op("Mul", m.name, g.constant(np.float32(0.9))), product)
    g.output("new", plain(new, (3, 2)))
    if reused:
        g.output("squared", plain(g.op("Mul", product, product), (3, 2)))
    return g.model()


@pytest.mark.parametrize("reused", [False, True])
def test_a_momentum_update_becomes_part_of_the_matrix_product(reused: bool) -> None:
    model = momentum(reused)
    kinds = sorted(node.op_type for node in model.graph.node)
    assert kinds == (["Add", "Gemm", "Mul", "Mul"] if reused else ["Gemm"])
    rng = np.random.default_rng(0)
    feed = {name: rng.standard_normal(shape).astype(np.float32) for name, shape in SHAPES.items()}
    expected = np.float32(0.9) * feed["m"] + feed["a"].T @ feed["b"]
    assert np.allclose(run(model, feed)[0], expected, rtol=1e-5, atol=1e-6)


def test_an_output_is_a_copy_only_if_it_is_an_input_or_has_two_names() -> None:
    g = GraphBuilder()
    x = g.input("x", (2,))
    doubled = plain(g.op("Add", x.name, x.name), (2,))
    g.output("first", doubled)
    g.output("again", doubled)
    g.output("input", x)
    g.output("later", plain(g.op("Mul", doubled.name, doubled.name), (2,)))
    model = g.model()
    assert sorted(node.op_type for node in model.graph.node) == ["Add", "Identity", "Identity", "Mul"]
    out = run(model, {"x": np.array([1, 2], np.float32)})
    assert [v.tolist() for v in out] == [[2, 4], [2, 4], [1, 2], [4, 16]]
