"""`TorchLearner`: the training step in torch. There is no other training loop in the project."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgefd.knowledge import Float32
from edgefd.learner import Lesson

_PREDICT_ROWS = 256  # larger batches fall out of cache


class TorchLearner:
    """A torch module that trains by weighted soft cross-entropy. See `edgefd.learner.Learner`."""

    def __init__(self, model: nn.Module, optimizer: str = "sgd") -> None:
        self.model = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # faster on a CPU
        self.optimizer = _optimizer(optimizer, model)

    def share_memory(self) -> TorchLearner:
        """Move parameters and optimizer state to shared memory, where forked processes see each other's changes."""
        self.model.share_memory()
        for slots in self.optimizer.state.values():
            for tensor in slots.values():
                tensor.share_memory_()
        return self

    def train(self, batches: Iterable[Lesson], lr: float) -> float:
        """One step a batch; mean loss."""
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        losses = [self._step(batch) for batch in batches]
        return float(np.mean(losses)) if losses else 0.0

    def predict_logits(self, x: Float32) -> Float32:
        """Logits, float32 [n, C]."""
        with torch.inference_mode():
            parts = [self.model(_tensor(x[i : i + _PREDICT_ROWS])) for i in range(0, len(x), _PREDICT_ROWS)]
            out: Float32 = torch.cat(parts).numpy()
        return out

    def state(self) -> dict[str, np.ndarray]:
        """Parameters and buffers as `model/...`, optimizer tensors as `optimizer/<parameter>/...`."""
        out = {f"model/{k}": v.numpy().copy() for k, v in self.model.state_dict().items()}
        for i, slots in self.optimizer.state_dict()["state"].items():
            out.update({f"optimizer/{i}/{k}": v.numpy().copy() for k, v in slots.items() if v is not None})
        return out

    def load_state(self, state: dict[str, np.ndarray]) -> None:
        """Continue from a `state()`."""
        tensors = {k: torch.from_numpy(v.copy()) for k, v in state.items()}
        self.model.load_state_dict({k.removeprefix("model/"): v for k, v in tensors.items() if k.startswith("model/")})
        parameters = list(self.model.parameters())
        slots: dict[int, dict[str, Tensor]] = {}
        for name, value in tensors.items():
            if name.startswith("optimizer/"):
                _, index, slot = name.split("/")
                like = parameters[int(index)]  # fused optimizers need state in the memory order of its parameter
                in_order = torch.empty_like(like).copy_(value) if value.shape == like.shape else value
                slots.setdefault(int(index), {})[slot] = in_order
        full = self.optimizer.state_dict()
        full["state"] = slots
        self.optimizer.load_state_dict(full)

    def _step(self, batch: Lesson) -> float:
        weights = torch.from_numpy(batch.weights)
        each = F.cross_entropy(self.model(_tensor(batch.x)), torch.from_numpy(batch.targets), reduction="none")
        loss = (each * weights).sum() / weights.sum().clamp(min=1e-8)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()
        return float(loss.detach())


def _tensor(x: Float32) -> Tensor:
    tensor = torch.from_numpy(np.ascontiguousarray(x))
    return tensor.contiguous(memory_format=torch.channels_last) if tensor.ndim == 4 else tensor


def _optimizer(name: str, model: nn.Module) -> torch.optim.Optimizer:
    """The optimizer with its state made at once (zeros are what it starts from), so that it can be shared."""
    parameters = list(model.parameters())
    if name == "adam":
        adam = torch.optim.Adam(parameters, fused=True)
        for p in parameters:
            adam.state[p] = {
                "step": torch.zeros(()),
                "exp_avg": torch.zeros_like(p, memory_format=torch.preserve_format),
                "exp_avg_sq": torch.zeros_like(p, memory_format=torch.preserve_format),
            }
        return adam
    sgd = torch.optim.SGD(parameters, lr=0.01, momentum=0.9, fused=True)
    for p in parameters:
        sgd.state[p] = {"momentum_buffer": torch.zeros_like(p, memory_format=torch.preserve_format)}
    return sgd
