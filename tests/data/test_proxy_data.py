"""A proxy set from another data set: its samples become those of the private data's kind, and the run says how."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from edgefd.config.load import load_config, parse_config
from edgefd.core.errors import UserError
from edgefd.runs.export_bundle import export_config
from edgefd.runs.load_data import load_data
from edgefd.runs.prepare import PreparedRun, prepare
from edgefd.simulation.client_files import export_client_data
from edgefd.simulation.sweep import check_data
from edgefd.wire.bundle_reader import read_bundle
from tests.support.commands import edgefd
from tests.support.extractors import graph

RNG = np.random.default_rng(0)
COLOUR = RNG.integers(0, 256, (40, 3, 12, 10), np.uint8)


def save(path: Path, x: np.ndarray, n_classes: int = 4) -> str:
    y = np.arange(len(x)) % n_classes
    np.savez(path, x_train=x, y_train=y, x_test=x[: 2 * n_classes], y_test=y[: 2 * n_classes])
    return str(path)


def prepared(name: str, proxy: Any, **sections: Any) -> PreparedRun:
    proxy = {"source": "public", "data": proxy}
    sections = {"partition": {"name": "iid", "n_clients": 3}, "model": {"name": "linear"}, **sections}
    return prepare(parse_config({"data": {"name": name}, "proxy": proxy, "method": {"name": "fedmd"}, **sections}))


def test_colour_images_become_grey_images_of_the_private_size(tmp_path: Path) -> None:
    run = prepared("digits", save(tmp_path / "colour.npz", COLOUR))
    proxy = run.dataset.proxy
    assert proxy is not None
    assert (proxy.x.shape, proxy.x.dtype) == ((40, 1, 8, 8), np.uint8)
    grey = Image.fromarray(COLOUR[5].transpose(1, 2, 0)).convert("L").resize((8, 8), Image.Resampling.BILINEAR)
    assert np.abs(proxy.x[5, 0].astype(int) - np.asarray(grey).astype(int)).max() <= 1
    assert proxy.source.startswith("40 of 40 training samples of colour from file ")
    assert proxy.source.endswith(", colour converted to grey, resized from 12 x 10 to 8 x 8")
    assert len(run.federation.proxy) == 40
    assert run.federation.proxy_labels is None
    assert run.federation.raw_samples_disclosed == 0
    assert sum(len(c.x) + len(c.x_heldout) for c in run.federation.clients) == len(run.dataset.x_train)


def test_grey_images_become_colour_images(tmp_path: Path) -> None:
    grey = RNG.integers(0, 256, (30, 1, 12, 10), np.uint8)
    run = prepared(save(tmp_path / "private.npz", COLOUR), save(tmp_path / "grey.npz", grey))
    assert run.dataset.proxy is not None
    assert np.array_equal(run.dataset.proxy.x, np.repeat(grey, 3, 1))
    assert run.dataset.proxy.source.endswith(", grey repeated as three colours")


@pytest.mark.parametrize("private_is_uint8", [True, False])
def test_pixels_and_numbers_from_0_to_1_are_converted(tmp_path: Path, private_is_uint8: bool) -> None:
    as_numbers = (RNG.integers(0, 256, (40, 3, 12, 10)) / 255).astype(np.float32)
    pair = [save(tmp_path / "pixels.npz", COLOUR), save(tmp_path / "numbers.npz", as_numbers)]
    private, public = pair if private_is_uint8 else reversed(pair)
    proxy = prepared(private, public).dataset.proxy
    assert proxy is not None
    expected = np.rint(as_numbers * 255) if private_is_uint8 else COLOUR / 255
    assert proxy.x == pytest.approx(expected, abs=1e-6)
    assert proxy.source.endswith(", multiplied by 255" if private_is_uint8 else ", divided by 255")


def test_a_limit_takes_the_same_samples_for_every_seed(tmp_path: Path) -> None:
    name = save(tmp_path / "colour.npz", COLOUR)
    first, again = (prepared("digits", {"name": name, "limit": 15}, seed=seed).dataset.proxy for seed in (0, 1))
    assert first is not None
    assert again is not None
    assert np.array_equal(first.x, again.x)
    assert len(first.x) == 15


def test_labels_count_only_on_request() -> None:
    run = prepared("digits", {"name": "mnist_mini", "limit": 300, "labels": True})
    labels = run.federation.proxy_labels
    assert labels is not None
    assert len(labels) == 300
    assert set(labels.tolist()) == set(range(10))
    assert prepared("digits", {"name": "mnist_mini", "limit": 300}).federation.proxy_labels is None


def test_private_samples_in_the_proxy_set_are_counted() -> None:
    proxy = prepared("digits", {"name": "digits", "limit": 20}).dataset.proxy
    assert proxy is not None
    assert proxy.source.endswith(", 20 of them are also training samples of digits")


def test_features_replace_the_proxy_samples_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "e.onnx").write_bytes(graph())
    sections: dict[str, Any] = {"data": {"name": "mnist_mini", "limit": 100, "extractor": str(tmp_path / "e.onnx")}}
    sections["proxy"] = {"source": "public", "data": {"name": "digits", "limit": 30}}
    dataset = load_data(parse_config(sections))
    assert dataset.proxy is not None
    assert dataset.proxy.x.shape == (30, *dataset.x_train.shape[1:])


@pytest.mark.parametrize(
    ("proxy", "message"),
    [
        ({"data": "digits"}, "proxy.data names samples that no client contributed: set proxy.source=public"),
        ({"source": "public", "data": "digits", "path": "p.npz"}, "proxy.data and proxy.path both name the proxy set"),
        ({"source": "public", "data": {"name": "digits", "limt": 3}}, "proxy.data.limt: unknown key, did you mean 'li"),
        ({"source": "public", "data": {"name": "digits", "limit": 0}}, "proxy.data: limit must be at least 1, not 0"),
        ({"source": "public", "data": 3}, r"proxy.data must be a section of keys, such as proxy.data: {name: ...}"),
        ({"source": "public", "data": {"name": "digits", "limit": "9"}}, "proxy.data.limit: Input should be"),
    ],
)
def test_a_wrong_section_is_refused_in_one_line(proxy: Any, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        parse_config({"proxy": proxy})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("proxy", "message"),
    [
        ("digitz", "proxy.data: unknown data set 'digitz': did you mean 'digits'"),
        ("none.npz", "proxy.data: .*none.npz"),
        ({"name": "digits", "limit": 9999}, "proxy.data.limit=9999, but there are 1437 training samples: lower it"),
        ({"name": "digits", "test_people": [1]}, "proxy.data: .*test_people"),
        ({"name": "digits", "label": "x"}, "proxy.data: .*label"),
        (
            {"name": "table.npz"},
            r"proxy.data table: its samples have the shape \[5\], those of mnist_mini \[1, 28, 28\]",
        ),
        ({"name": "colour.npz", "labels": True}, "colour has 4 classes, mnist_mini has 10, .* proxy.data.labels=false"),
        ({"name": "wide.npz"}, "are uint8 from 0 to 255, but these are float"),
    ],
)
def test_data_that_cannot_be_a_proxy_set_are_refused_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, proxy: Any, message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    save(Path("table.npz"), RNG.random((40, 5)).astype(np.float32))
    save(Path("colour.npz"), COLOUR)
    save(Path("wide.npz"), RNG.normal(0, 9, (40, 1, 28, 28)).astype(np.float32))
    with pytest.raises(UserError, match=message) as caught:
        prepared("mnist_mini", proxy)
    assert "\n" not in str(caught.value)


def test_a_sweep_knows_another_proxy_set_by_its_content(tmp_path: Path) -> None:
    sections: dict[str, Any] = {"data": {"name": "digits"}, "model": {"name": "linear"}}
    sections["proxy"] = {"source": "public", "data": {"name": save(tmp_path / "p.npz", COLOUR)}}
    (before,) = check_data([parse_config(sections)]).values()
    save(tmp_path / "p.npz", COLOUR[::-1])
    (after,) = check_data([parse_config(sections)]).values()
    assert before != after


def test_a_run_a_bundle_and_client_files_hold_the_same_proxy_set(tmp_path: Path) -> None:
    save(tmp_path / "colour.npz", COLOUR)
    (tmp_path / "c.yaml").write_text(
        "data: {name: digits}\npartition: {name: iid, n_clients: 2}\nmodel: linear\ntrain: {rounds: 1}\n"
        "proxy: {source: public, data: {name: colour.npz, limit: 30}}\nmethod: {name: edgefd, n_clusters: 4}\n"
    )
    done = edgefd("simulate", "c.yaml", "--out", "run", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "proxy set: 30 of 40 training samples of colour from file colour.npz" in done.stdout
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert "resized from 12 x 10 to 8 x 8" in summary["proxy_source"]
    assert len(summary["proxy_source_sha256"]) == 64
    checked = edgefd("check", "c.yaml", cwd=tmp_path)
    assert summary["proxy_source_sha256"] in checked.stdout
    config = load_config(tmp_path / "c.yaml", {"proxy.data.name": str(tmp_path / "colour.npz")})
    export_config(config, None, tmp_path / "bundle")
    bundled = read_bundle(tmp_path / "bundle").proxy
    assert np.array_equal(bundled, prepare(config).federation.proxy.x)
    assert len(export_client_data(prepare(config), tmp_path / "clients")) == 2
