"""Every operator that the exporter translates computes what torch computes in float64, also where numbers are equal.

A model adds a tensor of parameters to its samples, calls the operators of a group, and ends with a linear layer. So the
step of these parameters is the gradient of each single number. The samples are small integers: many of them are equal
or zero, and float32 represents them exactly.
"""

import copy
from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgefd.core.errors import UserError
from edgefd.export.model_graphs import export_graphs, initial_arrays
from edgefd.export.verify import run_step
from edgefd.learners.batches import Batch, one_hot
from edgefd.learners.session import open_session, session_options

IMAGE, WINDOW = (4, 7, 6), (4, 9)
ROWS, CLASSES, RATE = 5, 3, 0.5
Part = Callable[[Tensor], Tensor] | nn.Module


class Group(nn.Module):
    """The parts on samples plus a tensor of parameters, then one linear layer."""

    def __init__(self, shape: tuple[int, ...], parts: list[Part]) -> None:
        super().__init__()
        self.shift = nn.Parameter(torch.zeros(shape))
        self.layers = nn.ModuleList([part for part in parts if isinstance(part, nn.Module)])
        self.parts = parts
        self.fc = nn.Linear(self.features(torch.zeros(2, *shape)).shape[1], CLASSES)

    def features(self, x: Tensor) -> Tensor:
        layers = iter(self.layers)
        y = x + self.shift
        outputs = [(next(layers) if isinstance(part, nn.Module) else part)(y) for part in self.parts]
        return torch.cat([torch.tanh(out.to(y.dtype).flatten(1) / 4) for out in outputs], 1)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.fc(self.features(x))
        return out


class Tokens(nn.Module):
    """A module on [n, positions, features], called with windows."""

    def __init__(self, layer: nn.Module, call: Callable[[nn.Module, Tensor], Tensor] = lambda f, x: f(x)) -> None:
        super().__init__()
        self.layer, self.call = layer, call

    def forward(self, x: Tensor) -> Tensor:
        return self.call(self.layer, x.transpose(1, 2))


def numbers_of(x: Tensor) -> Tensor:
    """Return tokens, which arrive as floating-point numbers like all samples."""
    return x.clamp(0, 2).long()


def assigned(x: Tensor) -> Tensor:
    y = torch.zeros_like(x)
    y = torch.slice_scatter(y, x[:, :2], 1, 1, 3)
    return torch.select_scatter(y, x[:, 0] * 2, 1, 3)


def first(f: nn.Module, x: Tensor) -> Tensor:
    out: Tensor = f(x)[0]
    return out


def attention(f: nn.Module, x: Tensor) -> Tensor:
    out: Tensor = f(x, x, x, need_weights=False)[0]
    return out


def causal(x: Tensor) -> Tensor:
    mask = torch.ones(9, 9, dtype=torch.bool).tril()
    return F.scaled_dot_product_attention(x.mT, x.mT, x.mT, attn_mask=mask, scale=0.3)


