"""`DeviceProfile`: how fast a kind of device trains and sends, how reliable it is, and how much energy it takes.

The file device_profiles.yaml beside this one holds the profiles of some boards, each value with its source.
`edgefd-client doctor --profile` writes the profile of a board.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from edgefd.core.errors import UserError
from edgefd.core.settings import settings_of
from edgefd.core.yaml_files import read_yaml

SHIPPED = Path(__file__).with_name("device_profiles.yaml")
"""the profiles of the package"""
PREDICTION_SHARE = 0.4
"""time of the logits of a batch, as a share of that of a training step on the batch, where it was not measured: the
exported graphs of cnn, cnn_gn, mlp and resnet8 took 0.29 to 0.63 on one x86 core"""


@dataclass(frozen=True)
class DeviceProfile:
    """A kind of device. All times are those of one client with the device for itself."""

    description: str = ""
    """what the device is, and what its values hold for"""
    step_seconds: dict[str, float] = field(default_factory=dict)
    """measured seconds of one training step on `step_rows` rows, by the name of the model"""
    predict_seconds: dict[str, float] = field(default_factory=dict)
    """measured seconds of the logits of `step_rows` rows, by the name of the model (0.4 of a step for others)"""
    step_rows: int = 64
    """rows of the measured steps, at least 1; the time of a step grows in proportion to its rows"""
    flops: float | None = None
    """floating-point operations a second in training, for models without measured steps (None = such a model is
    refused)"""
    filter_row_seconds: float = 0.0
    """seconds of the filter for each private and each proxy row, once, before the first round"""
    down_mbit: float = 100.0
    """speed of the download, in 10^6 bits a second, above 0"""
    up_mbit: float = 100.0
    """speed of the upload, in 10^6 bits a second, above 0"""
    latency_seconds: float = 0.0
    """seconds between sending and receiving the first byte of a message, in one direction"""
    availability: float = 1.0
    """probability that the device is reachable when a round has a task for it, in (0, 1]"""
    absence_seconds: float = 0.0
    """seconds after which a device that was not reachable returns"""
    failure: float = 0.0
    """probability that an attempt at a round fails at a moment drawn uniformly, in [0, 1): its work is lost, and the
    device begins again with the open round"""
    training_watts: float = 0.0
    """energy in joules for each second of training, of predictions and of the filter"""
    radio_watts: float = 0.0
    """energy in joules for each second of a download or an upload"""

    def __post_init__(self) -> None:
        for name in ("step_seconds", "predict_seconds"):
            if any(value <= 0 for value in getattr(self, name).values()):
                raise ValueError(f"the values of {name} must be above 0")
        for name in ("down_mbit", "up_mbit"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} must be above 0")
        of_time = ("latency_seconds", "absence_seconds", "filter_row_seconds", "training_watts", "radio_watts")
        for name in of_time:
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must not be negative")
        if self.step_rows < 1:
            raise ValueError("step_rows must be at least 1")
        if self.flops is not None and self.flops <= 0:
            raise ValueError("flops must be above 0")
        if not 0 < self.availability <= 1:
            raise ValueError("availability must be in (0, 1]")
        if not 0 <= self.failure < 1:
            raise ValueError("failure must be at least 0 and below 1")


def read_profiles(paths: Iterable[Path] = ()) -> dict[str, DeviceProfile]:
    """Return the profiles of the package and those of YAML files, by name; a later file replaces names of earlier ones.

    Raises:
        UserError: if a file cannot be read, or holds something else than profiles.
    """
    profiles: dict[str, DeviceProfile] = {}
    for path in (SHIPPED, *paths):
        profiles |= profiles_in(path)
    return profiles


def profiles_in(path: Path) -> dict[str, DeviceProfile]:
    """Return the profiles of one YAML file, by name.

    Raises:
        UserError: if it cannot be read, or holds something else than profiles.
    """
    sections = read_yaml(path)
    if not isinstance(sections, Mapping) or not all(isinstance(s, Mapping) for s in sections.values()):
        raise UserError(f"{path} must hold one section for each profile, such as `my_board: {{flops: 2e9}}`")
    return {
        str(name): settings_of(f"profile {name} in {path}", DeviceProfile, section)
        for name, section in sections.items()
    }
