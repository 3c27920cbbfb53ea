"""`TorchLearner`: the training step in torch. The project has no other training loop."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim.adam import adam
from torch.optim.sgd import sgd

from edgefd.core.arrays import Float32
from edgefd.core.errors import RunError
from edgefd.learners.batches import AnchoredBatch, Batch
from edgefd.learners.learner import Proximal
from edgefd.learners.noise import CounterMasks, seeded
from edgefd.learners.optimizer import BETAS, EPS, MOMENTUM, SLOTS
from edgefd.learners.step_recorder import StepReplay, record
from edgefd.learners.tensor_block import Buffers, placed, space

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
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: str = "sgd",
        allocate: Callable[[tuple[int, ...]], Float32] = zeros,
        recorded_steps: RecordedSteps | None = None,
        momentum: float = MOMENTUM,
        weight_decay: float = 0.0,
    ) -> None:
        self.model = model
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
        block, in_memory = placed([*in_block, *(self._parameters * len(slots)), *steps], allocate)
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
        with self._seeded(self._n_trained), _denormals_are_zero():
            losses = [self._step(batch, i, lr, pull) for i, batch in enumerate(batches)]
        self.model.eval()
        self._buffers.keep_new_values()
        if not losses:
            return 0.0
        mean = float(torch.stack(losses).mean())
        total = float(self._weights.sum())  # 30 times as fast as isfinite().all()
        total += sum(float(p.detach().sum()) for p in self._parameters if p.dtype != torch.float32)
        if not (math.isfinite(mean) and math.isfinite(total)):
            raise RunError("a training step gave numbers that are not finite: set a smaller train.lr")
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
        with torch.inference_mode(), self._seeded(0):
            parts = [self.model(tensor_of(x[i : i + _PREDICT_ROWS])) for i in range(0, len(x), _PREDICT_ROWS)]
            out: Float32 = torch.cat(parts).float().numpy()
        self._buffers.drop_new_values()
        return out

    def embed(self, x: Float32) -> Float32:
        """Return the embeddings of samples. See `edgefd.learners.learner.EmbeddingLearner`."""
        with torch.inference_mode(), self._seeded(0), self._embeddings() as parts:
            for i in range(0, len(x), _PREDICT_ROWS):
                self.model(tensor_of(x[i : i + _PREDICT_ROWS]))
            out: Float32 = torch.cat(parts).float().numpy()
        self._buffers.drop_new_values()
        return out

    def state(self) -> dict[str, np.ndarray]:
        """Return parameters and buffers as `model/...` and optimizer tensors as `optimizer/...`, in C order."""
        return {name: np.array(tensor.numpy(), order="C") for name, tensor in self._tensors().items()}

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
        data = (tensor_of(batch.x), torch.from_numpy(batch.targets), torch.from_numpy(batch.weights))
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
        return seeded(*self._noise, key) if self._recorded_steps is None else nullcontext()

    def _loss_and_gradients(
        self,
        x: Tensor,
        targets: Tensor,
        weights: Tensor,
        anchored: AnchoredBatch | None = None,
        masks: AbstractContextManager[object] = _NO_MASKS,
    ) -> list[Tensor]:
        """Return the loss and its gradient with respect to each parameter."""
        collect: AbstractContextManager[list[Tensor]] = self._embeddings() if anchored else nullcontext([])
        with collect as caught, masks:
            outputs = [self.model(x).float()]
        with torch.no_grad():
            loss, by_logits = _cross_entropy(outputs[0], targets, weights)
            by_outputs = [by_logits]
            if anchored and caught[0].requires_grad:
                gap = (caught[0] - torch.from_numpy(anchored.anchors)) * torch.from_numpy(anchored.pulled)[:, None]
                loss = loss + anchored.strength * gap.square().mean()
                by_outputs.append(2 * anchored.strength / gap.numel() * gap)
                outputs.append(caught[0])
        gradients = torch.autograd.grad(
            outputs, self._parameters, by_outputs, allow_unused=True, materialize_grads=True
        )
        return [loss, *gradients]

    @contextmanager
    def _embeddings(self) -> Iterator[list[Tensor]]:
        """Collect the inputs of the last linear layer, in the order of the forward passes.

        Raises:
            RunError: if the model has no linear layer.
        """
        layers = [module for module in self.model.modules() if isinstance(module, nn.Linear)]
        if not layers:
            raise RunError("the model has no linear layer, so it has no embeddings")
        caught: list[Tensor] = []
        hook = layers[-1].register_forward_pre_hook(lambda _, inputs: caught.append(inputs[0].flatten(1)))
        try:
            yield caught
        finally:
            hook.remove()

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


@contextmanager
def _denormals_are_zero() -> Iterator[None]:
    """Treat numbers below 1.2e-38 as 0 in this thread, if the processor supports it.

    Runs use one thread. The momentum of units that are no longer active decays to such numbers: a third of all after
    500 steps on MNIST. They make a step of Adam four times as slow, and they are too small to change a weight.
    """
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(False)


def normalisations(model: nn.Module) -> list[nn.Module]:
    """Return the layers of batch normalisation of a module in training mode that use the statistics of a batch.

    A module whose method `train` keeps such a layer in evaluation mode has frozen the statistics of the layer.
    """
    return [layer for layer in model.modules() if layer.training and _normalises_batches(layer)]


def _normalises_batches(module: nn.Module) -> bool:
    """Return whether the module is a layer of batch normalisation, which may be scripted."""
    name = getattr(module, "original_name", "")
    return isinstance(module, nn.modules.batchnorm._BatchNorm) or name in ("BatchNorm1d", "BatchNorm2d", "BatchNorm3d")


def _cross_entropy(logits: Tensor, targets: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """Return weighted soft cross-entropy and its gradient with respect to the logits.

    The rows of the gradient are w_i (softmax(z_i) - t_i) / sum_i w_i.
    """
    shares = weights / weights.sum().clamp(min=1e-8)
    log_p = torch.log_softmax(logits, 1)
    loss = -(log_p * targets).sum(1).dot(shares)
    return loss, log_p.exp_().sub_(targets).mul_(shares[:, None])


def tensor_of(x: Float32) -> Tensor:
    """Return rows as a tensor in the memory order of the models: channels_last for images."""
    tensor = torch.from_numpy(np.ascontiguousarray(x))
    return tensor.contiguous(memory_format=torch.channels_last) if tensor.ndim == 4 else tensor
