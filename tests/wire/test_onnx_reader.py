"""The strict reader of ONNX files: it reads what the exporter writes, and refuses everything else before it is run."""

import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from edgefd_client.cli import main
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import AttributeProto, ModelProto, TensorProto, helper, numpy_helper

from edgefd.core.errors import UserError
from edgefd.export.model_graphs import export_graphs
from edgefd.learners.models import MODELS, WINDOW_MODELS, build_model
from edgefd.learners.session import open_session, session_options
from edgefd.wire.bundle_reader import read_bundle
from edgefd.wire.onnx_reader import TRAINING_OPERATORS, OnnxGraph, read_extractor, read_training_graph
from edgefd.wire.packing import pack, unpack
from tests.support.bundles import SHAPE, replace_file, small_bundle
from tests.support.extractors import graph as extractor
from tests.support.protobuf_bytes import field, varint

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_bundle(tmp_path_factory.mktemp("bundle") / "b")


@pytest.fixture(scope="module")
def step(bundle: Path) -> bytes:
    return read_bundle(bundle).graphs.step


def edited(blob: bytes, change: Callable[[ModelProto], object]) -> bytes:
    """Return the graph after a change."""
    model = onnx.load_from_string(blob)
    change(model)
    out: bytes = model.SerializeToString()
    return out


def read(blob: bytes) -> OnnxGraph:
    return read_training_graph(blob, "train_step.onnx")


@pytest.mark.parametrize("name", MODELS)
def test_it_reads_what_the_package_onnx_reads(name: str) -> None:
    shape = (2, 20) if name in WINDOW_MODELS else (2, 17, 18)
    graphs = export_graphs(build_model(name, shape, 3, 0), "adam", 4, shape, 3)
    for blob in (graphs.step, graphs.logits):
        graph, model = read(blob), onnx.load_from_string(blob)
        assert [(n.operator, n.inputs, n.outputs) for n in graph.nodes] == [
            (n.op_type, tuple(n.input), tuple(n.output)) for n in model.graph.node
        ]
        for ours, theirs in zip(graph.nodes, model.graph.node, strict=True):
            values = {a.name: helper.get_attribute_value(a) for a in theirs.attribute}
            assert set(ours.attributes) == set(values)
            for attribute, value in values.items():
                expected = numpy_helper.to_array(value) if isinstance(value, TensorProto) else value
                assert np.array_equal(ours.attributes[attribute], expected)
        assert set(graph.constants) == {t.name for t in model.graph.initializer}
        for tensor in model.graph.initializer:
            array, expected = graph.constants[tensor.name], numpy_helper.to_array(tensor)
            assert (array.dtype, array.tolist()) == (expected.dtype, expected.tolist())
        for ours_ports, ports in ((graph.inputs, model.graph.input), (graph.outputs, model.graph.output)):
            for port, value_info in zip(ours_ports, ports, strict=True):
                dims = value_info.type.tensor_type.shape.dim
                assert (port.name, port.shape) == (value_info.name, tuple(d.dim_param or d.dim_value for d in dims))


def test_every_operator_that_the_exporter_names_is_read() -> None:
    """Its sources name operators in quotes, some in lower case."""
    sources = "".join(path.read_text() for path in (ROOT / "edgefd" / "export").glob("*.py"))
    words = {word for quoted in re.findall(r'"(\w+)"', sources) for word in (quoted, quoted.capitalize())}
    named = {word for word in words if onnx.defs.has(word) and not onnx.defs.get_schema(word).deprecated}
    assert named - TRAINING_OPERATORS == set()
    assert len(named) > 30


def test_one_file_opens_sessions() -> None:
    folders = ("edgefd", "client", "server", "simulations", "benchmarks")
    files = [path for folder in folders for path in (ROOT / folder).rglob("*.py")]
    users = [path.name for path in files if "InferenceSession" in path.read_text(encoding="utf-8")]
    assert users == ["session.py"]


def external(location: str, key_first: bool) -> bytes:
    """Return the external_data entry of a tensor, with the fields of the entry in one order or the other."""
    key, value = field(1, b"location"), field(2, location.encode())
    return field(13, key + value if key_first else value + key)


@pytest.mark.parametrize("key_first", [True, False])
@pytest.mark.parametrize("location", ["device.key", "/etc/passwd", "../state/device.key", "*/_ORT_MEM_ADDR_/*"])
@pytest.mark.parametrize("with_data_location", [True, False])
def test_data_outside_the_file_are_refused(
    step: bytes, location: str, key_first: bool, with_data_location: bool
) -> None:
    where = field(14, 1) if with_data_location else b""
    tensor = field(1, 4) + field(2, 1) + field(8, b"k") + external(location, key_first) + where
    with pytest.raises(UserError, match="data outside the file"):
        read(_with_initialiser(step, tensor))


