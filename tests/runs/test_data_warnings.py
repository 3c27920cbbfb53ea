"""Warnings about the units of the data of a run, in `check`, in `simulate`, and for the devices of the federation."""

import json
import logging
from pathlib import Path

import numpy as np
import pytest
from edgefd_client.agent import run_agent
from edgefd_client.link import Membership
from edgefd_client.sources import NpzSource, client_data, read_samples

from edgefd.config.load import parse_config
from edgefd.config.schema import Config
from edgefd.core.errors import UserError
from edgefd.filters.shift import OTHER_KIND
from edgefd.runs.data_warnings import acceptance_warnings
from edgefd.runs.describe_data import describe_data
from edgefd.runs.prepare import PreparedRun, prepare
from edgefd.runs.terms import terms_of
from edgefd.simulation.run import simulate_config
from tests.support.federations import export_federation
from tests.support.scripted_link import ScriptedLink

N = 240


def table(path: Path, stamp: bool, x_test: np.ndarray | None = None) -> Path:
    """Write a table of three classes, which columns 0 to 3 tell apart; with `stamp`, the last column is a time."""
    rng = np.random.default_rng(0)
    y = np.arange(2 * N) % 3
    x = rng.normal(size=(2 * N, 5)) + 3 * np.eye(5)[y]
    if stamp:
        x[:, 4] = 1.7e9 + 1e5 * rng.random(2 * N)
    x = x.astype(np.float32)
    np.savez(path, x_train=x[:N], y_train=y[:N], x_test=x[N:] if x_test is None else x_test, y_test=y[N:])
    return path


def config(path: Path, scale: str = "all", **sections: dict[str, object]) -> Config:
    raw = {
        "data": {"name": str(path), "scale": scale},
        "partition": {"name": "iid", "n_clients": 3},
        "model": "mlp",
        "method": {"name": "edgefd", "n_clusters": 2},
        "train": {"rounds": 4, "local_steps": 15, "batch_size": 20},
        "run": {"workers": 0},
    }
    return parse_config(raw | sections)


def prepared(path: Path, scale: str = "all") -> PreparedRun:
    return prepare(config(path, scale))


