"""CSV files as spreadsheets and scripts write them, or refused with the line and the reason."""

import csv
import io
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgefd.core.errors import UserError
from edgefd.data.csv_table import read_csv

X = np.array([[1.5, -2, 3e-3], [0, 40, 0.25]], np.float32)
Y = [2, 0]


def read(folder: Path, text: str | bytes, n_values: int = 3) -> tuple[np.ndarray, list[int]]:
    path = folder / "d.csv"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    x, y = read_csv(path, n_values, 3)
    assert (x.dtype, y.dtype) == (np.float32, np.int64)
    return x, y.tolist()


PLAIN = "2,1.5,-2,0.003\n0,0,40,.25\n"
EUROPEAN = "2;1,5;-2;0,003\n0;0;40;,25\n"


@pytest.mark.parametrize(
    "text",
    [
        PLAIN,
        PLAIN.rstrip("\n"),
        "\ufeff" + PLAIN,
        PLAIN.encode("utf-16"),
        ("\ufeff" + PLAIN).encode("utf-16-be"),
        ("\ufeff" + PLAIN).encode("utf-16-le"),
        PLAIN.replace("\n", "\r\n"),
        PLAIN.replace("\n", "\r"),
        "\n\r\n" + PLAIN.replace("\n", "\n\n   \n,,,\n") + "\n",
        PLAIN.replace(",", ";"),
        PLAIN.replace(",", "\t"),
        PLAIN.replace(",", ", "),
        EUROPEAN,
        EUROPEAN.replace(";", "\t"),
        "sep=;\r\n" + EUROPEAN.replace("\n", "\r\n"),
        '"2","1.5","-2","0.003"\n0,"0", "40",.25\n',
        '"2";"1,5";"-2";"0,003"\n0;0;40;",25"\n',
        "2.0,1.50,-2.,3e-3\n0e0,0,4E1,+0.25\n",
        "label,a,b,c\n" + PLAIN,
        "\ufeffLabel;a;b;c\n" + EUROPEAN,
        '"a","b","class","c"\n1.5,-2,2,0.003\n0,40,0,.25\n',
        "a\tb\tc\ty\n1.5\t-2\t0.003\t2\n0\t40\t.25\t0\n",
        "0,1,2,label\n1.5,-2,0.003,2\n0,40,.25,0\n",
        "x,y,z,label\n1.5,-2,0.003,2\n0,40,.25,0\n",
        "# written by a script\n" + PLAIN + "# end\n",
        "# a,b,c,label\n1.5,-2,0.003,2\n0,40,.25,0\n",
    ],
)
def test_the_same_table_in_many_forms_is_the_same_samples(tmp_path: Path, text: str | bytes) -> None:
    x, y = read(tmp_path, text)
    np.testing.assert_array_equal(x, X)
    assert y == Y


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "holds no samples"),
        ("label,a,b,c\n", "holds no samples"),
        (PLAIN + "1,,3,4\n", r"line 3: column 2 has no value \(''\)"),
        (PLAIN + "1,2,NA,4\n", r"line 3: column 3 has no value \('NA'\)"),
        (PLAIN + "1,2,3,nan\n", "line 3: column 4 has no value"),
        (PLAIN + "1,2,3,-inf\n", "line 3: column 4 is '-inf', not a finite number"),
        (PLAIN + "1,2,3,1e999\n", "line 3: column 4 is '1e999', not a finite number"),
        (PLAIN + "\n\n1,2,1_000,4\n", "line 5: column 3 is '1_000', not a finite number"),
        (PLAIN + "1,2,0x10,4\n", "line 3: column 3 is '0x10'"),
        (PLAIN + "1,2,3\n", "line 3: there are 3 columns instead of 4"),
        (PLAIN + "1,2,3,4,\n", "line 3: there are 5 columns instead of 4"),
        ("1,2,3\n", "line 1: there are 3 columns; a label and a sample need 4"),
        ("1 2 3 4\n", "line 1: there are 1 columns; a label and a sample need 4"),
        (PLAIN + "1.5,2,3,4\n", "line 3: the label is 1.5, not a whole number"),
        (PLAIN + "-1,2,3,4\n", "line 3: the label is -1, not a whole number"),
        (PLAIN + "1e300,2,3,4\n", "line 3: the label is 1e\\+300"),
        (PLAIN + "1,2,1e39,4\n", "line 3: 1e\\+39 is too large for float32"),
        (PLAIN + "cat,2,3,4\n", "line 3: column 1 is 'cat', not a finite number"),
        (PLAIN + '1,"2,3,4\n', "line 3: "),
        ("a,b,c,d\n" + PLAIN, "line 1: the header does not say which column holds the labels: name it `label`"),
        ("label,a,label,c\n" + PLAIN, "line 1: 2 columns are named label"),
        ("0,1,2,3\n" + PLAIN, "line 1: 0, 1, 2, ... may be numbers of columns"),
        (PLAIN + "label,a,b,c\n", "line 3: column 1 is 'label'"),
        (EUROPEAN + "0;1.5;2;3\n", "line 3: there are commas and points in numbers"),
        ("0;1,234;1,000;5\n1;2,345;1,000;7\n", "numbers such as 1,234 can be read in two ways"),
        (PLAIN.encode() + b"1,2,\xff,4\n", "neither UTF-8 nor UTF-16"),
        (PLAIN.encode("utf-16-le"), "UTF-16 without a byte order mark"),
        (b"PK\x03\x04\0\0\0", "is not a text file"),
        ("1,5,2,0\n1,6,2,1\n1,7,2,0\n", "the first and the last column may be labels"),
    ],
)
def test_what_cannot_be_read_in_one_way_is_refused_with_its_line(
    tmp_path: Path, text: str | bytes, reason: str
) -> None:
    with pytest.raises(UserError, match=reason) as error:
        read(tmp_path, text)
    assert "\n" not in str(error.value)
    assert "d.csv" in str(error.value)


