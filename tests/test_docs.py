"""The pages: every link leads somewhere, the index reaches every page, and generated pages are up to date."""

import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

import edgefd
from docs import generate
from edgefd.config.keys import parts_of
from edgefd.core.errors import UserError
from edgefd.federation.method import Method
from edgefd.filters.kmeans_dre import KMeansDRE
from edgefd.methods import get_method

ROOT = Path(__file__).parents[1]
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
CODE = re.compile(r"```.*?```|`[^`\n]*`", re.DOTALL)


def pages() -> list[Path]:
    listed = subprocess.run(["git", "ls-files", "*.md"], cwd=ROOT, capture_output=True, text=True, check=True)
    return [ROOT / name for name in listed.stdout.split()]


def links(page: Path) -> list[tuple[Path, str]]:
    """Target file and anchor of each relative link of a page."""
    targets = LINK.findall(CODE.sub("", page.read_text(encoding="utf-8")))
    local = [t.partition("#") for t in targets if not t.startswith(("http://", "https://", "mailto:"))]
    return [((page.parent / path).resolve() if path else page, anchor) for path, _, anchor in local]


def anchors(page: Path) -> set[str]:
    """Anchors of a page's headings, as code hosts make them."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_every_link_leads_to_a_file_and_a_heading() -> None:
    broken = []
    for page in pages():
        for target, anchor in links(page):
            if not target.exists() or (anchor and target.suffix == ".md" and anchor not in anchors(target)):
                broken.append(f"{page.relative_to(ROOT)}: {target.name}#{anchor}")
    assert broken == []


def test_every_page_of_docs_is_reached_from_the_index() -> None:
    reached, todo = set(), [ROOT / "docs" / "index.md"]
    while todo:
        page = todo.pop()
        if page not in reached and page.suffix == ".md" and page.exists():
            reached.add(page)
            todo += [target for target, _ in links(page)]
    assert {p for p in pages() if (ROOT / "docs") in p.parents} <= reached


def test_the_generated_pages_are_up_to_date() -> None:
    done = subprocess.run([sys.executable, "docs/generate.py"], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_page_that_differs_or_is_missing_is_reported_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(generate, "HERE", tmp_path)
    generate.main(["--write"])
    generate.main([])
    (tmp_path / "cli.md").unlink()
    with (tmp_path / "config.md").open("a") as page:
        page.write("one more line\n")
    with pytest.raises(SystemExit, match=r"config\.md, cli\.md differ from the code: run `make reference`$"):
        generate.main([])


def test_a_key_without_a_description_is_reported_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    (part,) = parts_of("codec")
    monkeypatch.setattr(generate, "all_parts", lambda: [replace(part, keys=(replace(part.keys[0], doc=""),))])
    with pytest.raises(SystemExit, match=r"^codec\.name: write a string after the field"):
        generate.main(["--write"])


def test_every_command_argument_and_option_is_described() -> None:
    rows = [line.split(" | ") for line in generate.cli_page().splitlines() if line.startswith("| `")]
    assert len(rows) > 50
    assert [row[0] for row in rows if not row[-1].strip(" |")] == []


def test_the_page_of_the_python_api_has_signatures_fields_and_docstrings(monkeypatch: pytest.MonkeyPatch) -> None:
    things = {"get_method": get_method, "Method": Method, "KMeansDRE": KMeansDRE, "UserError": UserError}
    for name, thing in things.items():
        monkeypatch.setattr(edgefd, name, thing, raising=False)
    monkeypatch.setattr(edgefd, "__all__", [*things, "__version__"], raising=False)
    text = generate.api_page()
    assert re.findall(r"^## (\w+)$", text, flags=re.MULTILINE) == list(things)
    assert "```python\ndef get_method(name: str) -> Method\n```" in text
    assert "| `n_clusters` | `int` | `10` |" in text
    assert "| `message` | `MessageKind` | `MessageKind.PROXY_LABELS` | meaning of a row of its messages |" in text
    assert "- UserError: if there is no such method." in text
    assert " at 0x" not in text, "addresses differ between runs"
    assert generate.undocumented() == []