def test_a_column_that_hides_the_others_is_named_by_check_and_simulate(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run = prepared(table(tmp_path / "stamp.npz", stamp=True))
    (warning,) = run.warnings
    assert warning.startswith("stamp: column 4 (from 0) has mean 1.7")
    assert "set data.scale=columns" in warning
    text = " ".join(" ".join(describe_data(run)).split())
    assert f"warning: {warning}" in text
    with caplog.at_level(logging.WARNING, "edgefd"):
        hidden = simulate_config(run.config, tmp_path / "a")
        columns = simulate_config(config(tmp_path / "stamp.npz", "columns"), tmp_path / "b")
    assert [record.getMessage() for record in caplog.records] == [warning]
    even = simulate_config(config(table(tmp_path / "even.npz", stamp=False)), tmp_path / "c")
    assert even.summary["accuracy_mean"] > 0.9
    assert columns.summary["accuracy_mean"] > 0.9
    assert hidden.summary["accuracy_mean"] < 0.5


def test_columns_of_similar_scales_and_columns_with_their_own_scale_give_no_warning(tmp_path: Path) -> None:
    assert prepared(table(tmp_path / "even.npz", stamp=False)).warnings == ()
    assert prepared(table(tmp_path / "stamp.npz", stamp=True), "columns").warnings == ()


def test_the_scale_by_column_is_that_of_the_proxy_set_and_constant_columns_are_only_centred(tmp_path: Path) -> None:
    path = table(tmp_path / "d.npz", stamp=True)
    arrays = dict(np.load(path))
    for part in ("x_train", "x_test"):
        arrays[part][:, 3] = 0.1  # not exact in binary: rounding errors are no deviation
    np.savez(path, **arrays)
    federation = prepared(path, "columns").federation
    proxy = federation.proxy.x
    assert np.abs(proxy.mean(0)).max() < 0.01
    np.testing.assert_allclose(proxy.std(0)[[0, 1, 2, 4]], 1, atol=1e-3)
    assert federation.scale.std[3] == 1
    assert np.abs(federation.x_test[:, 3]).max() < 1e-6


@pytest.mark.parametrize(
    ("scale", "stamp"), [("all", False), ("all", True), ("columns", False), ("columns", True), ("unit", False)]
)
def test_devices_scale_by_column_as_the_simulation_does_to_the_bit(tmp_path: Path, scale: str, stamp: bool) -> None:
    d = export_federation(config(table(tmp_path / "d.npz", stamp), scale), tmp_path)
    bundle = d.read()
    assert len(bundle.manifest.scale[0]) == (5 if scale == "columns" else 1)
    for expected in d.prepared.federation.clients:
        data = client_data(read_samples(NpzSource(d.data[expected.client]), bundle), bundle, expected.client)
        for name in ("x", "y", "x_heldout", "y_heldout"):
            np.testing.assert_array_equal(getattr(data, name), getattr(expected, name))


def test_pixels_in_units_are_those_that_published_code_computes(tmp_path: Path) -> None:
    """The published scale of MNIST is (x / 255 - 0.1307) / 0.3081."""
    pixels = np.random.default_rng(0).integers(0, 256, (40, 1, 8, 8), dtype=np.uint8)
    y = np.arange(40) % 2
    np.savez(tmp_path / "p.npz", x_train=pixels, y_train=y, x_test=pixels, y_test=y)
    given = {"data": {"name": str(tmp_path / "p.npz"), "scale": "unit", "mean": [0.1307], "deviation": [0.3081]}}
    federation = prepare(config(tmp_path / "p.npz", **given)).federation
    np.testing.assert_allclose(federation.x_test, (pixels / 255 - 0.1307) / 0.3081, atol=1e-6)
    in_units = prepared(tmp_path / "p.npz", "unit").federation
    np.testing.assert_allclose(in_units.x_test, pixels / 255, atol=1e-7)
    wrong = {"data": given["data"] | {"mean": [0.0, 0.5], "deviation": [1.0, 1.0]}}
    with pytest.raises(UserError, match=r"data\.mean has 2 numbers, but samples of p have 1 columns or channels"):
        prepare(config(tmp_path / "p.npz", **wrong))


def test_windows_are_scaled_by_channel(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    x = (rng.normal(size=(60, 2, 20)) * [[1], [1000]] + [[0], [1e5]]).astype(np.float32)
    y = np.arange(60) % 2
    np.savez(tmp_path / "w.npz", x_train=x, y_train=y, x_test=x, y_test=y)
    federation = prepared(tmp_path / "w.npz", "columns").federation
    assert federation.scale.mean[1] == pytest.approx(1e5, rel=0.01)
    np.testing.assert_allclose(federation.proxy.x.std((0, 2)), 1, rtol=1e-4)
    assert "channel 1 (from 0)" in prepared(tmp_path / "w.npz").warnings[0]


def test_too_many_columns_for_a_scale_each_are_refused(tmp_path: Path) -> None:
    x, y = np.random.default_rng(0).normal(size=(30, 5000)), np.arange(30) % 2
    np.savez(tmp_path / "w.npz", x_train=x, y_train=y, x_test=x, y_test=y)
    with pytest.raises(UserError, match=r"data\.scale=columns is for 4096 columns or fewer, not 5000"):
        prepared(tmp_path / "w.npz", "columns")


def test_a_client_in_another_unit_is_named(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    x, y, person = rng.normal(size=(360, 3, 20)), np.arange(360) % 2, np.repeat(np.arange(12), 30)
    for factor, name in ((12, "wide.npz"), (1 / 12, "narrow.npz")):
        own = np.where((person == 2)[:, None, None], x * factor, x).astype(np.float32)
        np.savez(tmp_path / name, x_train=own, y_train=y, group_train=person, x_test=x[:30], y_test=y[:30])
        run = prepare(config(tmp_path / name, partition={"name": "by_group"}))
        assert any(line.startswith("client 2: the samples lie far from the proxy set") for line in run.warnings)
        assert not any(line.startswith("client 1: ") for line in run.warnings)


def test_simulate_and_devices_say_that_a_proxy_set_is_unrelated(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(60, 5)) + rng.choice([-9, 9], (60, 5))  # on all sides of the clients' data
    np.savez(tmp_path / "proxy.npz", x=x.astype(np.float32))
    path = table(tmp_path / "even.npz", stamp=False)
    proxy = {"source": "public", "path": str(tmp_path / "proxy.npz")}
    run = config(path, data={"name": str(path), "heldout": 0.3}, proxy=proxy)
    with caplog.at_level(logging.WARNING, "edgefd"):
        simulated = simulate_config(run, tmp_path / "a")
    shifted, silent = [record.getMessage() for record in caplog.records][-2:]
    assert shifted.startswith("the proxy set has few rows like those of 3 of 3 clients")
    assert silent == acceptance_warnings(dict.fromkeys(range(3), np.zeros(60, np.float32)), run.method)[0]
    clients = json.loads((simulated.folder / "partition.json").read_text())["clients"]
    assert [client["proxy_shift"] > OTHER_KIND for client in clients] == [True] * 3

    d, lines = export_federation(run, tmp_path / "devices"), list[str]()
    run_agent(
        ScriptedLink([], Membership("test", terms_of(d.prepared.config, d.prepared.federation))),
        d.read(),
        d.client(0),
        tmp_path / "state",
        lines.append,
    )
    assert "0 of 60 proxy rows accepted" in lines[0]
    assert lines[1].startswith("warning: client 0: the proxy set is ")
    assert lines[2].startswith("warning: client 0 accepts 0 of 60 proxy rows")
