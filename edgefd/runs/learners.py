"""Build the learners of a run from its config."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn

from edgefd.config.schema import Config, Model
from edgefd.core.seeding import Purpose
from edgefd.core.shared_memory import shared_zeros
from edgefd.defences.dp_sgd import DpSgd
from edgefd.federation.clients import ClientData, Federation
from edgefd.learners.device import CPU, Device
from edgefd.learners.dual_head import DualHead
from edgefd.learners.learner import Learner
from edgefd.learners.models import build_model, is_foreign
from edgefd.learners.torch_learner import RecordedSteps, TorchLearner
from edgefd.runs.weights import load_initial

if TYPE_CHECKING:
    from edgefd.learners.onnx_learner import Sessions


def make_learner(
    config: Config,
    data: ClientData,
    n_classes: int,
    sessions: Callable[[Model], Sessions],
    device: Device = CPU,
) -> Learner:
    """Build the learner of a client; models are assigned round-robin.

    `sessions` returns the ONNX Runtime sessions of a model, created once for each model. A torch model is trained on
    `device`.
    """
    choice = config.model_of(data.client)
    model = initial_model(config, data, choice, n_classes)
    return _learner(config, choice, model, data.x.shape[1:], n_classes, sessions, device)


def initial_model(config: Config, data: ClientData, choice: Model, n_classes: int) -> nn.Module:
    """Build the model of a client with its initial parameters.

    With `train.initial=shared`, clients with the same model start from the same parameters, as devices start from those
    of their bundle. With `own`, each client's parameters are drawn from (seed, INITIAL, client). `model.init` replaces
    both.
    """
    own = (Purpose.INITIAL, data.client) if config.train.initial == "own" else ()
    return _initial(config, choice, data.x.shape[1:], choice.heads * n_classes, data.client, *own)


def trains_with_torch(config: Config, choice: Model) -> bool:
    """Return whether torch trains a model, and not ONNX Runtime."""
    return config.learner_of(choice) == "torch"


def fits_gpu(config: Config) -> bool:
    """Return whether a GPU can train the clients of a config: their models are of torch, without private gradients."""
    return all(trains_with_torch(config, choice) for choice in config.model) and not isinstance(config.defence, DpSgd)


def trained_model(config: Config, federation: Federation, client: int, weights: Mapping[str, np.ndarray]) -> nn.Module:
    """Return the model of a client with these weights (`edgefd.runs.record.weights_of`), in evaluation mode."""
    choice = config.model_of(client)
    n_logits = choice.heads * federation.n_classes
    model = build_model(config.factory(choice), federation.proxy.x.shape[1:], n_logits, config.seed)
    model.load_state_dict({name: torch.from_numpy(values) for name, values in weights.items()})
    return model.eval()


def server_learner(config: Config, federation: Federation) -> Learner:
    """Build the server's learner, for methods that have one: the config's first model, with the parameters of client 0.

    With `train.initial=own`, its parameters are drawn from the seed.
    """
    torch.set_num_threads(1)
    shape, choice, n_classes = federation.proxy.x.shape[1:], config.model[0], federation.n_classes
    model = _initial(config, choice, shape, choice.heads * n_classes, 0)
    return _learner(config, choice, model, shape, n_classes, model_sessions(config, federation))


def _initial(
    config: Config, choice: Model, shape: tuple[int, ...], n_logits: int, client: int, *keys: int
) -> nn.Module:
    """Build a model whose initial parameters are drawn from the seed of the run and `keys`, or those of `model.init`.

    `client` is the number of the client whose model `model.init` names in a run folder.
    """
    model = build_model(config.factory(choice), shape, n_logits, config.seed, *keys)
    load_initial(model, choice.init, client)
    return model


def _learner(
    config: Config,
    choice: Model,
    model: nn.Module,
    shape: tuple[int, ...],
    n_classes: int,
    sessions: Callable[[Model], Sessions],
    device: Device = CPU,
) -> Learner:
    learner: Learner
    train = config.train
    if trains_with_torch(config, choice):
        recorded_steps = None
        if not is_foreign(choice.name):
            recorded_steps = _recorded_steps(choice.name, shape, choice.heads * n_classes, device)
        learner = TorchLearner(
            model, train.optimizer, shared_zeros, recorded_steps, train.momentum, train.weight_decay, device
        )
    else:
        from edgefd.export.model_graphs import initial_arrays
        from edgefd.learners.onnx_learner import OnnxLearner

        initial = initial_arrays(model, train.optimizer)
        learner = OnnxLearner(sessions(choice), initial, shared_zeros, train.momentum, train.weight_decay)
    return learner if choice.heads == 1 else DualHead(learner)


@functools.cache
def _recorded_steps(name: str, shape: tuple[int, ...], n_logits: int, device: Device) -> RecordedSteps:
    """Return the recorded training steps of a model, shared by all learners of this process."""
    return {}


def model_sessions(config: Config, federation: Federation) -> Callable[[Model], Sessions]:
    """Return a function from a model to the sessions of its exported graphs; each model is exported once."""

    @functools.cache
    def sessions(choice: Model) -> Sessions:  # workers open them after the fork
        from edgefd.export.model_graphs import export_graphs
        from edgefd.learners.onnx_learner import Sessions

        shape, n_logits = federation.proxy.x.shape[1:], choice.heads * federation.n_classes
        model = build_model(config.factory(choice), shape, n_logits, config.seed)  # whose frozen tensors are constants
        return Sessions(export_graphs(model, config.train.optimizer, config.train.largest_batch, shape, n_logits))

    return sessions