def test_a_client_with_one_class_needs_no_header_if_the_last_column_cannot_be_labels(tmp_path: Path) -> None:
    assert read(tmp_path, "1,5,2,0\n1,6,2,200\n")[1] == [1, 1]
    assert read(tmp_path, "label,a,b,c\n1,5,2,0\n1,6,2,1\n")[1] == [1, 1]


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_long_lines_are_read(tmp_path: Path, delimiter: str) -> None:
    x, y = read(tmp_path, delimiter.join(["1"] + ["255"] * 60_000) + "\n", 60_000)
    assert (x == 255).all()
    assert y == [1]
    with pytest.raises(UserError, match="line 1: there are 60001 columns; a label and a sample need 4"):
        read(tmp_path, delimiter.join(["1"] + ["255"] * 60_000) + "\n")
    with pytest.raises(UserError, match="line 1: there are 1 columns"):
        read(tmp_path, "1" * 300_000)


def test_a_missing_file_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"cannot read .*gone\.csv: No such file"):
        read_csv(tmp_path / "gone.csv", 3, 3)


NUMBERS = st.floats(allow_nan=False, allow_infinity=False, width=32)


@given(
    rows=st.lists(st.tuples(st.integers(0, 2), NUMBERS, NUMBERS), min_size=1, max_size=8),
    delimiter=st.sampled_from([",", ";", "\t"]),
    quoting=st.sampled_from([csv.QUOTE_ALL, csv.QUOTE_MINIMAL]),
    end=st.sampled_from(["\n", "\r\n", "\r"]),
    comma=st.booleans(),
    encoding=st.sampled_from(["utf-8", "utf-8-sig", "utf-16"]),
)
@settings(deadline=None)
def test_any_table_that_a_writer_makes_is_read_back(  # type: ignore[no-untyped-def]
    tmp_path_factory, rows, delimiter, quoting, end, comma, encoding
) -> None:
    out = io.StringIO()
    writer = csv.writer(out, delimiter=delimiter, quoting=quoting, lineterminator=end)
    texts = [[str(label), repr(a), repr(b)] for label, a, b in rows]
    if comma and delimiter != ",":
        texts = [[text.replace(".", ",") for text in row] for row in texts]
    writer.writerow(["label", "a", "b"])
    writer.writerows(texts)
    x, y = read(tmp_path_factory.mktemp("csv"), out.getvalue().encode(encoding), 2)
    np.testing.assert_array_equal(x, np.array([row[1:] for row in rows], np.float32))
    assert y == [row[0] for row in rows]
