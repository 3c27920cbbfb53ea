"""audit.html of a level 2 audit: its verdicts and tables, and in a browser every curve, readable on a phone."""

import json
import re
from pathlib import Path

import numpy as np
import pytest

from edgefd.auditing.attacks.extraction import extraction
from edgefd.auditing.attacks.inversion import inversion
from edgefd.auditing.attacks.membership import Scores
from edgefd.auditing.report.evidence import evidence
from edgefd.auditing.report.findings import attack_result, controls
from edgefd.auditing.report.page import page
from edgefd.auditing.report.user_level import user_level
from edgefd.auditing.scope import NOT_TESTED
from tests.support.browser import Browser

CONTENT = """
return [...document.querySelectorAll('figure')].map((figure) => {
  const svg = figure.querySelector('svg'), box = svg.getBoundingClientRect(), inside = svg.viewBox.baseVal;
  const boxes = [...svg.querySelectorAll('.curve, .band')].map((m) => m.getBBox());
  const labels = [...svg.querySelectorAll('text')].map((t) => t.getBoundingClientRect());
  return {
    curves: svg.querySelectorAll('.curve').length, key: figure.querySelectorAll('.key li').length,
    drawn: boxes.every((b) => b.width > 20 && b.height > 20),
    inside: boxes.every((b) => b.x >= 0 && b.y >= 0 && b.x + b.width <= inside.width
      && b.y + b.height <= inside.height),
    cut: labels.some((b) => b.left < box.left - 1 || b.right > box.right + 1 || b.bottom > box.bottom + 1),
    size: box.width / inside.width * parseFloat(getComputedStyle(svg.querySelector('text')).fontSize),
  };
});
"""

SMALLEST = """
const text = [...document.querySelectorAll('p, td, li, dd')];
return Math.min(...text.map((e) => parseFloat(getComputedStyle(e).fontSize)));
"""


PICTURES = "return [...document.images].map((i) => [i.complete, i.naturalWidth, i.naturalHeight, i.width])"


def reconstructions() -> dict[str, np.ndarray]:
    """Return random reconstructions for three clients with three classes each, without anything private."""
    r = np.random.default_rng(1)
    pictures = ("own", "near_private", "near_unseen")
    scores = [f"{name}_{to}" for name in ("own", "other", "proxy", "planted") for to in ("private", "unseen")]
    signals = {name: r.random((9, 1, 28, 28)) for name in pictures}
    signals |= {name: r.uniform(0.4, 0.6, 9) for name in scores}
    signals["planted_private"] = r.uniform(0.8, 0.9, 9)
    return signals | {"client": np.repeat([0, 1, 2], 3), "y": np.tile([3, 5, 8], 3)}


def result() -> dict[str, object]:
    """Return the result of an audit with invented scores of three clients, of which the second discloses most."""
    r = np.random.default_rng(0)
    client, member = np.repeat([0, 1, 2], 200), np.tile(np.arange(200) < 100, 3)

    def scores(attack: str, who: str, shift: float, round: int | None) -> Scores:
        values = r.normal(shift * member * (1 + client % 2), 1)
        return Scores(attack, who, values, client, member, round)

    all_scores = [
        scores(attack, who, shift, None if who == "holder" else 9)
        for who in ("server", "client", "holder")
        for attack, shift in (("loss", 0.4), ("shadow_lira", 0.9), ("planted", 2.0))
        if (who, attack) != ("client", "planted")
    ]
    membership = [attack_result(score, 0) for score in all_scores]
    membership[1]["each_shadow_in_turn"] = [0.71, 0.75, 0.78]
    null = {"loss": (r.normal(size=600), member), "shadow_lira": (r.normal(size=600), member)}
    positive = {name: (r.normal(3.0 * member), member) for name in null}
    areas, failed = controls(null, positive)
    y = np.arange(300) % 3
    classes = {"client": np.stack([y] * 3), "copy": np.stack([y] * 3), "control": np.stack([0 * y] * 3)}
    return {
        "edgefd": "0", "run": "runs/first", "command": "edgefd audit runs/first --level 2",
        "run_command": "edgefd simulate my.yaml --out runs/first", "method": "edgefd",
        "dataset": "mnist_mini", "scenario": "iid", "n_clients": 3, "rounds": 10, "seed": 0, "codec": "float16",
        "level": 2, "adversaries": ["server", "client", "holder", "eavesdropper"], "valid": not failed,
        "failed_controls": failed, "limits": [], "exposure": {}, "claims": [], "seal": "5ea1",
        "user_level": user_level(all_scores, np.random.default_rng(0)),
        "replay": {"reports": 30, "equal": 30, "exact": True, "differing": [], "skipped": []},
        "evidence": {
            who: evidence([score for score in all_scores if score.adversary == who], r)
            for who in ("server", "client", "holder")
        }, "membership": membership, "controls": areas,
        "extraction": extraction(classes | {"y": y, "rows": np.array([50, 60, 70])}),
        "inversion": inversion(reconstructions())[0], "not_tested": list(NOT_TESTED),
    }  # fmt: skip


