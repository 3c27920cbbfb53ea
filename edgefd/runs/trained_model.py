"""`TrainedModel`: a model that a run has kept, for raw samples as in the user's files."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from edgefd.core.arrays import Float32
from edgefd.core.errors import UserError, require
from edgefd.core.files import SHARED, put, writing
from edgefd.data.features import extract, extractor_graph
from edgefd.data.image_arrays import model_layout
from edgefd.data.model_input import model_input
from edgefd.learners.batches import softmax
from edgefd.learners.dual_head import MIN_PROBABILITY, PRIVATE_SHARE, TAUGHT_TEMPERATURE, DualHead
from edgefd.learners.models import build_model
from edgefd.learners.torch_learner import TorchLearner, one_thread
from edgefd.runs.model_files import ModelInfo, kept_rounds, model_path, read_model
from edgefd.runs.weights import load_weights


class RawInput(nn.Module):
    """Module that takes raw samples (features, if the run has an extractor) as a tensor and returns logits [n, C].

    z = network((x - mean) / std). With two heads, z is the logarithm of their joint prediction.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, network: nn.Module, info: ModelInfo) -> None:
        super().__init__()
        self.network, self._heads = network, info.heads
        for name, numbers in zip(("mean", "std"), info.input.scale, strict=True):
            shaped = torch.tensor(numbers, dtype=torch.float32).reshape(-1, *[1] * (len(info.input.shape) - 1))
            self.register_buffer(name, shaped)

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits of raw samples [n, ...], float32 [n, C]."""
        logits: Tensor = self.network((x.float() - self.mean) / self.std)
        if self._heads == 1:
            return logits
        private, taught = logits.chunk(2, 1)
        joint = PRIVATE_SHARE * private.softmax(1) + (1 - PRIVATE_SHARE) * (taught / TAUGHT_TEMPERATURE).softmax(1)
        return joint.clamp(min=MIN_PROBABILITY).log()


@dataclass(frozen=True, eq=False)
class TrainedModel:
    """A trained model of a client. It takes raw samples, as the data set of its run had them.

    Samples are arrays [n, ...] of the shape and kind in `info.input`: for example uint8 pixels from 0 to 255, never
    pixels that were divided by 255. Images may also have their channels last, and any size if the run has resized them.
    """

    info: ModelInfo
    """origin of the model, and the samples that it takes"""
    network: nn.Module
    """the trained module itself, which takes scaled samples"""
    extractor: bytes | None = None
    """ONNX graph whose features the model takes; None if it takes samples"""

    @property
    def module(self) -> RawInput:
        """A torch module from raw samples to logits, which shares its weights with this model and can be trained."""
        return RawInput(self.network, self.info)

    def logits(self, x: npt.ArrayLike, source: str = "x") -> Float32:
        """Return the logits of raw samples, float32 [n, C], with the bits that the run has measured.

        Args:
            x: samples [n, ...].
            source: the beginning of errors.

        Raises:
            UserError: for samples of another shape or in other units, such as pixels that were divided by 255.
        """
        samples, i = np.asarray(x), self.info
        if samples.shape[1:] != i.input.sample_shape:
            samples = model_layout(samples, i.channels_last, i.image_size, i.channels, source)
        scaled = model_input(samples, self.info.input, self.extractor, source, extract)
        learner = TorchLearner(self.network)
        with one_thread():
            return (learner if self.info.heads == 1 else DualHead(learner)).predict_logits(scaled)

    def probabilities(self, x: npt.ArrayLike) -> Float32:
        """Return the class probabilities of raw samples, float32 [n, C]: the softmax of `logits`."""
        return softmax(self.logits(x))

    def predict(self, x: npt.ArrayLike) -> npt.NDArray[Any]:
        """Return the label of each raw sample: its name if the data set names its classes, otherwise its number."""
        return self.labels(self.logits(x))

    def labels(self, scores: Float32) -> npt.NDArray[Any]:
        """Return the label with the highest score of each row of logits or probabilities, see `predict`."""
        numbers, names = scores.argmax(1), self.info.label_names
        return np.asarray(numbers if names is None else np.array(names)[numbers])

    def to_onnx(self, path: str | Path) -> Path:
        """Write one ONNX graph from raw samples `x` to `logits`, with scale and extractor in it; return its path.

        Raises:
            UserError: if the model has two heads or operators that cannot be exported, or `onnx` is not installed.
            RunError: if the file cannot be written.
        """
        require("export", "onnx")
        from edgefd.runs.whole_model import whole_graph

        if self.info.heads != 1:
            raise UserError("a model with two heads cannot be exported: use model.heads=1")
        with writing(Path(path)):
            put(Path(path), whole_graph(self.network, self.info.input, self.extractor), SHARED)
        return Path(path)

    def __repr__(self) -> str:
        i = self.info
        return f"<Model {i.model} of client {i.client}, {i.method} on {i.dataset}, round {i.round}>"


def load_trained(folder: Path, client: int, round: int | None = None, factory: Any = None) -> TrainedModel:
    """Return a model that a run folder keeps.

    Args:
        folder: the run folder; that of a baseline is RUN/also/METHOD.
        client: number of the client.
        round: round in which the model was evaluated (None = the newest that is kept).
        factory: the function that built the model, if the run got it as an object of a Python session.

    Raises:
        UserError: if the folder keeps no such model, or the module is not the one that was trained.
    """
    rounds = kept_rounds(folder)
    if not rounds:
        raise UserError(f"{folder} keeps no models: it is no run folder, was stopped early, or has run.keep=none")
    if round is not None and round not in rounds:
        raise UserError(f"{folder} keeps no models of round {round}, only of {', '.join(map(str, rounds))}")
    path = model_path(folder, rounds[-1] if round is None else round, client)
    if not path.exists():
        raise UserError(f"{folder} has no client {client}: its clients are 0 to {len(list(path.parent.iterdir())) - 1}")
    blob, info = read_model(path)
    if info is None:
        raise UserError(f"{path} does not say which model it is: the run was not made with this edgefd")
    if factory is None and info.model.startswith("object:"):
        raise UserError(f"{path} is a model of {info.model}, an object of a Python session: pass model=FUNCTION")
    expected = info.input
    network = build_model(factory or info.model, expected.shape, info.heads * expected.n_classes, info.seed)
    load_weights(network, blob, str(path), allow_missing=True)  # a graph of ONNX Runtime trains some tensors only
    return TrainedModel(info, network.eval(), _extractor(info, path))


def _extractor(info: ModelInfo, path: Path) -> bytes | None:
    """Return the extractor of a model.

    Raises:
        UserError: if it is another one than in the run.
    """
    if info.extractor is None:
        return None
    graph = extractor_graph(info.extractor, info.input.sample_shape, info.extractor_size)
    if hashlib.sha256(graph).hexdigest() != info.extractor_sha256:
        raise UserError(f"{path}: the extractor {info.extractor} is not the one of the run: it has changed since")
    return graph
