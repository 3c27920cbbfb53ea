"""The report page in a headless browser: every plot has content, fits a phone, and is printed unfolded."""

import re
from pathlib import Path

import pytest

from tests.support.browser import Browser

CONTENT = """
return [...document.querySelectorAll('figure > svg')].map((svg) => {
  const box = svg.getBoundingClientRect(), inside = svg.viewBox.baseVal;
  const marks = [...svg.querySelectorAll('path:not(.grid):not(.ideal), rect, circle')].map((m) => m.getBBox());
  const texts = [...svg.querySelectorAll('text')].map((t) => [t.getBBox(), t.textContent]);
  return {
    title: svg.querySelector('title').textContent, width: box.width, height: box.height, marks: marks.length,
    inside: marks.every((b) => b.x >= -4 && b.y >= -4 && b.x + b.width <= inside.width + 4
      && b.y + b.height <= inside.height + 4),
    texts: texts.length, cut: texts.filter(([b]) => b.x < -2 || b.x + b.width > inside.width + 12).map((t) => t[1]),
    size: box.width / inside.width * parseFloat(getComputedStyle(svg.querySelector('text')).fontSize),
  };
});
"""


@pytest.mark.slow
@pytest.mark.parametrize("width", [360, 1200])
@pytest.mark.parametrize("dark", [False, True])
def test_every_plot_has_content_in_a_browser(chromium: Browser, runs: Path, text: str, width: int, dark: bool) -> None:
    chromium.look(width, dark)
    chromium.open((runs / "report.html").as_uri())
    plots = chromium.run(CONTENT)
    assert len(plots) > 20
    for plot in plots:
        assert plot["width"] > 250, plot
        assert plot["height"] > 60, plot
        assert plot["marks"] >= 1, plot
        assert plot["texts"] >= 4, plot
        assert plot["inside"], plot
        assert plot["cut"] == [], plot
        assert plot["size"] > 9, plot
    assert chromium.run("return document.documentElement.scrollWidth") <= width
    back = chromium.run("return getComputedStyle(document.body).backgroundColor")
    assert (sum(int(n) for n in re.findall(r"\d+", back)) < 200) == dark
    chromium.run("document.querySelectorAll('details').forEach((d) => { d.open = true; })")
    assert chromium.run("return document.documentElement.scrollWidth") <= width
    assert chromium.complaints() == []


@pytest.mark.slow
def test_plots_that_are_folded_on_the_screen_are_printed(chromium: Browser, runs: Path, text: str) -> None:
    """With many settings, the plots of each one are folded, and on paper they cannot be unfolded."""
    visible = "return [...document.querySelectorAll('.inside svg')].filter((s) => s.checkVisibility()).length"
    chromium.look(1200)
    chromium.open((runs / "report.html").as_uri())
    all_plots = chromium.run(visible)
    chromium.run("document.querySelectorAll('.inside').forEach((d) => { d.open = false; })")
    assert chromium.run(visible) == 0
    chromium.print()
    assert chromium.run(visible) == all_plots > 0
    chromium.look(1200)
    assert chromium.run(visible) == 0
