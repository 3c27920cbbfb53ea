"""Table of architectures: whether a device can train them, how exactly, and how fast.

Run: python -m benchmarks.architectures [--seconds S] [NAME ...]
Each architecture is exported with SGD at batches of 16, with small inputs. `step` is the largest difference of a
parameter after one step from torch in float64, relative to the largest value of its tensor. `float32` is that of torch
in float32. `logits` is the largest difference of the logits from torch. The times are those of a step on one thread:
torch (eager) and ONNX Runtime take turns, and the ratio is the median of the ratios of all turns. Architectures of timm
and torchvision are left out if the package is not installed.
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.pairing import take_turns
from edgefd.core.errors import UserError
from edgefd.core.objects import one_line
from edgefd.export.model_graphs import export_graphs, initial_arrays
from edgefd.export.verify import verify
from edgefd.learners.batches import labelled
from edgefd.learners.graphs import Graphs
from edgefd.learners.models import build_model
from edgefd.learners.onnx_learner import OnnxLearner, Sessions
from edgefd.learners.torch_learner import TorchLearner

BATCH, CLASSES, OPTIMIZER = 16, 10, "sgd"
IMAGE, LARGE, WINDOW, SPECTRUM = (3, 32, 32), (3, 64, 64), (6, 64), (1, 40, 49)


@dataclass(frozen=True)
class Architecture:
    """A model to export, by the package that has it."""

    package: str
    shape: tuple[int, ...]
    build: Callable[[], nn.Module]


class TCN(nn.Module):
    """Three residual blocks of causal, dilated convolutions along time."""

    def __init__(self, channels: int, width: int = 24) -> None:
        super().__init__()
        self.first = nn.Conv1d(channels, width, 1)
        self.blocks = nn.ModuleList([nn.Conv1d(width, width, 3, dilation=2**i) for i in range(3)])
        self.fc = nn.Linear(width, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits of windows."""
        x = self.first(x)
        for i, block in enumerate(self.blocks):
            x = x + F.relu(block(F.pad(x, (2 * 2**i, 0))))
        out: Tensor = self.fc(x.mean(2))
        return out


