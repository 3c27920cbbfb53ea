"""`StackedModel`: the models of many clients of one architecture, which make their training steps as one batched step.

The trained parameters of all clients are one matrix [K, P], and so is each moment of the optimizer. A step is the same
as that of `edgefd.learners.torch_learner`: the module runs under `torch.vmap`, the loss and its gradients are those of
`edgefd.learners.training_step`, and the update is that of `edgefd.learners.optimizer`. Rows that fill up a shorter
batch have weight 0. Clients that are not in a step keep their parameters and their moments to the bit.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.func import functional_call
from torch.nn.attention import SDPBackend, sdpa_kernel

from edgefd.core.arrays import Float32
from edgefd.learners.batches import AnchoredBatch, Batch
from edgefd.learners.device import CPU, Device
from edgefd.learners.optimizer import MOMENTUM, SLOTS, adam_corrections, adam_step, sgd_step
from edgefd.learners.resident_rows import same_rows
from edgefd.learners.resident_samples import ResidentSamples
from edgefd.learners.training_step import (
    Anchors,
    denormals_are_zero,
    embeddings_of,
    loss_and_gradients,
    normalisations,
)

_MOST_ROWS = 32_768
"""rows of all clients together in one forward pass of a prediction, at most"""
_LEAST_ROWS = 64
"""rows of one client in it, at least"""


@dataclass(frozen=True, eq=False)
class Step:
    """One training step of one client."""

    client: int
    """position of the client in the stack"""
    batch: Batch
    lr: float
    mu: float = 0.0
    """factor of the proximal term"""
    centre: Tensor | None = None
    """centre of the proximal term, [P]; None = no such term"""


Loss = tuple[Tensor, int]
"""losses of the clients of a step, on the device, and the position of one client in them"""
Places = slice | Tensor
"""positions of clients in a stack: a slice, whose tensors are views, or an index, whose tensors are copies"""


class StackedModel:
    """Models, optimizers and training steps of K clients of one architecture.

    Args:
        model: the module, which is copied; `place` sets the parameters of each client.
        n_clients: K.
        optimizer: "sgd" or "adam".
        momentum: of SGD; 0 = none.
        weight_decay: factor of the parameters that is added to their gradients.
        device: where the stack is.
        samples: the samples that are in the memory of the device (None = none).

    Raises:
        TypeError: if the trained parameters are not of one type.
    """

    def __init__(
        self,
        model: nn.Module,
        n_clients: int,
        optimizer: str = "sgd",
        momentum: float = MOMENTUM,
        weight_decay: float = 0.0,
        device: Device = CPU,
        samples: ResidentSamples | None = None,
    ) -> None:
        self.model = copy.deepcopy(model).to(device.torch)
        self.device = device
        self._adam = optimizer == "adam"
        self._momentum, self._weight_decay = momentum, weight_decay
        trained = {name: p for name, p in self.model.named_parameters() if p.requires_grad}
        dtypes = {p.dtype for p in trained.values()}
        if len(dtypes) > 1:
            raise TypeError("its trained parameters have several types")
        self._shapes = {name: p.shape for name, p in trained.items()}
        self._sizes = [math.prod(shape) for shape in self._shapes.values()]
        self._weights = torch.zeros(n_clients, sum(self._sizes), dtype=dtypes.pop(), device=device.torch)
        self._moments = {slot: torch.zeros_like(self._weights) for slot in SLOTS[optimizer]}
        self._n_steps = np.zeros(n_clients)  # float64, see `adam_corrections`
        others = {**dict(self.model.named_parameters()), **dict(self.model.named_buffers())}
        self._others = {
            name: tensor.detach().expand(n_clients, *tensor.shape).clone()
            for name, tensor in others.items()
            if name not in trained
        }
        by_identity = {id(tensor): name for name, tensor in others.items()}
        self._state_names = {
            name: by_identity[id(tensor)] for name, tensor in self.model.state_dict(keep_vars=True).items()
        }
        self._normalisations = normalisations(self.model.train())
        self._samples = samples
        self.rows_at_once = _MOST_ROWS
        """rows of all clients together in one forward pass of a prediction"""

    @property
    def mixes_rows(self) -> bool:
        """Whether a batch must not be filled up, because layers use the statistics of its rows."""
        return bool(self._normalisations)

    def place(self, client: int, model: nn.Module) -> None:
        """Set the parameters and buffers of a client to those of a module of the same architecture."""
        tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
        with torch.no_grad():
            self._weights[client] = torch.cat([tensors[name].reshape(-1) for name in self._shapes])
            for name, stack in self._others.items():
                stack[client] = tensors[name]

    def step(self, steps: list[Step]) -> list[Loss]:
        """Make one training step of each of these clients, which are distinct. Return their losses."""
        places = self._places([step.client for step in steps])
        batches = [step.batch for step in steps]
        x = self._gather([batch.x for batch in batches])
        targets, weights = (self._stack([getattr(b, name) for b in batches]) for name in ("targets", "weights"))
        self.model.train()
        for layer in self._normalisations:
            layer.train(x.shape[1] > 1)
        theta, others = self._weights[places], {name: stack[places] for name, stack in self._others.items()}
        leaf = theta.detach().requires_grad_()
        first = batches[0]
        anchored = first if isinstance(first, AnchoredBatch) else None
        with self._arithmetic(), denormals_are_zero():
            outputs = self._forward(leaf, others, x, embeddings=anchored is not None)
            anchors = None if anchored is None or not outputs[1].requires_grad else self._anchors(batches)
            outputs = outputs[:1] if anchors is None else outputs
            loss, gradient = loss_and_gradients(outputs, [leaf], targets, weights, anchors, stacked=True)
            self._update(steps, places, theta, gradient)
        if isinstance(places, Tensor):
            self._weights[places] = theta
            for name, stack in self._others.items():
                stack[places] = others[name]
        return [(loss, i) for i in range(len(steps))]

    def mean_losses(self, of_clients: list[tuple[int, list[Loss]]]) -> list[tuple[float, float]]:
        """Return the mean of the losses of each client, and the sum of its weights, which is finite if all are."""
        losses = list({id(loss): loss for _, each in of_clients for loss, _ in each}.values())
        starts = dict(zip(map(id, losses), np.cumsum([0, *map(len, losses)]).tolist(), strict=False))
        places = self._places([client for client, _ in of_clients])
        n_sums = len(of_clients)
        numbers = torch.cat([self._weights[places].sum(1), *losses]).cpu().numpy()
        return [
            (float(np.mean([numbers[n_sums + starts[id(loss)] + i] for loss, i in each])), float(numbers[k]))
            for k, (_, each) in enumerate(of_clients)
        ]

    def predict(self, requests: list[tuple[int, Float32]]) -> list[Float32]:
        """Return the logits of samples of each of these clients, float32 [n, C]."""
        return self._outputs(requests, 0)

    def embed(self, requests: list[tuple[int, Float32]]) -> list[Float32]:
        """Return the embeddings of samples of each of these clients, float32 [n, E]."""
        return self._outputs(requests, 1)

    def state(self, client: int) -> dict[str, np.ndarray]:
        """Return the state of a client, with the names and shapes of `TorchLearner.state`."""
        model = self._split(self._weights[client]) | {
            n: stack[client].cpu().numpy() for n, stack in self._others.items()
        }
        out = {f"model/{name}": model[source].copy() for name, source in self._state_names.items()}
        for slot, moments in self._moments.items():
            out |= {f"optimizer/{slot}/{name}": value.copy() for name, value in self._split(moments[client]).items()}
        return out | ({"optimizer/step": np.array(self._n_steps[client], np.float32)} if self._adam else {})

    def load_state(self, client: int, state: dict[str, np.ndarray]) -> None:
        """Restore a state of a client."""
        names = {source: f"model/{name}" for name, source in self._state_names.items()}
        with torch.no_grad():
            self._weights[client] = self.centre(state)
            for name, stack in self._others.items():
                if name in names:
                    stack[client] = torch.from_numpy(np.ascontiguousarray(state[names[name]]))
            for slot, moments in self._moments.items():
                moments[client] = self.row({name: state[f"optimizer/{slot}/{name}"] for name in self._shapes})
        if self._adam:
            self._n_steps[client] = float(state["optimizer/step"])

    def row(self, parameters: dict[str, np.ndarray]) -> Tensor:
        """Return trained parameters, or values of their shapes, by name, as a row of the stack: [P] on the device."""
        flat = torch.from_numpy(np.concatenate([parameters[name].reshape(-1) for name in self._shapes]))
        return flat.to(self._weights.device)

    def centre(self, state: dict[str, np.ndarray]) -> Tensor:
        """Return the trained parameters of a state as a row of the stack."""
        names = {source: f"model/{name}" for name, source in self._state_names.items()}
        return self.row({name: state[names[name]] for name in self._shapes})

    def fit(self, x: Float32, free_bytes: int) -> int:
        """Return how many clients fit into memory in a training step on batches like `x`; bound predictions too."""
        per_client = self.bytes_per_client(x)
        self.rows_at_once = max(1, min(_MOST_ROWS, free_bytes * len(x) // per_client))
        return max(1, free_bytes // per_client)

    def bytes_per_client(self, x: Float32) -> int:
        """Return about how much memory a training step of one client takes besides its state, for a batch like `x`."""
        saved = 0

        def count(tensor: Tensor) -> Tensor:
            nonlocal saved
            saved += tensor.nbytes
            return tensor

        self.model.train()
        leaf = self._weights[:1].detach().requires_grad_()
        others = {name: stack[:1].clone() for name, stack in self._others.items()}
        with self._arithmetic(), saved_tensors_hooks(count, lambda tensor: tensor):
            self._forward(leaf, others, torch.zeros(1, *x.shape, device=self.device.torch))
        return 3 * (saved + self._weights[0].nbytes)  # the forward pass, its gradients, and those of the optimizer

    def _forward(
        self, weights: Tensor, others: dict[str, Tensor], x: Tensor, shared: bool = False, embeddings: bool = False
    ) -> list[Tensor]:
        """Return the logits [k, n, C] of k clients, and with `embeddings` the inputs of their last linear layers.

        `x` is [k, n, ...], or [n, ...] if it is `shared` by all clients. Buffers in `others` are changed in place.
        """
        parts = torch.split(weights, self._sizes, 1)
        parameters = {
            name: part.reshape(-1, *shape) for (name, shape), part in zip(self._shapes.items(), parts, strict=True)
        }

        def of_one(parameters: dict[str, Tensor], others: dict[str, Tensor], x: Tensor) -> tuple[Tensor, ...]:
            catch: AbstractContextManager[list[Tensor]] = embeddings_of(self.model) if embeddings else nullcontext([])
            with catch as caught, self.device.autocast():
                logits: Tensor = functional_call(self.model, {**parameters, **others}, (x,))
            return (logits.float(), *(each.float() for each in caught))

        return list(torch.vmap(of_one, (0, 0, None if shared else 0))(parameters, others, x))

    def _update(self, steps: Sequence[Step], places: Places, theta: Tensor, gradient: Tensor) -> None:
        """Make the optimizer step of these clients; `theta` is changed in place."""
        clients = [step.client for step in steps]
        self._n_steps[clients] += 1
        c1, c2 = adam_corrections(self._n_steps[clients])
        lr, mu = (np.array([getattr(step, name) for step in steps]) for name in ("lr", "mu"))
        rate, root, plain, pull = (self._column(a) for a in (lr / c1, np.sqrt(c2), lr, mu))
        with torch.no_grad():
            if (centres := [step.centre for step in steps if step.centre is not None]) and len(centres) == len(steps):
                gradient = gradient + pull * (theta - torch.stack(centres))
            if self._weight_decay:
                gradient = gradient + self._weight_decay * theta
            moments = [stack[places] for stack in self._moments.values()]
            if self._adam:
                adam_step(theta, moments[0], moments[1], gradient, rate, root)
            else:
                sgd_step(theta, moments[0], gradient, plain, self._momentum)
            if isinstance(places, Tensor):
                for stack, moment in zip(self._moments.values(), moments, strict=True):
                    stack[places] = moment

    def _outputs(self, requests: list[tuple[int, Float32]], which: int) -> list[Float32]:
        places = self._places([client for client, _ in requests])
        arrays = [x for _, x in requests]
        shared = all(same_rows(x, arrays[0]) for x in arrays)
        n = max(map(len, arrays))
        size = max(_LEAST_ROWS, self.rows_at_once // len(requests))
        self.model.eval()
        weights, others = self._weights[places], {name: stack[places] for name, stack in self._others.items()}
        parts = []
        with torch.no_grad(), self._arithmetic():
            for start in range(0, max(n, 1), size):
                blocks = [x[start : start + size] for x in (arrays[:1] if shared else arrays)]
                x = self._gather(blocks)
                parts.append(self._forward(weights, others, x[0] if shared else x, shared, which == 1)[which])
            out = torch.cat(parts, 1).cpu().numpy()
        return [np.array(each[: len(x)]) for each, x in zip(out, arrays, strict=True)]

    @contextmanager
    def _arithmetic(self) -> Iterator[None]:
        """Set the arithmetic of the device, and attention as plain products, because `torch.vmap` loops over others."""
        mha = torch.backends.mha
        before = mha.get_fastpath_enabled()
        mha.set_fastpath_enabled(False)
        try:
            with self.device.arithmetic(), sdpa_kernel(SDPBackend.MATH):
                yield
        finally:
            mha.set_fastpath_enabled(before)

    def _places(self, clients: Sequence[int]) -> Places:
        first = clients[0]
        if list(clients) == list(range(first, first + len(clients))):
            return slice(first, first + len(clients))
        return torch.tensor(clients, device=self.device.torch)

    def _gather(self, arrays: Sequence[Float32]) -> Tensor:
        """Return samples of k clients as [k, n, ...] on the device, filled up with rows that count nothing."""
        if self._samples is not None and (x := self._samples.gather(arrays)) is not None:
            return x
        return self._stack([np.asarray(x) for x in arrays])

    def _stack(self, arrays: Sequence[Float32]) -> Tensor:
        """Return arrays [n_i, ...] as one tensor [k, n, ...] on the device, filled up with zeros."""
        out: Float32 = np.zeros((len(arrays), max(map(len, arrays)), *arrays[0].shape[1:]), np.float32)
        for row, array in zip(out, arrays, strict=True):
            row[: len(array)] = array
        return torch.from_numpy(out).to(self.device.torch)

    def _anchors(self, batches: Sequence[Batch]) -> Anchors:
        anchored = [batch for batch in batches if isinstance(batch, AnchoredBatch)]
        anchors, pulled = (self._stack([getattr(b, name) for b in anchored]) for name in ("anchors", "pulled"))
        return Anchors(anchors, pulled, anchored[0].strength)

    def _column(self, values: np.ndarray) -> Tensor:
        return torch.from_numpy(values).to(self._weights.dtype).to(self._weights.device)[:, None]

    def _split(self, row: Tensor) -> dict[str, np.ndarray]:
        parts = np.split(row.cpu().numpy(), np.cumsum(self._sizes)[:-1])
        return {name: part.reshape(shape) for (name, shape), part in zip(self._shapes.items(), parts, strict=True)}