def _with_initialiser(blob: bytes, tensor: bytes) -> bytes:
    """Return the graph with one more initialiser, given as bytes."""
    model = onnx.load_from_string(blob)
    graph = model.graph.SerializeToString() + field(5, tensor)
    model.ClearField("graph")
    return model.SerializeToString() + field(7, graph)


def test_data_outside_the_file_are_refused_in_an_attribute_and_in_a_sparse_initialiser(step: bytes) -> None:
    def in_attribute(model: ModelProto) -> None:
        node = next(n for n in model.graph.node if n.op_type == "ConstantOfShape")
        tensor = node.attribute[0].t
        tensor.ClearField("raw_data")
        tensor.data_location = TensorProto.EXTERNAL
        tensor.external_data.add(key="location", value="device.key")

    def sparse(model: ModelProto) -> None:
        values = model.graph.sparse_initializer.add().values
        values.name = "k"
        values.external_data.add(key="location", value="device.key")

    with pytest.raises(UserError, match="data outside the file"):
        read(edited(step, in_attribute))
    with pytest.raises(UserError, match="sparse initialisers"):
        read(edited(step, sparse))


def test_infer_does_not_read_a_file_through_reordered_fields(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """ONNX Runtime 1.32 reads device.key in the working directory: the logits of a sample would be 12 of its bytes."""
    monkeypatch.chdir(tmp_path)
    Path("device.key").write_bytes(b"private!" * 384)

    def multiply_by_key(model: ModelProto) -> None:
        next(n for n in model.graph.node if "logits" in n.output).output[0] = "honest"
        model.graph.node.append(helper.make_node("Reshape", ["x", "row"], ["flat"]))
        model.graph.node.append(helper.make_node("MatMul", ["flat", "own"], ["logits"]))
        model.graph.initializer.append(numpy_helper.from_array(np.array([-1, 256]), "row"))

    where = external("device.key", key_first=False) + field(14, 1)
    tensor = field(1, 256) + field(1, 3) + field(2, 1) + field(8, b"own") + where
    attack = _with_initialiser(edited(read_bundle(bundle).graphs.logits, multiply_by_key), tensor)
    assert b"\n\x08location\x12" not in attack  # a search for these bytes finds nothing
    folder = Path(shutil.copytree(bundle, tmp_path / "b"))
    replace_file(folder, "model.onnx.xz", pack(attack))
    np.save("x.npy", np.zeros((1, *SHAPE), np.uint8))
    with pytest.raises(SystemExit) as stop:
        main(["infer", "--bundle", str(folder), "--input", "x.npy"])
    assert stop.value.code == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "model.onnx is refused: its tensor has data outside the file" in error
    assert "private" not in error


def subgraph(model: ModelProto) -> None:
    branch = helper.make_graph([], "b", [], [])
    model.graph.node.append(helper.make_node("If", ["x"], ["z"], then_branch=branch, else_branch=branch))


def function(model: ModelProto) -> None:
    opset = [helper.make_opsetid("", 20)]
    model.functions.append(
        helper.make_function("own", "F", ["a"], ["b"], [helper.make_node("Relu", ["a"], ["b"])], opset)
    )


def domain(model: ModelProto) -> None:
    model.graph.node[0].domain = "com.microsoft"


def operator_set(model: ModelProto) -> None:
    model.opset_import.append(helper.make_opsetid("com.microsoft", 1))


def typed_data(model: ModelProto) -> None:
    model.graph.initializer.append(TensorProto(name="k", data_type=1, dims=[2], float_data=[1, 2]))


def huge(model: ModelProto) -> None:
    model.graph.initializer.append(TensorProto(name="k", data_type=1, dims=[2**31, 2**31], raw_data=b""))


def overflowing(model: ModelProto) -> None:
    model.graph.initializer.append(TensorProto(name="k", data_type=1, dims=[2**32, 2**32], raw_data=b""))


def created(model: ModelProto) -> None:
    model.graph.initializer.append(numpy_helper.from_array(np.array([2**20, 2**20]), "much"))
    model.graph.node.append(helper.make_node("ConstantOfShape", ["much"], ["bomb"]))


def not_finite(model: ModelProto) -> None:
    model.graph.initializer.append(numpy_helper.from_array(np.array([np.nan], np.float32), "k"))


def two_values(model: ModelProto) -> None:
    node = next(n for n in model.graph.node if n.attribute)
    node.attribute[0].floats.append(1)


def reference(model: ModelProto) -> None:
    next(n for n in model.graph.node if n.attribute).attribute[0].ref_attr_name = "outer"


def twice(model: ModelProto) -> None:
    model.graph.node.append(model.graph.node[0])


def too_early(model: ModelProto) -> None:
    model.graph.node.insert(0, helper.make_node("Relu", ["loss"], ["z"]))


def integers(model: ModelProto) -> None:
    model.graph.input[0].type.tensor_type.elem_type = TensorProto.INT64


def overridable(model: ModelProto) -> None:
    model.graph.input.append(helper.make_tensor_value_info(model.graph.initializer[0].name, 1, [1]))


CHANGES: dict[str, Callable[[ModelProto], object]] = {
    "a graph of its own": subgraph,
    "functions": function,
    "its node has a domain": domain,
    "of the domains '', 'com.microsoft'": operator_set,
    "numbers in fields of their own": typed_data,
    "has 0 bytes": huge,
    "a tensor of \\[4294967296, 4294967296\\]": overflowing,
    "creates a tensor of shape": created,
    "not finite": not_finite,
    "attribute has field 7": two_values,
    "attribute has field 21": reference,
    "is defined twice": twice,
    "before it is computed": too_early,
    "is not float32": integers,
    "defined twice, or has no name": overridable,
    "training_info": lambda m: m.training_info.add(),
    "model has metadata": lambda m: m.metadata_props.add(key="ort_config", value="{}"),
    "value_info": lambda m: m.graph.value_info.add(name="v0_0"),
    "graph has quantization": lambda m: m.graph.quantization_annotation.add(),
    "producer, format": lambda m: setattr(m, "producer_name", "other"),
    "in the format of ONNX Runtime": lambda m: setattr(m, "producer_name", "ORTM"),
    "operator 'Loop'": lambda m: m.graph.node.append(helper.make_node("Loop", ["", ""], [])),
    "operator 'RandomNormal'": lambda m: m.graph.node.append(helper.make_node("RandomNormal", [], ["r"], shape=[1])),
    "no graph of edgefd has": lambda m: m.graph.node[0].metadata_props.add(key="a", value="b"),
    "model has field 6": lambda m: setattr(m, "doc_string", "text"),
}


@pytest.mark.parametrize("message", CHANGES)
def test_what_the_exporter_never_writes_is_refused(step: bytes, message: str) -> None:
    with pytest.raises(UserError, match=message) as refused:
        read(edited(step, CHANGES[message]))
    assert "\n" not in str(refused.value)


def test_sparse_and_graph_attributes_of_all_kinds_are_refused(step: bytes) -> None:
    for name in ("g", "graphs", "sparse_tensor", "sparse_tensors", "tensors", "strings", "tp", "type_protos"):
        model = onnx.load_from_string(step)
        attribute = model.graph.node[0].attribute.add(name="a", type=AttributeProto.GRAPH)
        value = getattr(attribute, name)
        if hasattr(value, "add"):
            value.add()
        elif hasattr(value, "SetInParent"):
            value.SetInParent()
        else:
            value.append(b"text")
        with pytest.raises(UserError, match="its attribute has"):
            read(model.SerializeToString())


def test_a_field_that_occurs_twice_is_refused(step: bytes) -> None:
    """A library would merge two graphs, so that a check of one of them is a check of half of what is run."""
    graph = onnx.load_from_string(step).graph.SerializeToString()
    for number, value, name in ((7, graph, "graph"), (1, 10, "ir_version"), (2, b"edgefd", "producer_name")):
        with pytest.raises(UserError, match=f"two fields {name}"):
            read(step + field(number, value))


def test_unknown_fields_groups_and_wrong_wire_types_are_refused(step: bytes) -> None:
    for extra in (field(99, b"x"), field(99, 1), varint(7 << 3 | 3) + varint(7 << 3 | 4), varint(20 << 3 | 6)):
        with pytest.raises(UserError, match="is refused"):
            read(step + extra)
    with pytest.raises(UserError, match="wire type"):
        read(field(1, b"\x0a") + step[2:])


def test_numbers_with_needless_or_too_many_bytes_are_refused(step: bytes) -> None:
    assert step[:2] == b"\x08\x0a"
    for number in (b"\x8a\x00", b"\x8a" + b"\x80" * 9 + b"\x00", b"\xff" * 9 + b"\x02", b"\xff" * 12):
        with pytest.raises(UserError, match="a number"):
            read(b"\x08" + number + step[2:])


def test_a_truncated_file_is_refused(step: bytes) -> None:
    for size in (*range(60), *range(60, len(step), 97)):
        with pytest.raises(UserError):
            read(step[:size])


@settings(max_examples=300)
@given(st.binary(max_size=200))
def test_any_bytes_are_refused_in_one_line(data: bytes) -> None:
    for reader in (read_training_graph, read_extractor):
        with pytest.raises(UserError):
            reader(data, "x.onnx")


def test_bytes_in_the_format_of_onnx_runtime_are_not_opened(tmp_path: Path, step: bytes) -> None:
    """A valid ONNX file can begin like one: its bytes 4 to 8 are then the name of its producer."""
    options = ort.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "m.ort")
    options.log_severity_level = 4
    options.add_session_config_entry("session.save_model_format", "ORT")
    ort.InferenceSession(step, options, providers=["CPUExecutionProvider"])
    blob = (tmp_path / "m.ort").read_bytes()
    assert ort.InferenceSession(blob, providers=["CPUExecutionProvider"]).get_inputs()
    for reader in (read_training_graph, read_extractor):
        with pytest.raises(UserError, match="in the format of ONNX Runtime"):
            reader(blob, "x.onnx")
    with pytest.raises(UserError, match="ONNX Runtime refuses the graph"):
        open_session(blob, session_options(1))
    both = field(2, b"ORTM") + edited(step, lambda m: m.ClearField("producer_name"))
    with pytest.raises(UserError, match="is refused"):
        read(field(1, 10) + both)