class Recurrent(nn.Module):
    """A recurrent layer over the steps of a window, and a linear layer on its last output."""

    def __init__(self, layer: nn.Module, width: int) -> None:
        super().__init__()
        self.layer, self.fc = layer, nn.Linear(width, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits of windows."""
        out: Tensor = self.fc(self.layer(x.transpose(1, 2))[0][:, -1])
        return out


class UNetEncoder(nn.Module):
    """A U-shaped network: two poolings, two transposed convolutions, and connections between them."""

    def __init__(self, channels: int, width: int = 12) -> None:
        super().__init__()
        self.down1, self.down2 = self._block(channels, width), self._block(width, 2 * width)
        self.middle = self._block(2 * width, 4 * width)
        self.up2, self.merge2 = nn.ConvTranspose2d(4 * width, 2 * width, 2, 2), self._block(4 * width, 2 * width)
        self.up1, self.merge1 = nn.ConvTranspose2d(2 * width, width, 2, 2), self._block(2 * width, width)
        self.fc = nn.Linear(width, CLASSES)

    @staticmethod
    def _block(before: int, after: int) -> nn.Module:
        return nn.Sequential(nn.Conv2d(before, after, 3, padding=1), nn.GroupNorm(4, after), nn.ReLU())

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits of images."""
        first = self.down1(x)
        second = self.down2(F.max_pool2d(first, 2))
        x = self.up2(self.middle(F.max_pool2d(second, 2)))
        x = self.up1(self.merge2(torch.cat([x, second], 1)))
        out: Tensor = self.fc(self.merge1(torch.cat([x, first], 1)).mean((2, 3)))
        return out


class SpeechDSCNN(nn.Module):
    """The depthwise-separable network for keywords (Zhang et al. 2017), with group normalisation, of small width."""

    def __init__(self, width: int = 32, blocks: int = 3) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Conv2d(1, width, (10, 4), stride=2, padding=(5, 1)), nn.GroupNorm(4, width)]
        for _ in range(blocks):
            layers += [nn.ReLU(), nn.Conv2d(width, width, 3, padding=1, groups=width), nn.GroupNorm(4, width)]
            layers += [nn.ReLU(), nn.Conv2d(width, width, 1), nn.GroupNorm(4, width)]
        self.layers = nn.Sequential(*layers, nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.fc = nn.Linear(width, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits of spectrograms."""
        out: Tensor = self.fc(self.layers(x))
        return out


class TokenTransformer(nn.Module):
    """An embedding of 64 tokens with positions, one encoder layer, and a linear layer on the mean."""

    def __init__(self, tokens: int = 64, width: int = 32) -> None:
        super().__init__()
        self.embed, self.positions = nn.Embedding(500, width), nn.Parameter(torch.zeros(tokens, width))
        self.layer = nn.TransformerEncoderLayer(width, 4, 64, 0.0, batch_first=True)
        self.fc = nn.Linear(width, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits of rows of tokens, which are whole numbers in a floating-point tensor."""
        tokens = (x.abs() * 100).clamp(max=499).long()
        out: Tensor = self.fc(self.layer(self.embed(tokens) + self.positions).mean(1))
        return out


def own() -> dict[str, Architecture]:
    """Return the architectures that need no other package."""
    named = {
        name: Architecture("edgefd", WINDOW, partial(_named, name, WINDOW)) for name in ("cnn1d", "gru", "transformer")
    }
    named |= {
        name: Architecture("edgefd", IMAGE, partial(_named, name, IMAGE)) for name in ("cnn_gn", "resnet8", "dwnet")
    }
    here: dict[str, tuple[tuple[int, ...], Callable[[], nn.Module]]] = {
        "tcn": (WINDOW, lambda: TCN(6)),
        "gru_64_steps": (WINDOW, lambda: Recurrent(nn.GRU(6, 24, batch_first=True), 24)),
        "lstm_64_steps": (WINDOW, lambda: Recurrent(nn.LSTM(6, 24, batch_first=True), 24)),
        "unet": (IMAGE, lambda: UNetEncoder(3)),
        "ds_cnn_gn": (SPECTRUM, SpeechDSCNN),
        "token_transformer": ((64,), TokenTransformer),
    }
    return named | {name: Architecture("own", shape, build) for name, (shape, build) in here.items()}


def _named(name: str, shape: tuple[int, ...]) -> nn.Module:
    return build_model(name, shape, CLASSES, 0)


_PATCHES: dict[str, Any] = {"img_size": 32, "patch_size": 8, "embed_dim": 48}
_ATTENTION: dict[str, Any] = {**_PATCHES, "depth": 2, "num_heads": 3}
_STAGES: dict[str, Any] = {"patch_size": 2, "depths": (1, 1, 2, 1), "dims": (16, 32, 48, 64)}
_WINDOWS: dict[str, Any] = {"embed_dim": 24, "depths": (2, 2), "num_heads": (2, 4)}
_ENCODER: dict[str, Any] = {"num_layers": 2, "num_heads": 3, "hidden_dim": 48, "mlp_dim": 96}
_OTHERS: dict[str, tuple[str, tuple[int, ...], dict[str, Any]]] = {  # constructor, input, options
    "timm_mixer": ("timm.models.mlp_mixer:MlpMixer", IMAGE, {**_PATCHES, "num_blocks": 3}),
    "timm_vit": ("timm.models.vision_transformer:VisionTransformer", IMAGE, _ATTENTION),
    "timm_deit3": (
        "timm.models.vision_transformer:VisionTransformer",
        IMAGE,
        {**_ATTENTION, "init_values": 1e-4, "no_embed_class": True, "global_pool": "avg"},
    ),
    "timm_beit": ("timm.models.beit:Beit", IMAGE, _ATTENTION),
    "timm_cait": ("timm.models.cait:Cait", IMAGE, _ATTENTION),
    "timm_swin": (
        "timm.models.swin_transformer:SwinTransformer",
        LARGE,
        {**_WINDOWS, "img_size": 64, "window_size": 4},
    ),
    "timm_convnext": ("timm.models.convnext:ConvNeXt", IMAGE, _STAGES),
    "timm_convnextv2": ("timm.models.convnext:ConvNeXt", IMAGE, {**_STAGES, "use_grn": True, "ls_init_value": None}),
    "timm_test_nfnet": ("timm:create_model", LARGE, {"model_name": "test_nfnet"}),
    "timm_test_efficientnet_gn": ("timm:create_model", LARGE, {"model_name": "test_efficientnet_gn"}),
    "timm_test_efficientnet_ln": ("timm:create_model", LARGE, {"model_name": "test_efficientnet_ln"}),
    "timm_test_mambaout": ("timm:create_model", LARGE, {"model_name": "test_mambaout"}),
    "torchvision_squeezenet1_1": ("torchvision.models:squeezenet1_1", LARGE, {"dropout": 0.0}),
    "torchvision_vit": (
        "torchvision.models:VisionTransformer",
        IMAGE,
        {**_ENCODER, "image_size": 32, "patch_size": 8},
    ),
    "torchvision_swin": (
        "torchvision.models:SwinTransformer",
        LARGE,
        {**_WINDOWS, "patch_size": [4, 4], "window_size": [4, 4], "stochastic_depth_prob": 0.0},
    ),
    "torchvision_mobilenet_v2_gn": (
        "torchvision.models:mobilenet_v2",
        IMAGE,
        {"width_mult": 0.25, "dropout": 0.0, "norm_layer": partial(nn.GroupNorm, 4)},
    ),
    "timm_test_resnet": ("timm:create_model", LARGE, {"model_name": "test_resnet"}),
    "timm_test_byobnet": ("timm:create_model", LARGE, {"model_name": "test_byobnet"}),
    "timm_test_efficientnet": ("timm:create_model", LARGE, {"model_name": "test_efficientnet"}),
    "timm_mobilenetv3": ("timm:create_model", IMAGE, {"model_name": "mobilenetv3_small_050", "drop_rate": 0.0}),
    "torchvision_mobilenet_v2": ("torchvision.models:mobilenet_v2", IMAGE, {"width_mult": 0.25, "dropout": 0.0}),
    "torchvision_shufflenet_v2": ("torchvision.models:shufflenet_v2_x0_5", IMAGE, {}),
}


def of_packages() -> dict[str, Architecture]:
    """Return the architectures of timm and torchvision, and say which of the packages is not installed."""
    found: dict[str, Architecture] = {}
    for package in ("timm", "torchvision"):
        if find_spec(package) is None:
            print(f"{package} is not installed: its architectures are left out")
            continue
        for name, (constructor, shape, options) in _OTHERS.items():
            if name.startswith(package):
                found[name] = Architecture(package, shape, partial(_constructed, constructor, options))
    return found


def _constructed(constructor: str, options: dict[str, Any]) -> nn.Module:
    module, _, name = constructor.partition(":")
    model: nn.Module = getattr(import_module(module), name)(num_classes=CLASSES, **options)
    return model


def row(name: str, architecture: Architecture, seconds: float) -> str:
    """Return the row of the table for one architecture."""
    torch.manual_seed(0)
    shape = architecture.shape
    start = f"| `{name}` | {architecture.package} | {' x '.join(map(str, shape))} |"
    try:
        model = architecture.build()
        count = sum(p.numel() for p in model.parameters())
        x = np.random.default_rng(0).standard_normal((64, *shape)).astype(np.float32)
        graphs = export_graphs(model, OPTIMIZER, BATCH, shape, CLASSES)
        errors = verify(graphs, model, OPTIMIZER, x)
    except UserError as error:
        return f"{start} refused: {error} | | | | | |"
    except Exception as error:  # one architecture that a package cannot build must not end the table
        return f"{start} failed: {one_line(error)} | | | | | |"
    torch_ms, ratio = step_times(model, graphs, x[:BATCH], seconds)
    differences = " | ".join(f"{errors[key]:.1e}" for key in ("step_float64", "torch_float64", "logits"))
    return f"{start} {count:,} | {differences} | {torch_ms:.1f} | {ratio:.2f} |"


def step_times(model: nn.Module, graphs: Graphs, x: np.ndarray, seconds: float) -> tuple[float, float]:
    """Return the median milliseconds of a step in torch, and the median ratio of ONNX Runtime to torch."""
    batches = [labelled(x, np.arange(BATCH) % CLASSES, CLASSES)]
    onnx = OnnxLearner(Sessions(graphs), initial_arrays(model, OPTIMIZER))
    eager = TorchLearner(model, OPTIMIZER)
    learners = {"onnx": partial(onnx.train, batches, 1e-4), "torch": partial(eager.train, batches, 1e-4)}
    began = time.perf_counter()
    take_turns(learners, 1)
    turns = int(np.clip(2 * seconds / (time.perf_counter() - began), 3, 50))
    times = {key: np.array(values) for key, values in take_turns(learners, turns, 0, time.process_time).items()}
    return float(np.median(times["torch"])) * 1000, float(np.median(times["onnx"] / times["torch"]))


def main() -> None:
    """Print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help="names of architectures; without any, all")
    parser.add_argument("--seconds", type=float, default=3.0, help="about the seconds of timing of each architecture")
    options = parser.parse_args()
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    chosen = own() | of_packages()
    print("| architecture | from | input | parameters | step | float32 | logits | torch ms | ONNX / torch |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- | --- |", flush=True)
    for name in options.names or chosen:
        print(row(name, chosen[name], options.seconds), flush=True)


if __name__ == "__main__":
    main()
