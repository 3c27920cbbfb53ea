"""`TorchLearner`: the training step in torch. There is no other training loop in the project."""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim.adam import adam
from torch.optim.sgd import sgd

from edgefd.core.arrays import Float32
from edgefd.core.errors import RunError
from edgefd.learners.batches import Batch
from edgefd.learners.step_recorder import StepReplay, record

RecordedSteps = dict[torch.Size, StepReplay]
"""Training steps by the shape of their batch, shared by all learners of a model."""

MOMENTUM = 0.9
BETAS = (0.9, 0.999)
EPS = 1e-8

_PREDICT_ROWS = 256  # larger batches fall out of cache
_LINE = 16  # tensors begin at multiples of 64 bytes
_SLOTS = {"sgd": ("momentum_buffer",), "adam": ("exp_avg", "exp_avg_sq")}


def zeros(shape: tuple[int, ...]) -> Float32:
    """Memory of this process."""
    return np.zeros(shape, np.float32)


class TorchLearner:
    """A torch module that trains by weighted soft cross-entropy. See `edgefd.learners.learner.Learner`.

    Args:
        model: the module; its tensors are moved.
        optimizer: "sgd" (momentum 0.9) or "adam".
        allocate: makes the block of memory that holds parameters and optimizer state; a simulation passes shared
            memory, so that forked processes see each other's changes.
        tapes: where recorded steps are kept (`edgefd.learners.step_recorder`: the same bits in less time). None: every step goes through
            autograd, as a module must whose forward pass looks at numbers or draws some outside torch.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: str = "sgd",
        allocate: Callable[[tuple[int, ...]], Float32] = zeros,
        recorded_steps: RecordedSteps | None = None,
    ) -> None:
        self.model = model.to(memory_format=torch.channels_last).eval()  # type: ignore[call-overload]  # faster on a CPU
        self._adam = optimizer == "adam"
        self._names = [name for name, _ in model.named_parameters()]
        self._parameters: list[Tensor] = list(model.parameters())
        self._recorded_steps = recorded_steps
        held = [*self._parameters, *(b for b in model.buffers() if b.dtype == torch.float32)]
        slots = _SLOTS[optimizer]
        steps = [torch.zeros(()) for _ in self._parameters]
        block, placed = _placed([*held, *(self._parameters * len(slots)), *steps], allocate)
        with torch.no_grad():
            for tensor in held:
                tensor.data = next(placed).copy_(tensor)
        self._held = held
        self._weights = block[: sum(_space(tensor) for tensor in held)]
        self._slots = {slot: [next(placed) for _ in self._parameters] for slot in slots}
        self._steps = list(placed)

    def train(self, batches: Iterable[Batch], lr: float) -> float:
        """One step a batch; mean loss.

        Raises:
            RunError: when loss or weights have stopped being finite.
        """
        self.model.train()
        with torch.random.fork_rng(devices=[]), _denormals_are_zero():
            losses = [self._step(batch, lr) for batch in batches]
        self.model.eval()
        if not losses:
            return 0.0
        mean = float(torch.stack(losses).mean())
        total = float(self._weights.sum())  # 30 times as fast as isfinite().all()
        if not (math.isfinite(mean) and math.isfinite(total)):
            raise RunError("a training step gave numbers that are not finite: try a smaller train.lr")
        return mean

    def step(self, gradients: list[Tensor], lr: float) -> None:
        """One step of the optimizer with gradients made elsewhere, in the order of the module's parameters."""
        self._update(gradients, lr)

    def predict_logits(self, x: Float32) -> Float32:
        """Logits, float32 [n, C]."""
        with torch.inference_mode():
            parts = [self.model(tensor_of(x[i : i + _PREDICT_ROWS])) for i in range(0, len(x), _PREDICT_ROWS)]
            out: Float32 = torch.cat(parts).numpy()
        return out

    def state(self) -> dict[str, np.ndarray]:
        """Parameters and buffers as `model/...`, optimizer tensors as `optimizer/...`, in torch's default order."""
        return {name: np.array(tensor.numpy(), order="C") for name, tensor in self._tensors().items()}

    def load_state(self, state: dict[str, np.ndarray]) -> None:
        """Continue from a `state()`, of any learner of this model."""
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

    def _step(self, batch: Batch, lr: float) -> Tensor:
        data = (tensor_of(batch.x), torch.from_numpy(batch.targets), torch.from_numpy(batch.weights))
        if self._recorded_steps is None:
            torch.manual_seed(zlib.crc32(batch.x.tobytes()))  # what dropout draws then depends on no other client
            loss, *gradients = self._slopes(*data)
        else:
            loss, *gradients = self._played(self._recorded_steps, *data)
        self._update(gradients, lr)
        return loss

    def _slopes(self, x: Tensor, targets: Tensor, weights: Tensor) -> list[Tensor]:
        """The loss, and its derivative by each parameter."""
        logits = self.model(x)
        with torch.no_grad():
            loss, slope = _cross_entropy(logits, targets, weights)
        by = torch.autograd.grad(logits, self._parameters, slope, allow_unused=True, materialize_grads=True)
        return [loss, *by]

    def _played(self, recorded_steps: RecordedSteps, x: Tensor, targets: Tensor, weights: Tensor) -> list[Tensor]:
        """The same from a tape; the first batch of a shape makes it."""
        inputs = (*self._held, x, targets, weights)
        if (play := recorded_steps.get(x.shape)) is not None:
            with torch.inference_mode():
                return play(*inputs)
        out, recorded_steps[x.shape] = record(lambda: self._slopes(x, targets, weights), inputs)
        return out

    @torch.no_grad()
    def _update(self, gradients: list[Tensor], lr: float) -> None:
        if self._adam:
            first, second = self._slots.values()
            adam(
                self._parameters, gradients, first, second, [], self._steps,
                fused=True, amsgrad=False, beta1=BETAS[0], beta2=BETAS[1], lr=lr, weight_decay=0.0, eps=EPS,
                maximize=False,
            )  # fmt: skip
        else:
            (momentum,) = self._slots.values()
            buffers: list[Tensor | None] = [*momentum]
            sgd(
                self._parameters, gradients, buffers,
                fused=True, weight_decay=0.0, momentum=MOMENTUM, lr=lr, dampening=0.0, nesterov=False, maximize=False,
            )  # fmt: skip


