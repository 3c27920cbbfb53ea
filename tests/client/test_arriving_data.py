"""Data that arrive: SQLite files, retention, the lasting split, and a filter that follows the data during a run."""

import os
import sqlite3
import time
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from edgefd_client.agent import method_of, run_agent
from edgefd_client.link import Membership, Task
from edgefd_client.retention import Retention, kept_rows
from edgefd_client.sources import ImageFolder, client_data, read_samples, source_of
from edgefd_client.sqlite_table import SqliteTable
from PIL import Image

from edgefd.core.errors import UserError
from edgefd.core.knowledge import Knowledge
from edgefd.data.splits import lasting_split
from edgefd.federation.clients import ClientData, ProxySet
from edgefd.federation.plan import RoundPlan
from edgefd.rounds.client import client_filter
from edgefd.wire.bundle_reader import Bundle
from tests.support.federations import ExportedFederation, round_plan
from tests.support.scripted_link import ScriptedLink

NONE = np.empty(0, np.int64)


@pytest.fixture
def sensors(tmp_path: Path) -> Path:
    """An SQLite file with five readings of three numbers, the fourth without a label."""
    path = tmp_path / "sensors.db"
    with closing(sqlite3.connect(path)) as file, file:
        file.execute("create table readings (time, a, b, kind, c)")
        rows = [(5 - i, i, i / 2, None if i == 3 else i % 2, 1.5) for i in range(5)]
        file.executemany("insert into readings values (?, ?, ?, ?, ?)", rows)
    return path


QUERY = "select a, b, kind as label, c from readings order by time"