GROUPS: dict[str, tuple[tuple[int, ...], list[Part]]] = {
    "activations": (
        IMAGE,
        [
            *(F.relu, torch.abs, F.gelu, lambda x: F.gelu(x, approximate="tanh"), F.silu, F.hardswish, F.hardsigmoid),
            *(F.elu, F.leaky_relu, F.softplus, F.mish, F.relu6, F.selu, F.logsigmoid, F.softsign, F.hardtanh),
            *(lambda x: F.hardshrink(x, 1.0), lambda x: F.softshrink(x, 1.0), lambda x: F.threshold(x, 1.0, 3.0)),
            *(F.tanhshrink, lambda x: F.glu(x, 1), lambda x: x.softmax(1), lambda x: x.log_softmax(-1), nn.PReLU(4)),
        ],
    ),
    "normalisation": (
        IMAGE,
        [nn.LayerNorm([7, 6]), nn.LayerNorm(6, elementwise_affine=False), nn.GroupNorm(2, 4), nn.RMSNorm(6)],
    ),
    "normalisation of instances": (IMAGE, [nn.InstanceNorm2d(4), nn.InstanceNorm2d(4, affine=True)]),
    "max-pooling": (
        IMAGE,
        [
            *(nn.MaxPool2d(3, 2, 1), nn.MaxPool2d(3, 2), nn.MaxPool2d((3, 2)), nn.MaxPool2d(3, 2, ceil_mode=True)),
            *(nn.MaxPool2d(2, 1, dilation=2), nn.AdaptiveMaxPool2d(1), nn.AdaptiveMaxPool2d((3, 4))),
        ],
    ),
    "average pooling": (
        IMAGE,
        [
            *(nn.AvgPool2d(2), nn.AvgPool2d(3, 2, 1), nn.AvgPool2d(3, 2, 1, count_include_pad=False)),
            *(nn.AvgPool2d(3, 2, ceil_mode=True), nn.AvgPool2d(2, divisor_override=3), nn.AdaptiveAvgPool2d(1)),
            *(nn.AdaptiveAvgPool2d((3, 4)), nn.LPPool2d(2, 2)),
        ],
    ),
    "interpolation": (
        IMAGE,
        [
            *(nn.Upsample(scale_factor=2), nn.Upsample(size=(5, 11)), nn.Upsample(scale_factor=2, mode="bilinear")),
            *(nn.Upsample(size=(9, 4), mode="bilinear", align_corners=True), nn.Upsample((3, 9), mode="bicubic")),
            lambda x: F.interpolate(x, size=(4, 4), mode="bilinear", antialias=True),
            lambda x: F.interpolate(x, size=(9, 5), mode="nearest-exact"),
        ],
    ),
    "convolutions": (
        IMAGE,
        [
            *(nn.Conv2d(4, 6, 3, stride=2, padding=1, groups=2), nn.Conv2d(4, 8, 3, padding=1, groups=4)),
            *(nn.Conv2d(4, 4, 3, dilation=2, groups=4), nn.Conv2d(4, 5, (2, 3), stride=(2, 1), padding="valid")),
            *(
                nn.Conv2d(4, 2, 3, padding=1, padding_mode="reflect"),
                nn.Conv2d(4, 2, 3, 1, 1, padding_mode="replicate"),
            ),
        ],
    ),
    "transposed convolutions": (
        IMAGE,
        [
            *(nn.ConvTranspose2d(4, 3, 3), nn.ConvTranspose2d(4, 6, 3, 2, 1, 1, groups=2)),
            *(nn.ConvTranspose2d(4, 2, 2, 2, bias=False), nn.ConvTranspose2d(4, 3, (3, 2), dilation=2)),
        ],
    ),
    "convolutions along one axis": (
        WINDOW,
        [
            *(nn.Conv1d(4, 5, 3, padding=1), nn.Conv1d(4, 6, 3, stride=2, padding=2, dilation=2)),
            *(nn.Conv1d(4, 4, 3, groups=4, padding="same"), nn.Conv1d(4, 8, 3, groups=2)),
            *(nn.ConvTranspose1d(4, 3, 4, stride=2, padding=1), nn.GroupNorm(2, 4)),
            nn.Sequential(nn.Conv1d(4, 2, 3), nn.ReLU(), nn.Conv1d(2, 2, 1)),
        ],
    ),
    "pooling along one axis": (
        WINDOW,
        [
            *(nn.MaxPool1d(2), nn.MaxPool1d(3, 2, 1), nn.AvgPool1d(3, 2, 1), nn.AdaptiveAvgPool1d(5)),
            *(nn.AdaptiveMaxPool1d(4), nn.Upsample(scale_factor=2), nn.Upsample(13, mode="linear")),
        ],
    ),
    "reductions": (
        IMAGE,
        [
            *(lambda x: x.mean(2), lambda x: x.var((2, 3)), lambda x: (x * x + 1).std(1, unbiased=False)),
            *(lambda x: torch.var_mean(x, 1)[1], lambda x: x.amax((2, 3)), lambda x: x.amin(1), lambda x: x.max(1)[0]),
            *(lambda x: x.min(3)[0], lambda x: (x + 5).norm(dim=1), lambda x: x.logsumexp(1), lambda x: x.cumsum(2)),
            *(
                lambda x: F.normalize(x + 5, dim=1),
                lambda x: x.argmax(1),
                lambda x: x - x.mean((1, 2, 3), keepdim=True),
            ),
        ],
    ),
    "elementwise": (
        IMAGE,
        [
            *(
                torch.sin,
                torch.cos,
                torch.sign,
                torch.exp,
                torch.expm1,
                lambda x: x.floor() + x,
                lambda x: x.round() * x,
            ),
            *(lambda x: (x.abs() + 1).log(), lambda x: x.abs().log1p(), lambda x: (x.abs() + 1) ** 0.5, lambda x: x**3),
            *(lambda x: 1 / (x.abs() + 1), lambda x: x.clamp(-1, 1), lambda x: torch.maximum(x, 0 * x + 1)),
            *(
                lambda x: torch.where(x > 0, x, 0.1 * x),
                lambda x: x.masked_fill(x < 0, -0.5),
                lambda x: x.lerp(2 * x, 0.3),
            ),
            *(lambda x: x * torch.arange(6), lambda x: x + torch.linspace(0, 1, 7)[:, None], lambda x: x.tril()),
            *(lambda x: torch.addcmul(x, x, x, value=0.5), lambda x: x.clone().mul_(2).relu_(), lambda x: 1 - x),
        ],
    ),
    "joining and splitting": (
        IMAGE,
        [
            *(
                lambda x: torch.cat([x, 2 * x], -1),
                lambda x: torch.stack([x, x * x], 2),
                lambda x: x.split([1, 3], 1)[1],
            ),
            *(lambda x: torch.mul(*x.chunk(2, 1)), lambda x: x.unbind(1)[2], lambda x: x.repeat(1, 2, 1, 3)),
            *(lambda x: x.repeat_interleave(2, 1), lambda x: x.mean(2, keepdim=True).expand(-1, -1, 4, -1)),
            *(
                lambda x: torch.cat([x, x.new_zeros(x.shape[0], 1, 7, 6)], 1),
                lambda x: x[:, None].expand(-1, 3, -1, -1, -1),
            ),
        ],
    ),
    "selection": (
        IMAGE,
        [
            *(lambda x: x[:, 1:4:2, -3:], lambda x: x[..., :-1] * x[..., 1:], lambda x: x[..., None, 0], assigned),
            *(lambda x: x[:, [0, 2, 2]], lambda x: x[:, torch.tensor([1, 0]), torch.tensor([2, 3])]),
            *(
                lambda x: x[..., torch.tensor([1, 0])],
                lambda x: x.flip(2),
                lambda x: x.roll(2, -1),
            ),
            *(lambda x: x.index_select(1, torch.tensor([3, 0])), lambda x: x.unfold(2, 3, 2), lambda x: F.unfold(x, 3)),
            lambda x: x.gather(1, x.argmax(1, keepdim=True)),
        ],
    ),
    "padding": (
        IMAGE,
        [
            *(lambda x: F.pad(x, (1, 2, 0, 1)), lambda x: F.pad(x, (1, 0), value=1.5)),
            *(lambda x: F.pad(x, (1, 2, 0, 1), mode="reflect"), lambda x: F.pad(x, (2, 0, 1, 1), mode="replicate")),
        ],
    ),
    "shapes": (
        (4, 6, 6),
        [
            *(lambda x: x.permute(0, 2, 3, 1).reshape(-1, 36, 4), lambda x: x.unflatten(1, (2, 2)).transpose(1, 3)),
            *(lambda x: x.movedim(1, -1), lambda x: x[:, :1].squeeze(1), lambda x: F.pixel_shuffle(x, 2)),
            *(lambda x: F.pixel_unshuffle(x, 2), lambda x: F.channel_shuffle(x, 2)),
        ],
    ),
    "products": (
        (4, 6, 6),
        [
            *(lambda x: x @ x.mT, lambda x: torch.bmm(x.flatten(2), x.flatten(2).mT), nn.Linear(6, 5)),
            *(lambda x: torch.einsum("nchw,ndhw->ncd", x, x), lambda x: torch.einsum("nchw,nchv->nwv", x, x)),
            *(lambda x: torch.baddbmm(x[:, 0], x[:, 1], x[:, 2], beta=0.5, alpha=2.0), nn.Linear(6, 2, bias=False)),
            lambda x: x * torch.sigmoid(x.mean((2, 3)))[:, :, None, None],
        ],
    ),
    "embeddings": (
        WINDOW,
        [
            nn.Sequential(nn.Conv1d(4, 4, 1)),
            *(Tokens(nn.Embedding(3, 5), lambda f, x: f(numbers_of(x))),),
            Tokens(nn.Embedding(3, 5, padding_idx=0), lambda f, x: f(numbers_of(x[..., 0])).mean(1)),
        ],
    ),
    "recurrent layers": (
        (4, 3),
        [
            *(Tokens(nn.GRU(4, 5, batch_first=True), first), Tokens(nn.LSTM(4, 5, batch_first=True), first)),
            *(
                Tokens(nn.RNN(4, 5, batch_first=True), first),
                Tokens(nn.LSTM(4, 5, batch_first=True, proj_size=3), first),
            ),
            Tokens(nn.GRU(4, 3, 2, batch_first=True, bidirectional=True), first),
        ],
    ),
    "attention": (
        WINDOW,
        [
            *(Tokens(nn.MultiheadAttention(4, 2, batch_first=True), attention), causal),
            *(Tokens(nn.MultiheadAttention(4, 2, batch_first=True), lambda f, x: f(x, x, x)[0]),),
            *(lambda x: F.scaled_dot_product_attention(x, x, x, is_causal=True),),
        ],
    ),
    "encoder layers": (
        WINDOW,
        [
            Tokens(nn.TransformerEncoderLayer(4, 2, 8, 0.0, batch_first=True)),
            Tokens(nn.TransformerEncoderLayer(4, 2, 8, 0.0, "gelu", batch_first=True, norm_first=True)),
        ],
    ),
}


