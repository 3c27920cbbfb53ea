"""Models of timm and torchvision are named in a config. Small packages stand in for them."""

import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from edgefd.core.errors import UserError
from edgefd.data.features import extract, extractor_graph
from edgefd.learners.models import build_model, check_model
from tests.support.fake_libraries import write_libraries

SHAPE = (1, 12, 12)
_OWN = """
import torch
from torch import nn

class Mean(nn.Module):
    def __init__(self, shape):
        super().__init__()

    def forward(self, x):
        return x.mean(3).flatten(1) / 255

class Logits(Mean):
    def forward(self, x):
        return x

def Fails(shape):
    raise ValueError("no weights")
"""


@pytest.fixture(autouse=True)
def libraries(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    write_libraries(tmp_path)
    (tmp_path / "own_backbone.py").write_text(_OWN)
    names = ("timm", "torchvision", "own_backbone")
    kept = {name: sys.modules.pop(name) for name in list(sys.modules) if name.partition(".")[0] in names}
    monkeypatch.syspath_prepend(str(tmp_path))
    yield
    for name in [name for name in sys.modules if name.partition(".")[0] in names]:
        del sys.modules[name]
    sys.modules.update(kept)


@pytest.mark.parametrize("name", ["timm:tiny", "torchvision:tiny"])
def test_a_model_of_a_library_takes_the_channels_and_classes_of_the_data(name: str) -> None:
    check_model(name, SHAPE, 5)
    model = build_model(name, SHAPE, 5, 0).eval()
    assert model(torch.zeros(2, *SHAPE)).shape == (2, 5)
    same = build_model(name, SHAPE, 5, 0).state_dict()
    assert all(torch.equal(value, same[key]) for key, value in model.state_dict().items())


@pytest.mark.parametrize("name", ["timm:large", "torchvision:large"])
def test_an_unknown_model_of_a_library_is_refused_with_its_name(name: str) -> None:
    with pytest.raises(UserError, match=f"cannot build model '{name}': .*Unknown model"):
        check_model(name, SHAPE, 5)


def test_a_library_that_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgefd.core.errors.find_spec", lambda _: None)
    with pytest.raises(UserError, match=r"this needs timm: pip install 'edgefd\[timm\]'"):
        check_model("timm:tiny", SHAPE, 5)


def test_a_pretrained_network_of_timm_gives_features_of_scaled_images() -> None:
    x = np.random.default_rng(0).integers(0, 256, (4, 3, 20, 20)).astype(np.float32)
    features = extract(extractor_graph("timm:tiny", x.shape[1:]), x)
    from timm import create_model

    mean, std = (np.array(v).reshape(3, 1, 1) for v in ((0.5, 0.4, 0.3), (0.2, 0.3, 0.4)))
    network = create_model("tiny", 3, 0, pretrained=True).eval()
    scaled = torch.from_numpy(((x / 255 - mean) / std).astype(np.float32))
    assert np.allclose(features, network(scaled).detach().numpy(), atol=1e-5)
    assert extract(extractor_graph("timm:tiny", SHAPE, 32), x[:, :1, :12, :12]).shape == (4, 4)


def test_a_module_of_a_user_is_a_backbone() -> None:
    x = np.random.default_rng(0).integers(0, 256, (3, *SHAPE)).astype(np.float32)
    features = extract(extractor_graph("own_backbone:Mean", SHAPE), x)
    assert np.allclose(features, x[:, 0].mean(2) / 255, atol=1e-6)


@pytest.mark.parametrize(
    ("name", "size", "message"),
    [
        ("own_backbone:Fails", None, r"cannot be exported for samples of shape \[1, 12, 12\]: ValueError: no weights"),
        ("own_backbone:Logits", None, r"must return features \[n, d\], but it returned \[3, 1, 12, 12\]"),
        ("own_backbone:Nothing", None, "cannot load data.extractor"),
        ("own_backbone:Mean", 20, "data.extractor_size is for EfficientNet and timm only"),
        ("torchvision:tiny", None, "only timm:NAME or package.module:Factory"),
        ("resnet", None, "unknown extractor 'resnet'"),
    ],
)
def test_a_backbone_that_cannot_be_used_is_refused_in_one_line(name: str, size: int | None, message: str) -> None:
    with pytest.raises(UserError, match=message) as error:
        extractor_graph(name, SHAPE, size)
    assert "\n" not in str(error.value)