def test_an_sqlite_file_is_read_in_the_order_of_the_query(sensors: Path) -> None:
    table = SqliteTable(sensors, QUERY, (3,))
    x, y = table.load()
    assert x.tolist() == [[i, i / 2, 1.5] for i in (4, 2, 1, 0)]
    assert y.tolist() == [0, 0, 1, 0]
    assert table.load_all()[2].tolist() == [[3, 1.5, 1.5]]


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("select a, b, c from readings", "gives no column of labels: name one `label`"),
        ("select a, kind as label from readings", "gives 2 columns: a label and a sample need 4"),
        ("select 'x', b, c, kind as y from readings", "row 1: 'x' is not a number"),
        ("select a, null, c, kind as y from readings", "row 1: 'None' is not a number"),
        ("selct 1", "syntax error"),
        ("delete from readings", "readonly"),
    ],
)
def test_a_query_that_gives_no_samples_is_refused_in_one_line(sensors: Path, query: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        SqliteTable(sensors, query, (3,)).load()


def test_options_that_do_not_fit_the_data_are_refused(federation: ExportedFederation, tmp_path: Path) -> None:
    manifest = federation.read().manifest
    for path, options in (("a.db", {}), ("a.npz", {"query": "select 1"})):
        with pytest.raises(UserError, match=r"--query and an SQLite file .* need each other"):
            source_of(tmp_path / path, manifest, **options)
    with pytest.raises(UserError, match="for a folder of images: in a query, compare times"):
        source_of(tmp_path / "a.npz", manifest, max_age=3)
    with pytest.raises(UserError, match="exclude each other"):
        Retention(2, 2)
    with pytest.raises(UserError, match="--keep must be at least 2 samples, not 1"):
        Retention(1)


def test_the_reservoir_of_a_class_changes_only_where_a_new_sample_is_chosen() -> None:
    x = np.random.default_rng(0).normal(size=(300, 4))
    y = np.where(np.arange(300) < 250, 0, 1)
    before = {tuple(row) for row in x[:200][kept_rows(Retention(per_class=20), x[:200], y[:200])]}
    rows = kept_rows(Retention(per_class=20), x, y)
    assert np.bincount(y[rows]).tolist() == [20, 20]
    left = before - {tuple(row) for row in x[rows]}
    of_new = ((rows >= 200) & (y[rows] == 0)).sum()
    assert len(left) == of_new
    assert 0 < of_new < 12  # 50 of 250 samples of the class are new, so 4 of 20 on average


def test_samples_stay_on_their_side_of_the_lasting_split() -> None:
    x = np.random.default_rng(0).normal(size=(400, 3)).astype(np.float32)
    train, held = lasting_split(np.arange(200), x, 0.2, NONE)
    assert 20 < len(held) < 60
    later = lasting_split(np.arange(50, 400), x, 0.2, NONE)
    assert set(later[0]) & set(range(200)) == set(train) & set(range(50, 400))
    assert set(later[1]) & set(range(200)) == set(held) & set(range(50, 400))
    assert not set(lasting_split(np.arange(200), x, 0.2, held[:5])[1]) & set(held[:5])
    for share in (1e-9, 1 - 1e-9):
        assert min(map(len, lasting_split(np.arange(200), x, share, NONE))) >= 1


def test_an_image_folder_grows_by_time(tmp_path: Path) -> None:
    now = time.time()
    for name, label, age in (("b", 0, 9), ("a", 1, 2), ("c", 0, 1)):
        path = tmp_path / str(label) / f"{name}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(np.full((2, 2), age, np.uint8)).save(path)
        os.utime(path, (now - 86_400 * age,) * 2)
    assert ImageFolder(tmp_path, (1, 2, 2)).load()[0][:, 0, 0, 0].tolist() == [9, 1, 2]
    x, y = ImageFolder(tmp_path, (1, 2, 2), by_time=True, max_age=5).load()
    assert (x[:, 0, 0, 0].tolist(), y.tolist()) == ([2, 1], [1, 0])


def with_classes(data: ClientData, classes: list[int]) -> ClientData:
    """Return the data of a client with samples of some classes only."""
    own, held = np.isin(data.y, classes), np.isin(data.y_heldout, classes)
    return replace(data, x=data.x[own], y=data.y[own], x_heldout=data.x_heldout[held], y_heldout=data.y_heldout[held])


def accepted(data: ClientData, bundle: Bundle) -> np.ndarray:
    """Return the acceptance weights of a client."""
    method, config = method_of(bundle)
    proxy = ProxySet(bundle.proxy, np.full(len(bundle.proxy), -1))
    return client_filter(method, config, data, proxy, bundle.manifest.terms)


def test_the_filter_follows_a_class_that_arrives_between_two_rounds(
    federation: ExportedFederation, tmp_path: Path
) -> None:
    bundle, whole, lines = federation.read(), federation.client(0), list[str]()
    first = with_classes(whole, [int(whole.y[0])])
    n = len(federation.prepared.federation.proxy)
    teacher = Knowledge(np.arange(n), np.full((n, 10), 0.1, np.float32), np.ones(n, np.float32))
    link = ScriptedLink(
        [Task(round_plan(federation), None), Task(round_plan(federation, 1), teacher)],
        Membership("r", bundle.manifest.terms),
    )
    arrivals = iter([None, whole])
    run_agent(link, bundle, first, tmp_path, lines.append, lambda: next(arrivals))
    before, after = ((accepted(data, bundle) > 0).sum() for data in (first, whole))
    assert any(
        f"the data have moved by 1.000, 0.05 or more: its filter was fitted again, and accepts {after} proxy rows "
        f"instead of {before}" in line
        for line in lines
    )
    assert f"sent {after} of {n} queried rows" in lines[-1]


def test_a_listener_answers_as_soon_as_it_has_enough_samples_and_listens_again_without(
    federation: ExportedFederation, tmp_path: Path
) -> None:
    bundle, whole, lines = federation.read(), federation.client(0), list[str]()
    few = replace(whole, x=whole.x[:3], y=whole.y[:3])
    n = len(bundle.proxy)
    teacher = Knowledge(np.arange(n), np.full((n, 10), 0.1, np.float32), np.ones(n, np.float32))
    terms = replace(bundle.manifest.terms, training=replace(bundle.manifest.terms.training, rounds=4))
    tasks = [Task(RoundPlan(i, np.arange(n)), teacher if i else None) for i in range(3)]
    arrivals = iter([None, whole, few])
    run_agent(ScriptedLink(tasks, Membership("r", terms)), bundle, few, tmp_path, lines.append, lambda: next(arrivals))
    accepts = (accepted(whole, bundle) > 0).sum()
    listener = [i for i, line in enumerate(lines) if "client 0 is a listener, with 3 samples" in line]
    answering = lines.index(f"client 0 is no listener any more: it accepts {accepts} proxy rows")
    assert listener[0] < answering < listener[1]
    sent = [line.split("sent ")[1].split(" ")[0] for line in lines if line.startswith("round")]
    assert sent == ["0", str(accepts), "0"]


def test_samples_without_labels_count_in_the_filter_only(federation: ExportedFederation) -> None:
    bundle, whole = federation.read(), federation.client(0)
    labelled = with_classes(whole, [int(whole.y[0])])
    others = whole.x[whole.y != whole.y[0]]
    more = replace(labelled, unlabelled=others)
    assert not np.array_equal(accepted(labelled, bundle), accepted(more, bundle))
    assert (accepted(more, bundle) > 0).sum() > 0


def test_an_sqlite_file_gives_the_data_of_a_device(federation: ExportedFederation, tmp_path: Path) -> None:
    bundle = federation.read()
    path = tmp_path / "s.db"
    with closing(sqlite3.connect(path)) as file, file:
        file.execute("create table r (v, label)")
        file.executemany("insert into r values (?, ?)", [(6 * i + 6, i % 3 if i else None) for i in range(40)])
    pixels = ", ".join(["v"] * 784)
    source = source_of(path, bundle.manifest, f"select {pixels}, label from r")
    samples = read_samples(source, bundle, Retention(newest=30))
    assert len(samples.x) == 30
    assert samples.unlabelled is not None
    assert len(samples.unlabelled) == 1
    assert client_data(samples, bundle, 0, growing=True).unlabelled is samples.unlabelled
