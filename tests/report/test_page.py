"""The report page as a document: accessible, self-contained, and safe against names that look like HTML."""

import json
import re
from pathlib import Path

import yaml

from tests.support.report_runs import Page, report_page


def test_every_plot_has_a_title_a_description_and_a_table(page: Page, text: str) -> None:
    figures = [a for tag, a in page.tags if tag == "figure"]
    plots = [a for tag, a in page.tags if tag == "svg" and a.get("role") == "img"]
    assert len(plots) == len(figures) > 20
    ids = [a["id"] for tag, a in page.tags if "id" in a]
    assert len(ids) == len(set(ids))
    for plot in plots:
        title, description = (
            re.search(rf'<(?:title|desc) id="{i}">([^<]+)<', text) for i in plot["aria-labelledby"].split()
        )
        assert title is not None
        assert description is not None
    assert "NaN" not in text
    assert text.count("<details><summary>The numbers") == len(figures)


def test_the_page_loads_nothing(page: Page, text: str) -> None:
    for tag, attributes in page.tags:
        assert tag not in ("script", "iframe", "img", "object", "embed", "use", "image")
        assert "src" not in attributes
        assert attributes.get("href", "data:").startswith("data:")
        assert not any(name.startswith("on") for name in attributes)
    assert not re.search(r"https?:|url\(|@import", text)
    assert len(text) < 500_000


def test_names_that_look_like_html_are_shown_as_text(single_run: Path) -> None:
    evil = "<img src=x onerror=alert(1)>\"'&"
    obeyed, shown = "\x1b[31m\u202e\ud800", r"\x1b[31m\u202e\ud800"  # the last one has no place in a file of text
    config = yaml.safe_load((single_run / "config.yaml").read_text())
    config["partition"]["name"], config["method"]["name"] = f"p{evil}", f"m{evil}"
    (single_run / "config.yaml").write_text(yaml.safe_dump(config))
    for name, key in (("summary.json", "dataset"), ("summary.json", "data_source"), ("env.json", "commit")):
        found = json.loads((single_run / name).read_text())
        (single_run / name).write_text(json.dumps(found | {key: f"{key}{obeyed}{evil}"}))
    renamed = single_run.with_name("x onerror=alert(1) <img>")
    single_run.rename(renamed)
    parsed = report_page(renamed)
    assert not [tag for tag, _ in parsed.tags if tag == "img"]
    for name in ("p", "m", f"dataset{shown}", f"data_source{shown}", f"commit{shown}"):
        assert f"{name}{evil}" in parsed.text
    assert f"edgefd simulate '{renamed}/config.yaml'" in parsed.text
