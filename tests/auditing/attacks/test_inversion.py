"""Images reconstructed from soft labels: the decoder, what counts as a reconstruction, and what is impossible."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from edgefd.auditing.attacks.decoder import decode
from edgefd.auditing.attacks.inversion import impossible, inversion
from edgefd.auditing.attacks.reconstructions import SOURCES, pairs
from edgefd.core.knowledge import Knowledge
from edgefd.federation.clients import RAW, ClientData, Federation, ProxySet


def test_a_decoder_reconstructs_the_images_of_its_training() -> None:
    torch.set_num_threads(1)  # as `audit` does
    r = np.random.default_rng(2)
    images = r.random((3, 1, 8, 8)).astype(np.float32)
    y = np.arange(60) % 3
    values = (0.9 * np.eye(3)[y] + 0.1 / 3).astype(np.float32)
    sent = Knowledge(np.arange(60) * 2, values, np.ones(60, np.float32))
    inputs = pairs(sent, np.repeat(values, 2, axis=0))
    np.testing.assert_allclose(inputs, np.log(np.concatenate([values, values], axis=1)), rtol=1e-5)
    before = torch.get_rng_state()
    decoded = decode(inputs, images[y], inputs[:3], np.random.default_rng(0))
    assert np.abs(decoded - images).max() < 0.1
    repeated = decode(inputs, images[y], inputs[:3], np.random.default_rng(0))
    np.testing.assert_array_equal(decoded, repeated)
    assert torch.equal(torch.get_rng_state(), before)


def signals(own: float, proxy: float = 0.0, planted: float = 0.3) -> dict[str, np.ndarray]:
    """Return signals of twelve reconstructions whose mean gain is as given, by source."""
    r = np.random.default_rng(3)
    s: dict[str, np.ndarray] = {"client": np.repeat([0, 1, 2], 4), "y": np.tile(np.arange(4), 3)}
    gains = dict(zip(SOURCES, (own, 0.0, proxy, planted), strict=True))
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
    assert "positive control: inversion does not reconstruct" in inversion(signals(0.0, planted=0.0))[1][0]
    few = {name: values[:4] for name, values in signals(0.0).items()}
    assert inversion(few) == ({"reason": "4 images can be reconstructed and compared, 8 are needed"}, [])


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


def test_the_reason_is_given_where_images_cannot_be_reconstructed() -> None:
    assert impossible(federation((1, 8, 8))) is None
    for shape in ((6, 100), (64,), (3, 7, 9)):  # windows of sensors, features, and images below SSIM's window
        assert str(list(shape)) in str(impossible(federation(shape)))
    assert "another client's soft labels" in str(impossible(federation((1, 8, 8), 1)))
    assert "proxy.keep" in str(impossible(replace(federation((1, 8, 8)), kept=True)))
