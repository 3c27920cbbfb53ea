"""Small packages in place of timm and torchvision, which the tests do not install."""

from pathlib import Path

_NET = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self, channels, n):
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(channels, 4, 3, stride=2), nn.BatchNorm2d(4), nn.ReLU())
        self.head = nn.Linear(4, n) if n else nn.Identity()

    def forward(self, x):
        return self.head(self.features(x).mean((2, 3)))
"""
_TIMM = """
def create_model(name, in_chans=3, num_classes=1000, pretrained=False):
    if name != "tiny":
        raise RuntimeError(f"Unknown model ({name})")
    torch.manual_seed(int(pretrained))
    return Net(in_chans, num_classes)
"""
_TIMM_DATA = """
def resolve_model_data_config(model):
    return {"mean": (0.5, 0.4, 0.3), "std": (0.2, 0.3, 0.4), "input_size": (3, 20, 20)}
"""
_TORCHVISION = """
def get_model(name, weights=None, num_classes=1000):
    if name != "tiny":
        raise ValueError(f"Unknown model {name}")
    return Net(3, num_classes)
"""


def write_libraries(folder: Path) -> None:
    """Write packages timm and torchvision, each with one model called tiny, into a folder."""
    for name, content in {
        "timm/__init__.py": _NET + _TIMM,
        "timm/data.py": _TIMM_DATA,
        "torchvision/__init__.py": "",
        "torchvision/models.py": _NET + _TORCHVISION,
    }.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(content)
