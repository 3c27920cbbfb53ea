"""Images drawn from soft labels: SSIM's closed forms, the decoder, what counts as a reconstruction, and the picture."""

import struct
import zlib
from dataclasses import replace

import numpy as np
import pytest
import torch

from edgefd.audit.attacks.inversion import DRAWINGS, decoded, impossible, inversion, pairs
from edgefd.audit.measures.ssim import ssim
from edgefd.audit.measures.statistics import mean_interval
from edgefd.audit.report.image_grid import grid
from edgefd.core.knowledge import Knowledge
from edgefd.federation.clients import RAW, ClientData, Federation, ProxySet

C1, C2 = 0.01**2, 0.03**2
CHECKS = np.indices((12, 10)).sum(0)[None] % 2 * 2.0 - 1  # [1, 12, 10], of +1 and -1: all windows have the same moments


def test_an_image_is_like_itself() -> None:
    x = np.random.default_rng(0).random((4, 3, 11, 9)).astype(np.float32)
    np.testing.assert_allclose(ssim(x, x), 1)
    assert ssim(x[0], x).argmax() == 0


@pytest.mark.parametrize(("mean", "shift"), [(0.5, 0.1), (0.3, 0.4), (0.2, 0.0)])
def test_brighter_images_lose_what_the_formula_says(mean: float, shift: float) -> None:
    a = mean + 0.1 * CHECKS
    expected = (2 * mean * (mean + shift) + C1) / (mean**2 + (mean + shift) ** 2 + C1)
    np.testing.assert_allclose(ssim(a, a + shift), expected)


def test_contrast_and_its_sign_count_as_the_formula_says() -> None:
    def with_contrast(by: float) -> np.ndarray:
        return 0.5 + by * CHECKS

    for by in (0.2, -0.1, 0.0):
        expected = (2 * 0.1 * by + C2) / (0.1**2 + by**2 + C2)
        np.testing.assert_allclose(ssim(with_contrast(0.1), with_contrast(by)), expected)
    assert ssim(with_contrast(0.1), with_contrast(-0.1)) < 0


def test_it_is_the_mean_over_windows_and_channels() -> None:
    r = np.random.default_rng(1)
    a, b = r.random((2, 2, 10, 9))

    def window(i: int, j: int, c: int) -> float:
        x, y = a[c, i : i + 8, j : j + 8], b[c, i : i + 8, j : j + 8]
        cov = ((x - x.mean()) * (y - y.mean())).mean()
        means = (2 * x.mean() * y.mean() + C1) / (x.mean() ** 2 + y.mean() ** 2 + C1)
        return float(means * (2 * cov + C2) / (x.var() + y.var() + C2))

    every = [window(i, j, c) for i in range(3) for j in range(2) for c in range(2)]
    np.testing.assert_allclose(ssim(a, b), np.mean(every))
    with pytest.raises(ValueError, match="7 x 9 are smaller than a window of 8 x 8"):
        ssim(a[:, :7], b[:, :7])


def test_a_decoder_draws_what_belongs_to_an_answer() -> None:
    torch.set_num_threads(1)  # as `audit` does
    r = np.random.default_rng(2)
    images = r.random((3, 1, 8, 8)).astype(np.float32)
    y = np.arange(60) % 3
    values = (0.9 * np.eye(3)[y] + 0.1 / 3).astype(np.float32)
    sent = Knowledge(np.arange(60) * 2, values, np.ones(60, np.float32))
    given = pairs(sent, np.repeat(values, 2, axis=0))
    np.testing.assert_allclose(given, np.log(np.concatenate([values, values], axis=1)), rtol=1e-5)
    before = torch.get_rng_state()
    drawn = decoded(given, images[y], given[:3], np.random.default_rng(0))
    assert np.abs(drawn - images).max() < 0.1
    again = decoded(given, images[y], given[:3], np.random.default_rng(0))
    np.testing.assert_array_equal(drawn, again)
    assert torch.equal(torch.get_rng_state(), before)


