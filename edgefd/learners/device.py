"""`Device`: the processor on which torch trains, and the precision of its arithmetic."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

from edgefd.core.errors import UserError

_LOG = logging.getLogger(__name__)

Precision = Literal["float32", "tf32", "bf16"]

_DRIVER = Path("/proc/driver/nvidia/version")  # exists while the driver of an NVIDIA GPU is loaded


@dataclass(frozen=True)
class Device:
    """A processor and a precision."""

    name: str = "cpu"
    """cpu, mps, or cuda with its number, such as cuda:0"""
    precision: Precision = "float32"

    @property
    def torch(self) -> torch.device:
        """The device of torch."""
        return torch.device(self.name)

    @property
    def is_gpu(self) -> bool:
        """Whether it is not the CPU."""
        return self.name != "cpu"

    @property
    def label(self) -> str:
        """Name, and the model of a CUDA GPU, such as `cuda:0 (NVIDIA H200)`."""
        return f"{self.name} ({torch.cuda.get_device_name(self.name)})" if self.torch.type == "cuda" else self.name

    def autocast(self) -> AbstractContextManager[object]:
        """Return the context of forward passes: with bf16, matrix products and convolutions are in bfloat16."""
        return torch.autocast(self.torch.type, torch.bfloat16) if self.precision == "bf16" else nullcontext()

    def free_bytes(self) -> int:
        """Return the bytes of memory that are free now. That of a CPU counts as unlimited."""
        if self.torch.type == "cuda":
            return int(torch.cuda.mem_get_info(self.torch)[0])
        if self.torch.type == "mps":
            return int(torch.mps.recommended_max_memory() - torch.mps.driver_allocated_memory())
        return 2**62

    @contextmanager
    def arithmetic(self) -> Iterator[None]:
        """Set the arithmetic of CUDA in this context: TF32 if it was chosen, and algorithms that repeat their bits.

        Without it, torch computes convolutions in TF32 on GPUs that have it.
        """
        if self.torch.type != "cuda":
            yield
            return
        matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
        before = matmul.allow_tf32, cudnn.allow_tf32, cudnn.deterministic
        matmul.allow_tf32 = cudnn.allow_tf32 = self.precision == "tf32"
        cudnn.deterministic = True
        try:
            yield
        finally:
            matmul.allow_tf32, cudnn.allow_tf32, cudnn.deterministic = before


CPU = Device()
"""the CPU, in float32"""


def find_device(name: str, precision: Precision = "float32") -> Device:
    """Return the device of this machine that `run.device` names; auto = a GPU if there is one, otherwise the CPU.

    Raises:
        UserError: if this machine has no such device, or the device does not have this precision.
    """
    device = Device(_found(name), precision)
    if precision == "tf32":
        if device.torch.type != "cuda":
            raise UserError(f"run.precision=tf32 is for CUDA GPUs, and the device is {device.name}: set it to float32")
        if torch.cuda.get_device_capability(device.torch) < (8, 0):
            raise UserError(f"run.precision=tf32: {device.label} does not have it: set it to float32")
    return device


def _found(name: str) -> str:
    kind, _, number = name.partition(":")
    if name == "auto":
        return "cuda:0" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    if kind == "cuda" and (problem := _cuda_problem(int(number or 0))):
        raise UserError(f"run.device={name}: {problem}")
    if kind == "mps" and not torch.backends.mps.is_available():
        raise UserError("run.device=mps: torch finds no Apple GPU: set run.device=cpu")
    return f"cuda:{int(number or 0)}" if kind == "cuda" else name


def _cuda_problem(number: int) -> str | None:
    """Return why the CUDA device of this number cannot be used, and what to do; None if it can."""
    if torch.version.cuda is None and torch.version.hip is None:
        return "this torch is built for the CPU only: install one with CUDA (pytorch.org), or set run.device=cpu"
    if not torch.cuda.is_available():
        return "torch finds no CUDA GPU: set run.device=cpu"
    found = torch.cuda.device_count()
    return f"torch finds {found} CUDA GPU(s), whose numbers begin at 0: choose one of them" if number >= found else None


def unused_gpu(device: Device) -> str | None:
    """Return a sentence for a machine with a CUDA GPU on which the run trains on the CPU, or None."""
    if device.is_gpu:
        return None
    if torch.cuda.is_available():
        return f"training on the CPU, although this machine has a GPU ({torch.cuda.get_device_name(0)})"
    if _DRIVER.exists():
        why = "this torch is built for the CPU only" if torch.version.cuda is None else "torch cannot use it"
        return f"training on the CPU, although this machine has an NVIDIA GPU: {why}"
    return None
