"""`TorchLearner`: the training step in torch. The project has no other training loop."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim.adam import adam
from torch.optim.sgd import sgd

from edgefd.core.arrays import Float32
from edgefd.learners.batches import AnchoredBatch, Batch
from edgefd.learners.device import CPU, Device
from edgefd.learners.learner import Proximal
from edgefd.learners.noise import CounterMasks, seeded
from edgefd.learners.optimizer import BETAS, EPS, MOMENTUM, SLOTS
from edgefd.learners.step_recorder import StepReplay, record
from edgefd.learners.tensor_block import Buffers, placed, space
from edgefd.learners.training_step import (
    Anchors,
    check_finite,
    denormals_are_zero,
    embeddings_of,
    loss_and_gradients,
    normalisations,
)

RecordedSteps = dict[torch.Size, StepReplay]
"""Recorded training steps by the shape of their batch, shared by all learners of a model."""

_PREDICT_ROWS = 256  # larger batches fall out of cache
_NO_MASKS = nullcontext()


def zeros(shape: tuple[int, ...]) -> Float32:
    """Allocate zeros in the memory of this process."""
    return np.zeros(shape, np.float32)


class TorchLearner:
    """A torch module that is trained with weighted soft cross-entropy. See `edgefd.learners.learner.Learner`.

    A batch of one row has no statistics, so layers of batch normalisation use their running statistics for it.

    Args:
        model: the module; its tensors are moved into the block of memory. Parameters that need no gradient stay as
            they are.
        optimizer: "sgd" or "adam".
        allocate: creates the block of memory that holds parameters and optimizer state; a simulation passes shared
            memory, so that forked processes see each other's changes.
        recorded_steps: steps recorded by `edgefd.learners.step_recorder`, which have the same bits and take less time;
            the learner adds new ones. None: every step goes through autograd. This is necessary if the forward pass
            reads values of tensors or draws random numbers outside torch.
        momentum: of SGD; 0 = none.
        weight_decay: factor of the parameters that is added to their gradients, as in `torch.optim`.
        device: where the model is trained; on a GPU, the block is in its memory and `allocate` is not used.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: str = "sgd",
        allocate: Callable[[tuple[int, ...]], Float32] = zeros,
        recorded_steps: RecordedSteps | None = None,
        momentum: float = MOMENTUM,
        weight_decay: float = 0.0,
        device: Device = CPU,
    ) -> None:
        self.model = model.to(device.torch)
        self._device = device
        self._adam = optimizer == "adam"
        self._momentum, self._weight_decay = momentum, weight_decay
        trained = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
        self._names = [name for name, _ in trained]
        self._parameters: list[Tensor] = [p for _, p in trained]
        self._recorded_steps = recorded_steps
        self._noise: tuple[int, ...] = (0,)
        self._n_trained = 0
        """calls of `train` since the last `set_noise`"""
        self._normalisations = normalisations(model.train())
        model.eval()
        in_block = [*model.parameters(), *model.buffers()]
        with torch.no_grad():
            for tensor in in_block:
                if tensor.ndim == 4:
                    tensor.data = tensor.contiguous(memory_format=torch.channels_last)  # faster on a CPU
        in_block.sort(key=lambda tensor: tensor.dtype != torch.float32)  # a stable sort
        slots = SLOTS[optimizer]
        steps = [torch.zeros(()) for _ in self._parameters]
        block, in_memory = placed([*in_block, *(self._parameters * len(slots)), *steps], allocate, device.torch)
        places = iter(in_memory)
        with torch.no_grad():
            for tensor in in_block:
                tensor.data = next(places).copy_(tensor)
        self._in_block = in_block
        self._buffers = Buffers(model)
        self._weights = block[: sum(space(tensor) for tensor in in_block if tensor.dtype == torch.float32) // 4]
        self._slots = {slot: [next(places) for _ in self._parameters] for slot in slots}
        self._steps = list(places)

    def set_noise(self, *keys: int) -> None:
        """Set the keys of the random numbers that the module draws. See `edgefd.learners.learner.Learner`."""
        self._noise, self._n_trained = keys, 0

    def train(self, batches: Iterable[Batch], lr: float, proximal: Proximal | None = None) -> float:
        """Make one step per batch. Return the mean loss, without the proximal term.

        Raises:
            RunError: if the loss or the weights are not finite.
        """
        self.model.train()
        self._n_trained += 1
        pull = None if proximal is None else (proximal.mu, self._centre(proximal))
        with self._device.arithmetic(), self._seeded(self._n_trained), denormals_are_zero():
            losses = [self._step(batch, i, lr, pull) for i, batch in enumerate(batches)]
        self.model.eval()
        self._buffers.keep_new_values()
        if not losses:
            return 0.0
        mean = float(torch.stack(losses).mean())
        total = float(self._weights.sum())  # 30 times as fast as isfinite().all()
        total += sum(float(p.detach().sum()) for p in self._parameters if p.dtype != torch.float32)
        check_finite(mean, total)
        return mean

    def step(self, gradients: list[Tensor], lr: float) -> None:
        """Make one optimizer step with given gradients, in the order of the parameters that are trained."""
        self._update(gradients, lr)
        self._buffers.keep_new_values()

    def distil(self, batches: Iterable[Batch], lr: float, n_private: int) -> float:
        """Train on rows of the teacher and private rows alike. See `edgefd.learners.learner.Learner`."""
        return self.train(batches, lr)

    def predict_logits(self, x: Float32) -> Float32:
        """Return the logits of samples, float32 [n, C]."""
        with self._predicting():
            parts = [self.model(self._input(x[i : i + _PREDICT_ROWS])) for i in range(0, len(x), _PREDICT_ROWS)]
            out: Float32 = torch.cat(parts).float().cpu().numpy()
        self._buffers.drop_new_values()
        return out

    def embed(self, x: Float32) -> Float32:
        """Return the embeddings of samples. See `edgefd.learners.learner.EmbeddingLearner`."""
        with self._predicting(), embeddings_of(self.model) as parts:
            for i in range(0, len(x), _PREDICT_ROWS):
                self.model(self._input(x[i : i + _PREDICT_ROWS]))
            out: Float32 = torch.cat(parts).float().cpu().numpy()
        self._buffers.drop_new_values()
        return out

    def state(self) -> dict[str, np.ndarray]:
        """Return parameters and buffers as `model/...` and optimizer tensors as `optimizer/...`, in C order."""
        return {name: np.array(tensor.cpu().numpy(), order="C") for name, tensor in self._tensors().items()}

    def load_state(self, state: dict[str, np.ndarray]) -> None:
        """Restore a state that `state()` of any learner of this model returned."""
        with torch.no_grad():
            for name, tensor in self._tensors().items():
                tensor.copy_(torch.from_numpy(state[name]))
            for step in self._steps[1:]:
                step.copy_(self._steps[0])

    def _tensors(self) -> dict[str, Tensor]:
        out = {f"model/{name}": tensor.detach() for name, tensor in self.model.state_dict().items()}
        for slot, tensors in self._slots.items():
            out |= {f"optimizer/{slot}/{name}": t for name, t in zip(self._names, tensors, strict=True)}
        return out | ({"optimizer/step": self._steps[0]} if self._adam else {})

    def _centre(self, proximal: Proximal) -> list[Tensor]:
        """Return the trained parameters of the centre, in the memory order of those of the model."""
        arrays = (torch.from_numpy(proximal.centre[f"model/{name}"]) for name in self._names)
        return [torch.empty_like(p).copy_(a) for p, a in zip(self._parameters, arrays, strict=True)]

    def _step(self, batch: Batch, number: int, lr: float, pull: tuple[float, list[Tensor]] | None) -> Tensor:
        data = (self._input(batch.x), self._tensor(batch.targets), self._tensor(batch.weights))
        for layer in self._normalisations:
            layer.train(len(batch) > 1)
        if isinstance(batch, AnchoredBatch) or self._recorded_steps is None:
            anchored = batch if isinstance(batch, AnchoredBatch) else None
            masks = CounterMasks((*self._noise, self._n_trained, number))
            loss, *gradients = self._loss_and_gradients(*data, anchored, masks)
        else:
            loss, *gradients = self._replayed(self._recorded_steps, *data)
        if pull is not None:
            mu, centre = pull
            with torch.no_grad():
                gradients = [g + mu * (p - c) for g, p, c in zip(gradients, self._parameters, centre, strict=True)]
        self._update(gradients, lr)
        return loss

    def _seeded(self, key: int) -> AbstractContextManager[None]:
        """Seed the generators that the module draws from; recorded steps, which edgefd's own models have, draw none."""
        draws = self._recorded_steps is None
        return seeded(*self._noise, key, device=self._device.torch) if draws else nullcontext()

    @contextmanager
    def _predicting(self) -> Iterator[None]:
        with torch.inference_mode(), self._device.arithmetic(), self._seeded(0), self._device.autocast():
            yield

    def _input(self, x: Float32) -> Tensor:
        """Return samples on the device, in the memory order of the models."""
        return tensor_of(x).to(self._device.torch)

    def _tensor(self, array: Float32) -> Tensor:
        return torch.from_numpy(array).to(self._device.torch)

    def _loss_and_gradients(
        self,
        x: Tensor,
        targets: Tensor,
        weights: Tensor,
        anchored: AnchoredBatch | None = None,
        masks: AbstractContextManager[object] = _NO_MASKS,
    ) -> list[Tensor]:
        """Return the loss and its gradient with respect to each parameter."""
        collect: AbstractContextManager[list[Tensor]] = embeddings_of(self.model) if anchored else nullcontext([])
        with collect as caught, masks, self._device.autocast():
            logits = self.model(x).float()
        if anchored is None or not caught[0].requires_grad:
            return loss_and_gradients([logits], self._parameters, targets, weights)
        anchors = Anchors(self._tensor(anchored.anchors), self._tensor(anchored.pulled), anchored.strength)
        return loss_and_gradients([logits, caught[0]], self._parameters, targets, weights, anchors)

    def _replayed(self, recorded_steps: RecordedSteps, x: Tensor, targets: Tensor, weights: Tensor) -> list[Tensor]:
        """Return the same from a recorded step. The first batch of each shape records it."""
        inputs = (*self._in_block, x, targets, weights)
        if (replay := recorded_steps.get(x.shape)) is not None:
            with torch.inference_mode():
                return replay(*inputs)
        out, recorded_steps[x.shape] = record(lambda: self._loss_and_gradients(x, targets, weights), inputs)
        return out

    @torch.no_grad()
    def _update(self, gradients: list[Tensor], lr: float) -> None:
        if self._adam:
            first, second = self._slots.values()
            adam(
                self._parameters, gradients, first, second, [], self._steps,
                fused=True, amsgrad=False, beta1=BETAS[0], beta2=BETAS[1], lr=lr, weight_decay=self._weight_decay,
                eps=EPS, maximize=False,
            )  # fmt: skip
        else:
            (momentum,) = self._slots.values()
            buffers: list[Tensor | None] = [*momentum]
            sgd(
                self._parameters, gradients, buffers,
                fused=True, weight_decay=self._weight_decay, momentum=self._momentum, lr=lr, dampening=0.0,
                nesterov=False, maximize=False,
            )  # fmt: skip


@contextmanager
def one_thread() -> Iterator[None]:
    """Let torch use one thread until the context ends.

    More threads round otherwise, which changes bits and can decide a tie of a pooling. On shared cores, they also take
    more time.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def tensor_of(x: Float32) -> Tensor:
    """Return rows as a tensor in the memory order of the models: channels_last for images."""
    tensor = torch.from_numpy(np.ascontiguousarray(x))
    return tensor.contiguous(memory_format=torch.channels_last) if tensor.ndim == 4 else tensor