@pytest.mark.parametrize("name", GROUPS)
def test_a_step_and_the_logits_agree_with_torch_in_float64(name: str) -> None:
    shape, parts = GROUPS[name]
    torch.manual_seed(0)
    model = Group(shape, parts)
    rng = np.random.default_rng(0)
    x = rng.integers(-2, 3, (ROWS, *shape)).astype(np.float32)
    batch = Batch(x, one_hot(np.arange(ROWS) % CLASSES, CLASSES), np.ones(ROWS, np.float32))
    graphs = export_graphs(model, "sgd", ROWS, shape, CLASSES)
    new, loss = run_step(graphs, initial_arrays(model, "sgd"), batch, RATE)

    oracle = copy.deepcopy(model).double()
    logits = oracle(torch.from_numpy(x).double())
    wanted = F.cross_entropy(logits, torch.arange(ROWS) % CLASSES)
    wanted.backward()  # type: ignore[no-untyped-call]
    for parameter, p in oracle.named_parameters():
        assert p.grad is not None
        gradient = new[f"optimizer/momentum_buffer/{parameter}"]
        scale = max(float(p.grad.abs().max()), 1e-3)
        assert np.abs(gradient - p.grad.numpy()).max() <= 1e-5 * scale, parameter
    assert loss == pytest.approx(wanted.item(), rel=1e-6)
    parameters = {n: v for n, v in initial_arrays(model, "sgd").items() if n.startswith("model/")}
    session = open_session(graphs.logits, session_options(1))
    for rows in (1, 3):  # the logits take any number of rows
        computed = session.run(["logits"], parameters | {"x": x[:rows]})[0]
        assert np.allclose(computed, logits[:rows].detach().numpy(), atol=1e-5)


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        (
            nn.Sequential(nn.Unflatten(1, (2, 2)), nn.Conv3d(2, 2, 2)),
            r"layer layers.0.1 \(Conv3d\).*use conv1d or conv2d",
        ),
        (nn.Sequential(nn.LocalResponseNorm(2)), r"layer layers.0.0 \(LocalResponseNorm\).*avg_pool3d"),
        (nn.Embedding(3, 2, scale_grad_by_freq=True), "scale_grad_by_freq is set"),
    ],
)
def test_an_operator_without_a_translation_is_refused_with_its_layer(layer: nn.Module, message: str) -> None:
    call = (lambda x: layer(numbers_of(x))) if isinstance(layer, nn.Embedding) else None
    model = Group(IMAGE, [layer]) if call is None else Group(IMAGE, [Tokens(layer, lambda f, x: f(numbers_of(x)))])
    with pytest.raises(UserError, match=message):
        export_graphs(model, "sgd", 4, IMAGE, CLASSES)


def test_the_order_of_assigned_rows_cannot_depend_on_other_rows() -> None:
    with pytest.raises(UserError, match="each row must be computed from itself alone"):
        export_graphs(
            Group(IMAGE, [lambda x: x[torch.tensor([1, 0])][:1].expand(len(x), -1, -1, -1)]), "sgd", 4, IMAGE, 3
        )
