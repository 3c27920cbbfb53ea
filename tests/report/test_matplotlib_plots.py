"""Plots as matplotlib figures: they show the numbers of the run folders, and pyplot does not know them."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

import edgefd
from edgefd.core.errors import UserError
from tests.support.report_runs import METHODS, lines, rewrite

matplotlib = pytest.importorskip("matplotlib")


def test_the_accuracy_by_round_of_each_method_is_drawn(runs: Path) -> None:
    (axes,) = edgefd.plot(runs).axes
    drawn = {str(line.get_label()): line for line in axes.lines}
    assert set(drawn) == set(METHODS)
    for method, below in METHODS.items():
        rows = lines(runs / below)
        np.testing.assert_array_equal(drawn[method].get_xdata(), [row["round"] for row in rows])
        np.testing.assert_allclose(drawn[method].get_ydata(), [row["accuracy_mean"] for row in rows])
    assert len({line.get_color() for line in axes.lines}) == 3
    legend = axes.get_legend()
    assert legend is not None
    assert {text.get_text() for text in legend.get_texts()} == set(METHODS)


def test_runs_of_several_seeds_are_one_curve_with_their_interval(runs: Path, single_run: Path, tmp_path: Path) -> None:
    second = tmp_path / "second"
    shutil.copytree(single_run, second)
    for name in ("config.yaml", "summary.json"):
        text = (second / name).read_text()
        (second / name).write_text(text.replace("seed: 0", "seed: 1").replace('"seed": 0', '"seed": 1'))
    rows = lines(second)
    rewrite(second, [row | {"accuracy_mean": row["accuracy_mean"] + 0.02} for row in rows])
    (axes,) = edgefd.plot([single_run, second]).axes
    (curve,) = axes.lines
    np.testing.assert_allclose(curve.get_ydata(), [row["accuracy_mean"] + 0.01 for row in rows])
    assert len(axes.collections) == 1


def test_each_client_and_the_mean_are_drawn_for_each_method(runs: Path) -> None:
    figure = edgefd.plot(runs, "clients")
    assert {axes.get_title() for axes in figure.axes} == set(METHODS)
    for axes in figure.axes:
        rows = lines(runs / METHODS[axes.get_title()])
        assert len(axes.lines) == 4 + 1
        for client, line in enumerate(axes.lines[:4]):
            np.testing.assert_allclose(line.get_ydata(), [row["accuracy_per_client"][client] for row in rows])
        np.testing.assert_allclose(axes.lines[4].get_ydata(), [row["accuracy_mean"] for row in rows])


def test_bytes_are_drawn_by_direction_and_against_the_accuracy(runs: Path) -> None:
    bars, curves = edgefd.plot(runs, "bytes").axes
    names = [label.get_text() for label in bars.get_yticklabels()]
    for direction, container in zip(("up", "down"), bars.containers, strict=True):
        sizes = dict(zip(names, (bar.get_width() for bar in container), strict=True))
        totals = {
            m: sum(row[f"bytes_{direction}"] for row in lines(runs / below)) / 1e6 for m, below in METHODS.items()
        }
        assert sizes == pytest.approx(totals)
    (curve,) = [line for line in curves.lines if line.get_label() == "fedmd"]
    rows, sent, expected = lines(runs / METHODS["fedmd"]), 0, []
    for row in rows:  # the accuracy of a round is measured after its teacher came, before the reports go
        expected.append((sent + row["bytes_down"]) / 1e6)
        sent += row["bytes_down"] + row["bytes_up"]
    np.testing.assert_allclose(curve.get_xdata(), expected)


def test_a_figure_is_shown_by_a_notebook_and_left_to_no_one_to_close(runs: Path, tmp_path: Path) -> None:
    import matplotlib.pyplot as plt

    before = plt.get_fignums()
    figure = edgefd.plot(runs)
    assert figure._repr_png_().startswith(b"\x89PNG")  # type: ignore[attr-defined]
    figure.savefig(tmp_path / "plot.pdf")
    assert (tmp_path / "plot.pdf").read_bytes().startswith(b"%PDF")
    assert plt.get_fignums() == before


def test_a_name_that_looks_like_a_formula_is_drawn_as_it_is(single_run: Path) -> None:
    config = (single_run / "config.yaml").read_text()
    (single_run / "config.yaml").write_text(config.replace("name: edgefd", r'name: "$\\frac$"', 1))
    assert edgefd.plot(single_run)._repr_png_()  # type: ignore[attr-defined]


@pytest.mark.parametrize("kind", ["clients", "accuracy", "bytes"])
def test_runs_of_devices_have_only_the_accuracy_on_their_own_data(single_run: Path, kind: str) -> None:
    rewrite(single_run, [row | {"accuracy_mean": None, "accuracy_per_client": None} for row in lines(single_run)])
    if kind == "clients":
        with pytest.raises(UserError, match="no accuracy of single clients"):
            edgefd.plot(single_run, "clients")
        return
    figure = edgefd.plot(single_run, kind)  # type: ignore[arg-type]
    if kind == "accuracy":
        assert figure.axes[0].get_ylabel() == "accuracy on clients' own held-out data"


def test_bad_input_is_one_line(runs: Path, single_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="unknown plot 'accuracies': did you mean 'accuracy'"):
        edgefd.plot(runs, "accuracies")  # type: ignore[arg-type]
    with pytest.raises(UserError, match="holds no run that completed a round"):
        edgefd.plot(tmp_path / "nothing")
    rewrite(single_run, [row | {"accuracy_mean": None} for row in lines(single_run)])
    with pytest.raises(UserError, match="some of these runs are of devices"):
        edgefd.plot([runs / "also", single_run])
    monkeypatch.setattr("edgefd.core.errors.find_spec", lambda name: None if name == "matplotlib" else name)
    with pytest.raises(UserError, match=r"^this needs matplotlib: pip install 'edgefd\[plot\]'$"):
        edgefd.plot(runs)


def test_a_report_is_a_path_that_a_notebook_shows_as_a_page_of_its_own(runs: Path, tmp_path: Path) -> None:
    from html.parser import HTMLParser

    from edgefd.report.command import write_report

    frames: list[dict[str, str | None]] = []

    class Frames(HTMLParser):
        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            frames.append({"tag": tag, **dict(attrs)})

    page = write_report([runs], tmp_path / "page.html")
    Frames().feed(str(page._repr_html_()))
    (frame,) = frames
    assert frame["tag"] == "iframe"
    assert frame["srcdoc"] == page.read_text()
    assert frame["sandbox"] is None  # without a value: no script runs, and it has no origin
    assert page == tmp_path / "page.html"
    page.unlink()
    assert page._repr_html_() is None
    assert json.dumps(str(page.parent)) == json.dumps(str(tmp_path))
