"""The graphs of a bundle: what they are, whether they fit the manifest, and whether the catalogue knows them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from edgefd.core.errors import UserError
from edgefd.learners.graphs import ROWS
from edgefd.learners.mask_noise import fits_noise, noise_inputs
from edgefd.wire.bundle_manifest import EXTRACTOR, Manifest
from edgefd.wire.known_graphs import known_model, trust_digest
from edgefd.wire.onnx_reader import OnnxGraph, read_extractor, read_training_graph

MODEL, STEP = "model.onnx", "train_step.onnx"


@dataclass(frozen=True, eq=False)
class BundleGraphs:
    """The graphs of a bundle after the strict reader."""

    step: OnnxGraph
    logits: OnnxGraph
    extractor: OnnxGraph | None
    known: str | None
    """name of the model if the catalogue knows the training step and the logits together, else None"""
    known_extractor: str | None
    """name of the extractor if the catalogue knows it, else None"""
    digest: str
    """digest of the files, which a user trusts if the catalogue does not know the graphs"""

    @property
    def unknown(self) -> tuple[str, ...]:
        """Names of the files whose graphs the catalogue does not know."""
        training = () if self.known is not None else (STEP, MODEL)
        return training if self.extractor is None or self.known_extractor is not None else (*training, EXTRACTOR)


def read_graphs(manifest: Manifest, blobs: Mapping[str, bytes]) -> BundleGraphs:
    """Read the graphs of a bundle, and check that their inputs and outputs are those of the manifest.

    Args:
        manifest: of the bundle.
        blobs: content of the files by name.

    Raises:
        UserError: if a graph holds anything that `edgefd export` never writes, or does not fit the manifest.
    """
    step, logits = (read_training_graph(blobs[name], name) for name in (STEP, MODEL))
    extractor = read_extractor(blobs[EXTRACTOR], EXTRACTOR) if EXTRACTOR in blobs else None
    _check_step(step, manifest)
    _check_logits(logits, step, manifest)
    sizes = (manifest.batch, manifest.n_classes)
    return BundleGraphs(
        step=step,
        logits=logits,
        extractor=extractor,
        known=known_model((step, logits), manifest.constants, *sizes, manifest.shape),
        known_extractor=None if extractor is None else known_model((extractor,), {}, 1, 1, manifest.sample_shape),
        digest=trust_digest(blobs[STEP], blobs[MODEL], blobs.get(EXTRACTOR)),
    )


def _check_step(graph: OnnxGraph, manifest: Manifest) -> None:
    """Check that the training step maps (state, batch, numbers) to (new state, loss), and nothing else.

    Two inputs are optional: which rows are not padding, and random numbers (`edgefd.learners.mask_noise`).
    """
    batch, n_classes = manifest.batch, manifest.n_classes
    inputs = {port.name: port.shape for port in graph.inputs}
    outputs = {port.name: port.shape for port in graph.outputs}
    state = {name: shape for name, shape in inputs.items() if name in manifest.state}
    numbers = dict.fromkeys(("lr", *manifest.constants), ())
    rows: dict[str, tuple[int | str, ...]] = {
        "x": (batch, *manifest.shape),
        "targets": (batch, n_classes),
        "weights": (batch,),
    }
    rows |= {ROWS: (batch,)} if ROWS in inputs else {}
    rows |= {name: inputs[name] for name in noise_inputs(inputs) if fits_noise(name, inputs[name], batch)}
    if len(state) != len(manifest.state) or inputs != {**state, **rows, **numbers}:
        raise UserError(_unfitting(STEP, "inputs"))
    if outputs != {**{f"new/{name}": shape for name, shape in state.items()}, "loss": ()}:
        raise UserError(_unfitting(STEP, "outputs"))
    if any(isinstance(size, str) for shape in state.values() for size in shape):
        raise UserError(_unfitting(STEP, "inputs"))


def _check_logits(graph: OnnxGraph, step: OnnxGraph, manifest: Manifest) -> None:
    """Check that the logits depend on the samples and the parameters only: no other state of training is an input."""
    inputs = {port.name: port.shape for port in graph.inputs}
    parameters = {port.name: port.shape for port in step.inputs if port.name.startswith("model/")}
    x, outputs = inputs.pop("x", ()), {port.name: port.shape for port in graph.outputs}
    if inputs != parameters or x[1:] != manifest.shape or not isinstance(x[0], str):
        raise UserError(_unfitting(MODEL, "inputs"))
    if set(outputs) != {"logits"} or outputs["logits"][1:] != (manifest.n_classes,):
        raise UserError(_unfitting(MODEL, "outputs"))


def _unfitting(name: str, what: str) -> str:
    return f"the {what} of {name} are not those that manifest.json states: export the bundle again with `edgefd export`"