def test_an_extractor_may_be_of_another_exporter_but_not_have_more(tmp_path: Path) -> None:
    blob = extractor()
    assert [n.operator for n in read_extractor(blob, "e").nodes] == ["Flatten", "MatMul"]
    with pytest.raises(UserError, match="producer, format and operator set"):
        read(blob)
    with pytest.raises(UserError, match="a graph of its own"):
        read_extractor(edited(blob, subgraph), "extractor.onnx")
    flat = helper.make_tensor_value_info("flat", TensorProto.FLOAT, ["n", 784])
    with pytest.raises(UserError, match="one input and one output"):
        read_extractor(edited(blob, lambda m: m.graph.output.append(flat)), "extractor.onnx")


PORTS = {
    "a new input": lambda m: m.graph.input.append(helper.make_tensor_value_info("y", TensorProto.FLOAT, [])),
    "loss": lambda m: m.graph.output.pop(),
    "state": lambda m: m.graph.output.pop(0),
    "shape": lambda m: setattr(m.graph.input[0].type.tensor_type.shape.dim[0], "dim_value", 5),
}


@pytest.mark.parametrize("change", PORTS)
def test_inputs_and_outputs_other_than_those_of_the_manifest_are_refused(
    bundle: Path, tmp_path: Path, change: str
) -> None:
    folder = Path(shutil.copytree(bundle, tmp_path / "b"))
    for name in ("train_step.onnx.xz", "model.onnx.xz") if change == "shape" else ("train_step.onnx.xz",):
        blob = (folder / name).read_bytes()
        replace_file(folder, name, pack(edited(unpack(blob, 2**20), PORTS[change])))
        with pytest.raises(UserError, match=r"are not those that manifest\.json states"):
            read_bundle(folder)
        replace_file(folder, name, blob)


