"""Bundles of a hostile coordinator: their graphs store private samples, and answer with them as soft labels."""

import dataclasses
import hashlib
import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from edgefd.federation.clients import Scale
from edgefd.wire.packing import pack, pack_arrays, pack_samples
from edgefd.wire.selftest import SelfTest, checksums, selftest_bytes
from tests.support.bundles import edit, replace_file

MEMORY = "model/memory"
MOMENTUM = "optimizer/momentum_buffer/memory"
IMAGES_A_ROW = 9
"""images of which one soft label of 10 classes carries a pixel each; the tenth value is the reference"""


def serialised(
    nodes: Sequence[onnx.NodeProto], inputs: dict[str, Any], outputs: dict[str, Any], **constants: Any
) -> bytes:
    """Return a graph with the header of the exporter; `inputs` and `outputs` are shapes by name."""
    values = [
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in ports.items()]
        for ports in (inputs, outputs)
    ]
    tensors = [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()]
    model = helper.make_model(
        helper.make_graph(list(nodes), "edgefd", *values, initializer=tensors),
        opset_imports=[helper.make_opsetid("", 20)],
        ir_version=10,
        producer_name="edgefd",
    )
    onnx.checker.check_model(model, full_check=True)
    out: bytes = model.SerializeToString()
    return out


def storing_step(batch: int, shape: tuple[int, ...], n_classes: int, as_gradient: bool) -> bytes:
    """Return a training step that stores its batch in its parameters.

    With `as_gradient`, it has the form of SGD with momentum: it only takes the batch for the gradient.
    """
    size = int(np.prod(shape))
    inputs = {MEMORY: [batch, size], MOMENTUM: [batch, size], "x": [batch, *shape], "targets": [batch, n_classes]}
    inputs |= {"weights": [batch], "lr": []}
    outputs = {f"new/{MEMORY}": [batch, size], f"new/{MOMENTUM}": [batch, size], "loss": []}
    flat = helper.make_node("Reshape", ["x", "sizes"], ["flat" if as_gradient else f"new/{MEMORY}"])
    if as_gradient:
        update = [
            helper.make_node("Mul", [MOMENTUM, "decay"], ["decayed"]),
            helper.make_node("Add", ["decayed", "flat"], [f"new/{MOMENTUM}"]),
            helper.make_node("Mul", ["lr", f"new/{MOMENTUM}"], ["change"]),
            helper.make_node("Sub", [MEMORY, "change"], [f"new/{MEMORY}"]),
        ]
    else:
        update = [helper.make_node("Identity", [MOMENTUM], [f"new/{MOMENTUM}"])]
    loss = helper.make_node("ReduceMean", ["weights"], ["loss"], keepdims=0)
    sizes, decay = np.array([batch, size], np.int64), np.float32(0.9)
    return serialised([flat, *update, loss], inputs, outputs, sizes=sizes, **({"decay": decay} if as_gradient else {}))


def telling_model(batch: int, shape: tuple[int, ...], n_images: int, scale: float) -> bytes:
    """Return a model whose logits for a sample are stored numbers: the first number of the sample says which ones."""
    size = int(np.prod(shape))
    nodes = [
        helper.make_node("Slice", [MEMORY, "start", "end", "axis"], ["kept"]),
        helper.make_node("Reshape", ["kept", "groups"], ["grouped"]),
        helper.make_node("Transpose", ["grouped"], ["by_pixel"], perm=[0, 2, 1]),
        helper.make_node("Reshape", ["by_pixel", "table"], ["rows"]),
        helper.make_node("Reshape", ["x", "flat_shape"], ["flat"]),
        helper.make_node("Slice", ["flat", "start", "one", "last"], ["first"]),
        helper.make_node("Reshape", ["first", "vector"], ["number"]),
        helper.make_node("Cast", ["number"], ["index"], to=TensorProto.INT64),
        helper.make_node("Gather", ["rows", "index"], ["told"], axis=0),
        helper.make_node("Mul", ["told", "scale"], ["scaled"]),
        helper.make_node("Mul", ["first", "zero"], ["reference"]),
        helper.make_node("Concat", ["scaled", "reference"], ["logits"], axis=1),
    ]
    integers = {
        "start": [0],
        "end": [n_images],
        "axis": [0],
        "one": [1],
        "last": [1],
        "groups": [n_images // IMAGES_A_ROW, IMAGES_A_ROW, size],
        "table": [n_images // IMAGES_A_ROW * size, IMAGES_A_ROW],
        "flat_shape": [-1, size],
        "vector": [-1],
    }
    constants: dict[str, Any] = {name: np.array(value, np.int64) for name, value in integers.items()}
    constants |= {"scale": np.float32(scale), "zero": np.float32(0)}
    inputs, outputs = {MEMORY: [batch, size], "x": ["batch", *shape]}, {"logits": ["batch", IMAGES_A_ROW + 1]}
    return serialised(nodes, inputs, outputs, **constants)


def hostile_bundle(honest: Path, out: Path, n_images: int, as_gradient: bool, lr: float) -> Path:
    """Write a bundle that returns `n_images` samples of the last batch, from an honest bundle of ten classes."""
    shutil.copytree(honest, out)
    manifest = json.loads((out / "manifest.json").read_text())
    batch, shape = manifest["batch"], tuple(manifest["shape"])
    size = int(np.prod(shape))
    proxy = np.zeros((n_images // IMAGES_A_ROW * size, *shape), np.float32)
    proxy.reshape(len(proxy), -1)[:, 0] = np.arange(len(proxy))
    state = {name: np.zeros((batch, size), np.float32) for name in (MEMORY, MOMENTUM)}
    replace_file(out, "train_step.onnx.xz", pack(storing_step(batch, shape, 10, as_gradient)))
    model = telling_model(batch, shape, n_images, -1 / lr if as_gradient else 1.0)
    replace_file(out, "model.onnx.xz", pack(model))
    replace_file(out, "init.xz", pack_arrays(state))
    sums = np.concatenate([checksums(array) for array in state.values()]).astype(np.float32)
    targets, largest = np.zeros((1, 10), np.float32), np.zeros(len(state), np.float32)
    replace_file(out, "selftest.npz", selftest_bytes(SelfTest(targets, lr, 0.0, 0.0, largest, sums)))
    packed, samples = pack_samples(proxy, Scale(*manifest["scale"]))
    replace_file(out, "proxy.xz", samples)
    digest = hashlib.sha256(proxy.tobytes()).hexdigest()
    terms = {**manifest["terms"], "proxy_sha256": digest}
    packing = dataclasses.asdict(packed)
    edit(out, lambda m: m.update(state=list(state), constants={}, terms=terms, proxy=packing))
    return out


def images_told(soft_labels: np.ndarray, n_images: int, size: int) -> np.ndarray:
    """Return the images [n_images, size] that the soft labels of `telling_model` carry."""
    logs = np.log(soft_labels.astype(np.float64))
    pixels = (logs[:, :-1] - logs[:, -1:]).reshape(-1, size, IMAGES_A_ROW)
    out: np.ndarray = pixels.transpose(0, 2, 1).reshape(n_images, size)
    return out
