"""Parquet and CSV files: columns by name and pattern, clients, test samples; bad input in one line."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from edgefd.core.errors import UserError
from edgefd.data.datasets import Dataset, Source, load_dataset

N = 60
RNG = np.random.default_rng(0)
KIND = np.array(["walk", "run", "sit"])[np.arange(N) % 3]
TABLE = {
    "device": [f"d{i % 4}" for i in range(N)],
    "kind": KIND.tolist(),
    "acc_x": np.round(RNG.normal(size=N), 3).tolist(),
    "acc_y": np.round(RNG.normal(size=N), 3).tolist(),
    "note": ["a"] * N,
    "count": RNG.integers(0, 9, N).tolist(),
}
USED = {"label": "kind", "features": ("acc_*", "count")}


def parquet(folder: Path, name: str = "m.parquet", **other: object) -> str:
    pq.write_table(pa.table({**TABLE, **other}), folder / name)
    return str(folder / name)


def csv(folder: Path, name: str = "m.csv", delimiter: str = ",", **other: list[object]) -> str:
    columns = {**TABLE, **other}
    rows = [columns, *zip(*columns.values(), strict=True)]
    decimal = "," if delimiter == ";" else "."
    lines = [delimiter.join("" if v is None else str(v).replace(".", decimal) for v in row) for row in rows]
    (folder / name).write_text("\n".join(lines) + "\n", encoding="utf-8")
    return str(folder / name)


def test_a_parquet_file_and_csv_files_with_the_same_rows_are_the_same_data(tmp_path: Path) -> None:
    paths = parquet(tmp_path), csv(tmp_path), csv(tmp_path, "e.csv", ";"), csv(tmp_path, "t.tsv", "\t")
    first, *others = [load_dataset(Source(path, **USED, client="device")) for path in paths]
    assert first.x_train.shape == (45, 3)
    assert first.label_names == ("run", "sit", "walk")
    assert first.source == f"file {paths[0]}, 0.2 of the clients as test set"
    assert [d.sha256 for d in others] == [first.sha256] * 3
    row = int(np.flatnonzero(np.isclose(TABLE["acc_x"], first.x_train[7, 0]))[0])
    assert first.x_train[7].tolist() == pytest.approx([TABLE[c][row] for c in ("acc_x", "acc_y", "count")])
    assert first.label_names[first.y_train[7]] == KIND[row]


def rows_of(x: np.ndarray) -> set[bytes]:
    return {row.tobytes() for row in x}


@pytest.mark.parametrize("fraction", [0.1, 0.34, 0.5])
def test_test_samples_are_a_fraction_of_each_class_and_nobody_trains_on_them(tmp_path: Path, fraction: float) -> None:
    path = parquet(tmp_path)
    d = load_dataset(Source(path, **USED, test_fraction=fraction))
    assert np.bincount(d.y_test).tolist() == [round(fraction * 20)] * 3
    assert len(d.y_train) + len(d.y_test) == N
    assert not rows_of(d.x_train) & rows_of(d.x_test)
    assert load_dataset(Source(path, **USED, test_fraction=fraction)).sha256 == d.sha256


def test_the_samples_of_a_client_are_either_all_test_samples_or_none_is(tmp_path: Path) -> None:
    d = load_dataset(Source(parquet(tmp_path), **USED, client="device", test_fraction=0.5))
    assert d.group_train is not None
    clients = {np.float32(x).tobytes(): c for x, c in zip(TABLE["acc_x"], TABLE["device"], strict=True)}
    train, test = ({clients[x[0].tobytes()] for x in part} for part in (d.x_train, d.x_test))
    assert (len(train), len(test), train & test) == (2, 2, set())
    names = sorted(train)
    assert [clients[x[0].tobytes()] for x in d.x_train] == [names[g] for g in d.group_train]


def test_test_samples_can_be_another_file(tmp_path: Path) -> None:
    d = load_dataset(Source(parquet(tmp_path), **USED, test=parquet(tmp_path, "t.parquet", extra=[1] * N)))
    np.testing.assert_array_equal(d.x_train, d.x_test)
    assert d.source == f"file {tmp_path / 'm.parquet'}"


def test_labels_and_columns_are_found_where_they_are_clear(tmp_path: Path) -> None:
    table = {"target": KIND.tolist(), "a": TABLE["acc_x"], "b": TABLE["count"]}
    pq.write_table(pa.table(table), tmp_path / "m.parquet")
    d = load_dataset(str(tmp_path / "m.parquet"))
    assert (d.x_train.shape, d.n_classes) == ((48, 2), 3)


def test_columns_of_arrays_are_windows_or_images(tmp_path: Path) -> None:
    windows = RNG.normal(size=(N, 3, 40)).astype("float32")
    pixels = RNG.integers(0, 255, (N, 8 * 9), np.uint8)
    lists = pa.FixedSizeListArray.from_arrays(pa.array(pixels.ravel()), 72)
    path = parquet(tmp_path, window=windows.tolist(), pixels=lists)
    d = load_dataset(Source(path, label="kind", features=("window",)))
    assert (d.x_train.shape, d.x_train.dtype) == ((48, 3, 40), np.float32)
    assert rows_of(d.x_train) | rows_of(d.x_test) == rows_of(windows)
    d = load_dataset(Source(path, label="kind", features=("pixels",)))
    assert (d.x_train.shape, d.x_train.dtype) == ((48, 72), np.uint8)


def test_other_types_of_numbers_and_text_are_read(tmp_path: Path) -> None:
    categories = pa.array(KIND.tolist()).dictionary_encode()
    path = parquet(tmp_path, kind=categories, count=pa.array(TABLE["count"], pa.decimal128(5, 2)))
    plain = load_dataset(Source(parquet(tmp_path, "p.parquet"), **USED))
    assert load_dataset(Source(path, **USED)).sha256 == plain.sha256


def bad(path: str, **settings: object) -> str:
    with pytest.raises(UserError) as caught:
        load_dataset(Source(path, **{**USED, **settings}))  # type: ignore[arg-type]
    message = str(caught.value)
    assert "\n" not in message
    assert len(message) < 500
    return message


@pytest.mark.parametrize("write", [parquet, csv])
@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"label": "kinds"}, "has no column 'kinds' (data.label): did you mean 'kind'?"),
        ({"label": None}, "which column holds the labels? Set data.label to one of device, kind, acc_x"),
        ({"client": "dev"}, "has no column 'dev' (data.client)"),
        ({"features": ("acc_*", "gyr_*")}, "has no column 'gyr_*' (data.features)"),
        ({"features": ()}, "which columns are the samples? device, note hold no numbers: list columns"),
        ({"features": ("acc_x", "note")}, "column 'note' does not hold numbers"),
        ({"features": ("kind",)}, "'kind' is the column of labels or clients: remove it"),
        ({"train": "train"}, "data.train is not for"),
        ({"test": "gone.csv"}, "gone.csv"),
        ({"test_people": (1,)}, "data.test_people is not for"),
        ({"label": "acc_x", "features": ("acc_y",)}, "ids or measurements, not classes"),
    ],
)
def test_bad_settings_are_one_line(tmp_path: Path, write: object, settings: dict[str, object], words: str) -> None:
    assert words in bad(write(tmp_path), **settings)  # type: ignore[operator]


@pytest.mark.parametrize("write", [parquet, csv])
@pytest.mark.parametrize(
    ("column", "value", "words"),
    [
        ("acc_x", None, "column 'acc_x' has no value in row 5 (from 0), and in 1 rows in all: remove these rows"),
        ("kind", None, "the label of sample 5 (from 0) is None, not a text"),
        ("device", None, "column 'device' has no value in row 5"),
    ],
)
def test_missing_values_are_one_line(tmp_path: Path, write: object, column: str, value: object, words: str) -> None:
    values = list(TABLE[column])  # type: ignore[call-overload]
    values[5] = value
    assert words in bad(write(tmp_path, **{column: values}), client="device")  # type: ignore[operator]


def test_nan_is_a_missing_value(tmp_path: Path) -> None:
    values = [*TABLE["acc_x"][:5], float("nan"), *TABLE["acc_x"][6:]]
    assert "column 'acc_x' has no value in row 5" in bad(parquet(tmp_path, acc_x=values))
    assert "column 'acc_x' has 'wide' in row 5 (from 0), not a number" in bad(
        csv(tmp_path, acc_x=[*TABLE["acc_x"][:5], "wide", *TABLE["acc_x"][6:]])
    )


def test_unknown_labels_in_the_test_file_are_one_line(tmp_path: Path) -> None:
    test = parquet(tmp_path, "t.parquet", kind=["fly", *KIND[1:]])
    assert "the test label fly is not among the training labels, which have 3 values (run, sit, walk)" in bad(
        parquet(tmp_path), test=test
    )


def test_columns_of_one_name_are_refused(tmp_path: Path) -> None:
    table = pa.table([pa.array(TABLE["acc_x"])] * 2 + [pa.array(KIND)], names=["acc_x", "acc_x", "kind"])
    pq.write_table(table, tmp_path / "m.parquet")
    assert "2 columns are named 'acc_x': rename all but one" in bad(str(tmp_path / "m.parquet"))
    (tmp_path / "m.csv").write_text("acc_x,acc_x,kind\n1,2,run\n3,4,sit\n")
    assert "2 columns are named 'acc_x': rename all but one" in bad(str(tmp_path / "m.csv"))
    used = {"features": ("acc_x",), "test": str(tmp_path / "m.csv")}
    assert "m.csv: 2 columns are named 'acc_x'" in bad(csv(tmp_path, "good.csv"), **used)
    assert "m.parquet: 2 columns are named" in bad(parquet(tmp_path, "g.parquet"), test=str(tmp_path / "m.parquet"))


def test_arrays_of_several_lengths_are_refused(tmp_path: Path) -> None:
    path = parquet(tmp_path, window=[[1.0] * (2 + i % 2) for i in range(N)])
    assert "column 'window' holds arrays of 2 to 3 values" in bad(path, features=("window",))


@pytest.mark.parametrize("cut", [0, 10, 500])
def test_damaged_parquet_files_are_one_line(tmp_path: Path, cut: int) -> None:
    path = Path(parquet(tmp_path))
    path.write_bytes(path.read_bytes()[:cut])
    assert f"cannot read {path}" in bad(str(path))
    assert f"there is no file {tmp_path / 'gone.parquet'}" in bad(str(tmp_path / "gone.parquet"))


def test_damaged_pages_of_a_parquet_file_raise_nothing_but_user_errors(tmp_path: Path) -> None:
    whole = Path(parquet(tmp_path)).read_bytes()
    path = tmp_path / "d.parquet"
    for at in range(4, len(whole) - 8, 37):
        damaged = bytearray(whole)
        damaged[at] ^= 255
        path.write_bytes(damaged)
        try:
            d: Dataset | None = load_dataset(Source(str(path), **USED))
        except UserError:
            d = None
        assert d is None or d.x_train.shape[1] == 3


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "holds no samples"),
        ("acc_x,count,kind\n", "holds no samples"),
        ("1,2,3\n4,5,6\n", "the first line must hold the names of the columns, not numbers"),
        ("acc_x,count,kind\n1,2,run\n1,2\n", "row 1 (from 0) has 2 columns, but the header has 3"),
        ('acc_x,count,kind\n1,2,"run\n', "cannot read"),
        ("acc_x;count;kind\n1,5;2;run\n1.5;2;sit\n", "there are commas and points in numbers"),
        ("acc_x;count;kind\n1,500;2;run\n2,500;2;sit\n", "numbers such as 1,500 can be read in two ways"),
        ("acc_x\0", "is not a text file"),
    ],
)
def test_csv_files_that_cannot_be_read_in_one_way_are_refused(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "m.csv").write_text(text)
    assert words in bad(str(tmp_path / "m.csv"), features=("acc_x", "count"))


def test_one_client_cannot_be_trained_on_and_be_the_test_set(tmp_path: Path) -> None:
    assert "all samples are of one client" in bad(parquet(tmp_path, device=["d"] * N), client="device")
    mostly = ["d0" if kind == "run" else "d1" for kind in KIND]
    assert "hold the only samples of the label" in bad(parquet(tmp_path, device=mostly), client="device")


@pytest.mark.parametrize("name", ["", "Unnamed: 0", "__index_level_0__"])
def test_a_row_number_of_pandas_is_not_taken_for_a_feature(tmp_path: Path, name: str) -> None:
    columns = {name: range(N), "kind": KIND, "acc_x": TABLE["acc_x"]}
    pq.write_table(pa.table({key: list(value) for key, value in columns.items()}), tmp_path / "m.parquet")
    path = str(tmp_path / "m.parquet")
    assert f"the column {name!r} is named like the row numbers that pandas writes" in bad(path, features=())
    assert load_dataset(Source(path, label="kind", features=("acc_x",))).x_train.shape == (48, 1)


@pytest.mark.parametrize("write", [parquet, csv])
def test_clients_of_numbers_keep_their_names(tmp_path: Path, write: object) -> None:
    path = write(tmp_path, device=[7 + i % 4 for i in range(N)])  # type: ignore[operator]
    names = load_dataset(Source(path, **USED, client="device")).group_names
    assert names is not None
    assert set(names) < {"7", "8", "9", "10"}


@pytest.mark.parametrize(
    ("columns", "settings", "words"),
    [
        ({"device": [[i % 4] for i in range(N)]}, {"client": "device"}, "60 samples need 60 groups, not an array of"),
        ({}, {"client": "kind"}, "data.client and data.label both name the column 'kind': change one"),
        ({"kind": ["a\0", "a"] * 30}, {}, "the label of sample 0 (from 0) is 'a\\x00', not a text"),
        ({"kind": [b"a\xff", b"a\xfe"] * 30}, {}, "the label of sample 0 (from 0) is 'a\\udcff', not a text"),
        ({"kind": list(range(N))}, {}, "each label has one sample, so none can be the test set: set data.test"),
    ],
)
def test_columns_that_cannot_be_clients_or_labels(
    tmp_path: Path, columns: dict[str, object], settings: dict[str, object], words: str
) -> None:
    assert words in bad(parquet(tmp_path, **columns), **settings)


def test_a_table_of_labels_alone_has_no_samples(tmp_path: Path) -> None:
    pq.write_table(pa.table({"kind": KIND}), tmp_path / "m.parquet")
    message = bad(str(tmp_path / "m.parquet"), features=())
    assert "has no columns besides those of labels and clients" in message


def test_folders_and_files_of_other_kinds_are_named(tmp_path: Path) -> None:
    path = parquet(tmp_path)
    (tmp_path / "parts.parquet").mkdir()
    (tmp_path / "m.csv.gz").write_bytes(b"")
    assert "parts.parquet is a folder, not a file" in bad(str(tmp_path / "parts.parquet"))
    assert "parts.parquet is a folder: name a file in it" in bad(path, test=str(tmp_path / "parts.parquet"))
    assert "m.csv.gz is a file of an unknown kind, not .npz, .parquet, .csv or .tsv: unpack it" in bad(
        str(tmp_path / "m.csv.gz")
    )


def test_a_test_file_with_other_numbers_of_the_labels_is_refused(tmp_path: Path) -> None:
    import datasets

    for name, names in (("m.parquet", ["run", "sit"]), ("t.parquet", ["sit", "run"])):
        features = datasets.Features(kind=datasets.ClassLabel(names=names), acc_x=datasets.Value("float32"))
        rows = {"kind": [0, 1] * 20, "acc_x": TABLE["acc_x"][:40]}
        datasets.Dataset.from_dict(rows, features).to_parquet(tmp_path / name)
    used = {"features": ("acc_x",), "test": str(tmp_path / "t.parquet")}
    words = "the labels 0, 1, ... are named sit, run, but those of the training samples run, sit"
    assert words in bad(str(tmp_path / "m.parquet"), **used)