FLIPS = """
import sys, numpy as np
from edgefd.core.errors import RunError, UserError
from edgefd.learners.batches import Batch
from edgefd.learners.onnx_learner import OnnxLearner, Sessions
from edgefd.wire.bundle_reader import read_bundle
from edgefd.wire.bundle_graphs import read_graphs
import dataclasses, pathlib
bundle = read_bundle(pathlib.Path(sys.argv[1]))
rng, n = np.random.default_rng(0), int(sys.argv[2])
x = bundle.proxy[:8]
batch = Batch(x, np.eye(3, dtype=np.float32)[np.arange(len(x)) % 3], np.ones(len(x), np.float32))
refused = ran = failed = 0
for i in range(n):
    which = ("step", "logits")[i % 2]
    blob = bytearray(getattr(bundle.graphs, which))
    blob[rng.integers(len(blob))] ^= 1 << rng.integers(8)
    try:
        files = {"train_step.onnx": bundle.graphs.step, "model.onnx": bundle.graphs.logits}
        read_graphs(bundle.manifest, {**files, ("train_step.onnx", "model.onnx")[i % 2]: bytes(blob)})
    except UserError:
        refused += 1
        continue
    try:
        learner = OnnxLearner(Sessions(dataclasses.replace(bundle.graphs, **{which: bytes(blob)})), bundle.init)
        learner.train([batch], 0.01)
        learner.predict_logits(x)
        ran += 1
    except (UserError, RunError):
        failed += 1
print(refused, ran, failed)
"""


def test_a_flipped_bit_never_ends_the_process(bundle: Path) -> None:
    """The reader refuses the graph, or ONNX Runtime runs it or says why it cannot."""
    command = [sys.executable, "-c", FLIPS, str(bundle), "400"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=ROOT)
    assert done.returncode == 0, done.stderr[-2000:]
    refused, ran, failed = map(int, done.stdout.split())
    assert refused + ran + failed == 400
    assert min(refused, ran, failed) > 0
