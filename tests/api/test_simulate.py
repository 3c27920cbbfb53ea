"""`edgefd.simulate`: what a config may be, objects instead of names, and what the run and its folder hold."""

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from torch import nn

import edgefd
from edgefd.data.datasets import load_dataset
from edgefd.simulation.table import Rows
from tests.support.own_models import Noisy
from tests.support.small_configs import SMALL


def network(shape: tuple[int, ...], n_classes: int) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(math.prod(shape), n_classes))


def by_halves(labels: np.ndarray, rng: np.random.Generator) -> list[np.ndarray]:
    return np.array_split(rng.permutation(len(labels)), 2)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> edgefd.Run:
    return edgefd.simulate(SMALL, {"baselines": ["fedmd"]}, out=tmp_path_factory.mktemp("runs") / "run")


def test_a_run_holds_what_its_folder_holds_and_its_baselines(run: edgefd.Run) -> None:
    lines = [json.loads(line) for line in (run.folder / "metrics.jsonl").read_text().splitlines()]
    assert run.summary == json.loads((run.folder / "summary.json").read_text())
    assert [m.round for m in run.rounds] == [line["round"] for line in lines] == [0, 1, 2]
    assert run.baselines["fedmd"].folder == run.folder / "also" / "fedmd"
    assert run.baselines["fedmd"].summary["method"] == "fedmd"
    assert len(edgefd.compare(run)) == 2
    assert run.report() == run.folder / "report.html"
    assert repr(run).startswith("<Run of edgefd on mnist_mini, iid: accuracy 0.")


def test_the_models_of_a_run_have_the_accuracies_of_its_summary(run: edgefd.Run) -> None:
    x, y = torch.from_numpy(run.federation.x_test), run.federation.y_test
    with torch.inference_mode():
        accuracies = [float((model(x).argmax(1).numpy() == y).mean()) for model in run.models]
    assert accuracies == run.summary["accuracy_per_client"]
    assert run.teacher is not None
    assert len(run.teacher) == len(run.federation.proxy)