@contextmanager
def _denormals_are_zero() -> Iterator[None]:
    """Numbers below 1.2e-38 count as 0 in this thread (runs have one), where the processor can do that.

    The momentum of units that have fallen silent decays to such numbers, a third of all after 500 steps on MNIST, and
    they make Adam's step four times as slow. They are too small to move a weight.
    """
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(False)


def _cross_entropy(logits: Tensor, targets: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """Weighted soft cross-entropy L and its derivative by the logits, w_i (softmax(z_i) - t_i) / sum_i w_i."""
    shares = weights / weights.sum().clamp(min=1e-8)
    log_p = torch.log_softmax(logits, 1)
    loss = -(log_p * targets).sum(1).dot(shares)
    return loss, log_p.exp_().sub_(targets).mul_(shares[:, None])


def _placed(like: Sequence[Tensor], allocate: Callable[[tuple[int, ...]], Float32]) -> tuple[Tensor, Iterator[Tensor]]:
    """One block of memory, and in it tensors of those shapes and memory orders, all zero."""
    sizes = [_space(tensor) for tensor in like]
    block = torch.from_numpy(allocate((sum(sizes),)))
    starts = np.cumsum([0, *sizes]).tolist()
    return block, (block.as_strided(t.shape, t.stride(), at) for t, at in zip(like, starts, strict=False))


def _space(tensor: Tensor) -> int:
    return -(-tensor.numel() // _LINE) * _LINE


def tensor_of(x: Float32) -> Tensor:
    """Rows as models take them: images in channels_last order."""
    tensor = torch.from_numpy(np.ascontiguousarray(x))
    return tensor.contiguous(memory_format=torch.channels_last) if tensor.ndim == 4 else tensor
