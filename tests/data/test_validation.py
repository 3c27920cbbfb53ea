"""The validation part: nobody trains on it, no proxy set holds it, and it is the same for every seed."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import edgefd
from edgefd.config.load import parse_config
from edgefd.core.errors import UserError
from edgefd.data.datasets import Dataset
from edgefd.data.validation import split_validation, validation_rows
from edgefd.report.compare import load_runs
from edgefd.report.head import notices
from edgefd.report.read import read_runs
from edgefd.report.settings import settings_in
from edgefd.runs.deployable import check_deployable
from edgefd.runs.load_data import federate, load_data, load_raw
from edgefd.runs.prepare import prepare
from edgefd.simulation.client_files import export_client_data
from tests.support.small_configs import SMALL

N = 400
MARKED = Dataset(  # every sample holds its own index, so that a leak is visible
    name="marked",
    x_train=np.stack([np.arange(N), np.zeros(N)], 1).astype(np.float32),
    y_train=np.arange(N) % 10,
    x_test=np.stack([np.arange(50), np.ones(50)], 1).astype(np.float32),
    y_test=np.arange(50) % 10,
    n_classes=10,
    group_train=None,
    source="test",
    sha256="",
)
PEOPLE = replace(MARKED, group_train=np.arange(N) // 50)


@settings(max_examples=30, deadline=None)
@given(
    st.sampled_from(["strong", "weak", "iid", "dirichlet", "by_group"]),
    st.sampled_from(["contributed", "public"]),
    st.sampled_from([0.1, 0.25, 0.5]),
    st.integers(0, 10**6),
)
def test_no_client_and_no_proxy_set_holds_a_validation_row(
    partition: str, source: str, fraction: float, seed: int
) -> None:
    whole = PEOPLE if partition == "by_group" else MARKED
    part = split_validation(whole, fraction, evaluate=True)
    size = {} if partition == "by_group" else {"n_clients": 3}
    config = parse_config(
        {"seed": seed, "partition": {"name": partition, **size}, "proxy": {"source": source, "alpha": 0.2}}
    )
    federation = federate(config, part)
    scale = federation.scale
    marks = [
        np.rint(x[:, 0] * scale.std[0] + scale.mean[0]).astype(int)
        for x in (federation.x_test, federation.proxy.x, *(x for c in federation.clients for x in (c.x, c.x_heldout)))
    ]
    validation, others = marks[0], np.concatenate(marks[1:])
    assert not np.isin(others, validation).any()
    assert np.array_equal(validation, validation_rows(whole, fraction))
    assert np.array_equal(federation.y_test, MARKED.y_train[validation])
    assert len(part.x_train) + len(validation) == N


def test_the_part_holds_the_fraction_of_each_class_and_whole_people() -> None:
    assert np.bincount(MARKED.y_train[validation_rows(MARKED, 0.3)]).tolist() == [12] * 10
    groups = PEOPLE.group_train
    assert groups is not None
    rows = validation_rows(PEOPLE, 0.25)  # 2 of 8 people
    chosen = np.unique(groups[rows])
    assert len(chosen) == 2
    assert np.array_equal(rows, np.flatnonzero(np.isin(groups, chosen)))
    assert len(np.unique(groups[validation_rows(PEOPLE, 0.01)])) == 1


def test_without_evaluation_the_test_set_remains() -> None:
    kept = split_validation(MARKED, 0.3, evaluate=False)
    assert kept.x_test is MARKED.x_test
    assert np.array_equal(kept.x_train, split_validation(MARKED, 0.3, evaluate=True).x_train)
    assert split_validation(MARKED, 0, evaluate=False) is MARKED


def test_the_part_is_the_same_for_every_seed_split_and_form_of_the_data() -> None:
    data = {"name": "mnist_mini", "limit": 500, "validation": 0.2, "evaluate_on": "validation"}
    first = load_data(parse_config({"data": data}))
    other = load_raw(parse_config({"data": data, "seed": 7, "partition": {"name": "iid"}}))
    assert first.sha256 == other.sha256
    assert (len(first.x_train), len(first.x_test)) == (400, 100)


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"data": {"validation": 1.0}}, r"data\.validation must be at least 0 and below 1, not 1\.0"),
        ({"data": {"validation": -0.1}}, r"data\.validation must be at least 0"),
        ({"data": {"evaluate_on": "validation"}}, r"set data\.validation, such as 0\.1"),
        ({"data": {"evaluate_on": "training"}}, r"data\.evaluate_on"),
        (
            {"data": {"validation": 0.1}, "partition": {"name": "file", "path": "p.json"}},
            r"partition file names rows of the whole training set",
        ),
    ],
)
def test_bad_settings_are_refused(sections: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        parse_config(sections)


def test_a_part_that_is_empty_or_takes_a_whole_class_is_refused() -> None:
    with pytest.raises(UserError, match="is empty"):
        split_validation(MARKED, 0.001, evaluate=True)
    one_zero = np.where(np.arange(N) == 0, 0, np.maximum(MARKED.y_train, 1))  # round(0.9 * 1) = 1: it is taken
    with pytest.raises(UserError, match="leaves class 0 without a training sample"):
        split_validation(replace(MARKED, y_train=one_zero), 0.9, evaluate=True)


def test_devices_cannot_be_measured_on_a_validation_part() -> None:
    with pytest.raises(UserError, match="evaluate_on=validation is for simulations"):
        check_deployable(parse_config({"data": {"validation": 0.1, "evaluate_on": "validation"}}))


def test_files_of_clients_hold_the_rows_of_the_simulation(tmp_path: Path) -> None:
    config = parse_config(SMALL | {"data": {"name": "mnist_mini", "limit": 300, "validation": 0.2}})
    prepared = prepare(config)
    for path, data in zip(export_client_data(prepared, tmp_path / "out"), prepared.federation.clients, strict=True):
        with np.load(path) as arrays:
            assert np.array_equal(prepared.federation.scale(arrays["x"]), data.x)


def test_results_say_where_they_were_measured_and_are_not_mixed(tmp_path: Path) -> None:
    data = {"name": "mnist_mini", "limit": 300, "validation": 0.2}
    runs = {
        part: edgefd.simulate(SMALL | {"data": data | {"evaluate_on": part}}, out=tmp_path / part)
        for part in ("test", "validation")
    }
    assert {part: run.summary["evaluated_on"] for part, run in runs.items()} == {
        "test": "test",
        "validation": "validation",
    }
    assert {run["dataset"] for run in load_runs([tmp_path])} == {"mnist_mini", "mnist_mini (validation part)"}
    with pytest.raises(UserError, match=r"different data sets \(mnist_mini, mnist_mini \(validation part\)\)"):
        read_runs([tmp_path])
    shown = {part: notices(settings_in(read_runs([tmp_path / part]))) for part in runs}
    of_part = {part: [each for each in found if "hardly trained" not in each] for part, found in shown.items()}
    assert of_part["test"] == []
    (notice,) = of_part["validation"]
    assert notice.startswith("Accuracies are those on the validation part")