def test_metrics_are_a_table_with_and_without_pandas(run: edgefd.Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgefd.simulation.table.find_spec", lambda _: None)
    rows = run.metrics
    assert isinstance(rows, Rows)
    assert rows.tail(1)[0]["closing"] is True
    assert rows["round"] == [0, 1, 2]
    assert len(rows.head(2)) == len(repr(rows.head(2)).splitlines()) - 1 == 2
    monkeypatch.undo()
    pandas = pytest.importorskip("pandas")
    assert isinstance(run.metrics, pandas.DataFrame)
    assert run.metrics["accuracy_mean"].tolist() == rows["accuracy_mean"]


@pytest.mark.parametrize("kind", ["file", "config", "numpy values"])
def test_a_file_a_dict_and_a_config_give_the_same_run(kind: str, run: edgefd.Run, tmp_path: Path) -> None:
    (tmp_path / "small.yaml").write_text(yaml.safe_dump(SMALL))
    sources: dict[str, Any] = {
        "file": (str(tmp_path / "small.yaml"), ()),
        "config": (edgefd.load_config(SMALL, ["train.rounds=1"]), {"train.rounds": 2}),
        "numpy values": (SMALL | {"seed": np.int64(0)}, {"train.rounds": np.int32(2), "model": ("linear",)}),
    }
    config, overrides = sources[kind]
    assert edgefd.simulate(config, overrides, out=tmp_path / "run").weights[0].keys() == run.weights[0].keys()
    again = edgefd.simulate(config, overrides, out=tmp_path / "again")
    assert run.teacher is not None
    assert again.teacher is not None
    assert again.teacher.equals(run.teacher)


def test_the_quickstart_is_found_from_every_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    config = edgefd.load_config("simulations/quickstart.yaml", {"baselines": []})
    assert config.method_name == "edgefd"
    settings = {"train.rounds": 1, "partition.n_clients": 2, "data.limit": 300, "model.name": "linear"}
    first, second = (edgefd.simulate(config, settings) for _ in range(2))
    assert {first.folder.parent, second.folder.parent} == {Path("runs")}
    assert first.folder != second.folder
    with pytest.raises(edgefd.UserError, match=r"cannot read simulations/other.yaml: No such file"):
        edgefd.simulate("simulations/other.yaml")


def test_objects_replace_names_and_are_described_in_the_folder(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    x, y = rng.integers(0, 256, (90, 8, 8)).astype(np.uint8), np.arange(90) % 3
    method = dataclasses.replace(edgefd.get_method("fedmd"), name="toy", summary="a toy")
    run = edgefd.simulate(
        {"run": {"workers": 2, "record_knowledge": True}, "train": {"rounds": 2}, "baselines": ["indlearn"]},
        method=method,
        model=[network, lambda shape, n_classes: network(shape, n_classes), "linear", Noisy],
        data=(x, y, x[:30], y[:30]),
        partition=lambda labels, rng: np.array_split(rng.permutation(len(labels)), 4),
        out=tmp_path / "run",
    )
    assert run.federation.table.shape == (4, 3)
    assert [len(model(torch.zeros(1, 1, 8, 8))[0]) for model in run.models] == [3] * 4
    assert set(run.baselines) == {"indlearn"}
    assert set(run.config.objects) - set(run.baselines["indlearn"].config.objects) == {"object:toy"}
    config = yaml.safe_load((run.folder / "config.yaml").read_text())
    assert config["method"]["name"] == "object:toy"
    names = [model["name"] for model in config["model"]]
    assert names == [f"{__name__}:network", "object:<lambda>", "linear", "tests.support.own_models:Noisy"]
    assert (run.folder / "config.yaml").read_text().startswith("# This file alone cannot repeat the run")
    described = json.loads((run.folder / "env.json").read_text())["objects"]
    assert described["object:toy"] == "Method: a toy"
    assert described["object:arrays"].startswith("Dataset from arrays of this session: 90 + 30 samples, sha256 ")
    assert described["object:<lambda>"].startswith("function ")
    assert "cannot repeat it" in run.report().read_text()
    assert edgefd.audit(run, level=0)["method"] == "object:toy"
    with pytest.raises(edgefd.UserError, match=r"'object:arrays' was an object of a Python session"):
        edgefd.simulate(run.folder / "config.yaml")
    assert edgefd.simulate(run.config, {"baselines": []}, out=tmp_path / "b").teacher.equals(run.teacher)  # type: ignore[union-attr, arg-type]


def test_an_object_never_takes_the_name_of_another_object_of_the_config(tmp_path: Path) -> None:
    first = edgefd.simulate(SMALL, {"train.rounds": 1}, model=lambda *_: network(*_), out=tmp_path / "a")
    split = lambda labels, rng: np.array_split(rng.permutation(len(labels)), 3)  # noqa: E731
    second = edgefd.simulate(first.config, partition=split, out=tmp_path / "b")
    assert second.config.model[0].name == "object:<lambda>"
    assert second.config.partition.name == "object:<lambda>'"
    assert len(second.models) == 3
    third = edgefd.simulate(second.config, partition=lambda *_: split(*_), out=tmp_path / "c")
    assert third.config.partition.name == second.config.partition.name


def test_objects_that_can_be_imported_are_recorded_by_their_names(tmp_path: Path) -> None:
    run = edgefd.simulate(
        SMALL, {"train.rounds": 1}, method=edgefd.get_method("fedmd"), partition=by_halves, out=tmp_path / "run"
    )
    text = (run.folder / "config.yaml").read_text()
    assert not run.config.objects
    assert run.config.method_name == "fedmd"
    assert yaml.safe_load(text)["partition"] == {"name": f"{__name__}:by_halves"}
    again = edgefd.simulate(run.folder / "config.yaml", out=tmp_path / "again")
    assert run.teacher is not None
    assert again.teacher is not None
    assert again.teacher.equals(run.teacher)


def test_a_data_set_gives_the_run_of_its_name(run: edgefd.Run, tmp_path: Path) -> None:
    again = edgefd.simulate(SMALL, data=load_dataset("mnist_mini"), out=tmp_path / "run")
    assert run.teacher is not None
    assert again.teacher is not None
    assert again.teacher.equals(run.teacher)
    assert again.summary["data_sha256"] == run.summary["data_sha256"]


@pytest.mark.parametrize(
    ("settings", "arguments", "message"),
    [
        ({"train.round": 2}, {}, "train.round: unknown key, did you mean 'rounds'?"),
        ({2: 2}, {}, "override 2 must look like section.key=value"),
        ("train.rounds", {}, "override 'train.rounds' must look like section.key=value"),
        (None, {}, "overrides must be a dict or a list of section.key=value, not None"),
        (
            [("train.rounds", 2)],
            {},
            "overrides must be a dict or a list of section.key=value, not [('train.rounds', 2)]",
        ),
        ({}, {"method": "edgfd"}, "unknown method 'edgfd': did you mean 'edgefd'?"),
        ({}, {"method": object()}, "is a object, not an edgefd.federation.method.Method"),
        ({}, {"model": lambda _: None}, "cannot build model '<lambda>': TypeError"),
        ({}, {"model": ["cnn", 3]}, "model: 3 is neither a name nor a function"),
        ({}, {"data": np.zeros((3, 3))}, "data must be a name, a path, a Dataset, the arrays"),
        ({}, {"data": ([[0.0]], [0], [[0.0]], [0])}, "two or more classes are needed"),
        (
            {"method.name": "selective_fd", "method.n_auxiliary": 10**7},
            {},
            "KuLSIF on 10000000 auxiliary and",
        ),
        ({}, {"partition": "none"}, "partition.name: unknown partition 'none'"),
        ({}, {"partition": lambda labels, _: [labels]}, "partition object:<lambda> gives a sample to more than one"),
        ({}, {"partition": lambda _: []}, "partition object:<lambda> failed: TypeError"),
        ({}, {"partition": lambda *_: 3}, "partition object:<lambda> failed: TypeError"),
        ({}, {"model": lambda *_: None, "engine": "ray"}, "the processes of Ray cannot import objects"),
        ({}, {"engine": "spark"}, "engine must be local or ray, not 'spark'"),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing_behind(
    settings: Any, arguments: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(edgefd.UserError) as caught:
        edgefd.simulate(SMALL, settings, out=tmp_path / "run", **arguments)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_a_loss_that_would_change_nothing_is_refused(tmp_path: Path) -> None:
    x = load_dataset("mnist_mini").x_test[:20]
    np.savez(tmp_path / "proxy.npz", x=x, contributors=3)
    proxy = {"source": "contributed", "path": str(tmp_path / "proxy.npz")}
    with pytest.raises(edgefd.UserError, match="mixed would change nothing: a simulation does not know"):
        edgefd.simulate(SMALL, {"proxy": proxy, "distillation.loss": "mixed"}, out=tmp_path / "run")
    assert not (tmp_path / "run").exists()