def test_the_page_states_verdicts_attacks_controls_and_commands() -> None:
    text = page(json.loads(json.dumps(result())), reconstructions())
    words = re.sub(r"<[^>]+>", " ", text)
    assert text.count("<dt>") == 4  # a verdict for each adversary
    assert words.count("was not tested with the attacks") == 0
    assert "each of the 3 shadow federations" in words
    assert "0.710 to 0.780" in words
    assert "What was not tested" in words
    assert "gradient inversion" in words
    assert "AUC of one record" in words
    assert "edgefd audit runs/first --level 2" in words
    assert "edgefd simulate my.yaml --out runs/first" in words
    worst_first = re.search(r"worst first \(shadow_lira\):</p>.*?</table>", text, re.S)
    assert worst_first is not None
    assert re.findall(r'<tr><th scope="row">(\d)</th>', worst_first[0])[0] == "1"
    assert "its best attack, planted" not in words  # it attacks canaries, not records
    assert "ε is at least" in words
    assert words.count("reconstructs from soft labels nothing that can be shown to come from a private record") == 2
    assert text.count("data:image/png;base64,") == 1


HOSTILE = "<script>alert(1)</script>'\"&<img src=x onerror=alert(1)>"


def test_names_of_a_config_cannot_add_markup_and_the_page_loads_nothing() -> None:
    names = ("run", "command", "run_command", "method", "dataset", "scenario", "codec", "edgefd")
    hostile = result() | dict.fromkeys(names, HOSTILE)
    hostile["limits"] = [{"limit": HOSTILE, "found": 0.5, "exceeded": True}]
    hostile["not_tested"] = [HOSTILE]
    for valid in (True, False):
        hostile |= {"valid": valid, "failed_controls": [HOSTILE]}
        text = page(json.loads(json.dumps(hostile)), reconstructions())
        tags = set(re.findall(r"<(/?[a-zA-Z]+)", text))
        assert not tags & {"script", "/script", "iframe", "object", "form", "base"}
        assert "onerror=alert(1)>" not in text.replace("onerror=alert(1)&gt;", "")
        assert all(tag.startswith('<img class="') or "data:image/png" in tag for tag in re.findall(r"<img[^>]*>", text))
        head = text[: text.index("<body>")]
        assert "Content-Security-Policy\" content=\"default-src 'none';" in head


@pytest.mark.slow
def test_every_curve_has_content_in_a_browser(chromium: Browser, tmp_path: Path) -> None:
    path = tmp_path / "audit.html"
    path.write_text(page(json.loads(json.dumps(result())), reconstructions()))
    for width in (360, 1200):
        chromium.look(width)
        chromium.open(path.as_uri())
        figures = chromium.run(CONTENT)
        assert [f["curves"] for f in figures] == [2, 2, 2, 2]
        for figure in figures:
            assert figure["key"] == figure["curves"]
            assert figure["drawn"], figure
            assert figure["inside"], figure
            assert not figure["cut"], figure
            assert figure["size"] > 9, figure
        assert chromium.run("return document.documentElement.scrollWidth") <= width
        assert chromium.run(SMALLEST) >= 13
        (complete, *size, shown) = chromium.run(PICTURES)[0]
        assert complete
        assert size == [8 * 30, 3 * 30]
        assert shown > 200
    assert chromium.complaints() == []