def signals(own: float, proxy: float = 0.0, planted: float = 0.3) -> dict[str, np.ndarray]:
    """Of twelve drawings that are so much nearer to private records, on average."""
    r = np.random.default_rng(3)
    s: dict[str, np.ndarray] = {"client": np.repeat([0, 1, 2], 4), "y": np.tile(np.arange(4), 3)}
    gains = dict(zip(DRAWINGS, (own, 0.0, proxy, planted), strict=True))
    noise = np.tile([0.01, -0.01], 6)  # a mean of nothing but the gain
    for name, gain in gains.items():
        s[f"{name}_unseen"] = r.uniform(0.4, 0.5, 12)
        s[f"{name}_private"] = s[f"{name}_unseen"] + gain + noise
    return s


def test_only_what_is_nearer_to_private_records_is_a_reconstruction() -> None:
    nothing, failed = inversion(signals(0.0))
    assert (nothing["reconstructs"], failed) == (False, [])
    assert nothing["individual"]["low"] < 0 < nothing["individual"]["high"]
    records, failed = inversion(signals(0.05))
    assert (records["reconstructs"], failed) == (True, [])
    assert records["individual"]["value"] == pytest.approx(0.05)
    assert [row["individual"] for row in records["clients"]] == pytest.approx([0.05] * 3)
    assert not inversion(signals(-0.05))[0]["reconstructs"]


def test_controls_that_fail_are_named() -> None:
    assert "null control: inversion finds records" in inversion(signals(0.0, proxy=0.05))[1][0]
    assert "positive control: inversion does not draw" in inversion(signals(0.0, planted=0.0))[1][0]
    few = {name: values[:4] for name, values in signals(0.0).items()}
    assert inversion(few) == ({"reason": "4 images can be drawn and compared, 8 are needed"}, [])


def test_an_interval_of_a_mean_covers_it_as_often_as_it_says() -> None:
    r = np.random.default_rng(4)
    found = [mean_interval(r.normal(1, 2, 8)) for _ in range(1000)]
    assert 925 < sum(i.low <= 1 <= i.high for i in found) < 975


def federation(shape: tuple[int, ...], clients: int = 2) -> Federation:
    x, y, none = np.zeros((2, *shape), np.float32), np.zeros(2, np.int64), np.empty(0, np.int64)
    return Federation(
        clients=tuple(ClientData(i, x, y, x, y, none) for i in range(clients)),
        proxy=ProxySet(x, np.array([-1, -1])),
        proxy_labels=None,
        x_test=x,
        y_test=y,
        n_classes=2,
        scale=RAW,
        table=np.full((clients, 2), 1),
        raw_samples_disclosed=0,
    )


def test_what_cannot_be_drawn_is_said() -> None:
    assert impossible(federation((1, 8, 8))) is None
    for shape in ((6, 100), (64,), (3, 7, 9)):  # windows of sensors, features, and images below SSIM's window
        assert str(list(shape)) in str(impossible(federation(shape)))
    assert "another client's answers" in str(impossible(federation((1, 8, 8), 1)))
    assert "proxy.keep" in str(impossible(replace(federation((1, 8, 8)), kept=True)))


@pytest.mark.parametrize("channels", [1, 3])
def test_a_grid_is_a_png_of_its_images(channels: int) -> None:
    images = np.random.default_rng(5).random((2, 3, channels, 4, 5)).astype(np.float32)
    blob = grid(images)
    assert blob.startswith(b"\x89PNG\r\n\x1a\n")
    chunks, at = {}, 8
    while at < len(blob):
        (n,) = struct.unpack(">I", blob[at : at + 4])
        name, data = blob[at + 4 : at + 8], blob[at + 8 : at + 8 + n]
        assert struct.unpack(">I", blob[at + 8 + n : at + 12 + n])[0] == zlib.crc32(name + data)
        chunks[name], at = data, at + 12 + n
    width, height, depth, colour = struct.unpack(">IIBB", chunks[b"IHDR"][:10])
    assert (width, height, depth, colour) == (3 * 7, 2 * 6, 8, {1: 0, 3: 2}[channels])
    lines = np.frombuffer(zlib.decompress(chunks[b"IDAT"]), np.uint8).reshape(height, 1 + width * channels)
    pixels = lines[:, 1:].reshape(height, width, channels)
    np.testing.assert_array_equal(pixels[6:10, 14:19], np.rint(255 * images[1, 2]).transpose(1, 2, 0))
    assert (pixels[:, 5:7] == 255).all()
    with pytest.raises(ValueError, match="not 2"):
        grid(np.zeros((1, 1, 2, 4, 4), np.float32))
