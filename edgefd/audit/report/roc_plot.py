"""ROC curves on logarithmic axes as SVG: what matters of an attack is at low false-positive rates."""

from __future__ import annotations

import html
import math
from collections.abc import Mapping, Sequence
from typing import Any

from edgefd.audit.measures.statistics import clopper_pearson

STYLE = """
svg text{font:13px system-ui,sans-serif;fill:#1c2330}
.key{display:flex;flex-wrap:wrap;gap:.1rem 1.1rem;padding:0;margin:.2rem 0;list-style:none;font-size:.88rem}
.key i{display:inline-block;width:1.3rem;height:.25rem;margin-right:.4rem;vertical-align:middle}
"""
_COLOURS = ("#1f5fa8", "#c2571a", "#2a7f4f", "#8a3fa0", "#8c6d00", "#b3261e", "#317b8c", "#555d6b", "#a0527a")
_LOWEST = 1e-3
_LEFT, _TOP, _SIZE = 62, 10, 330

Curve = list[tuple[float, float]]


def log_roc(found: Sequence[Mapping[str, Any]], name: str = "attack") -> str:
    """The first nine findings' ROC curves on log axes, as a figure, labelled with what `name` says.

    The band is the Clopper-Pearson interval of the first one's TPR.
    """
    shown = found[: len(_COLOURS)]
    lines, key = [], []
    for colour, f in zip(_COLOURS, shown, strict=False):
        points = _path(list(zip(f["roc"]["fpr"], f["roc"]["tpr"], strict=True)))
        lines.append(f'<polyline class="curve" points="{points}" fill="none" stroke="{colour}" stroke-width="1.8"/>')
        label = f"{f[name]}, {f['auc']['value']:.3f}"
        key.append(f'<li><i style="background:{colour}"></i>{html.escape(label)}</li>')
    return (
        f'<figure><svg viewBox="0 0 {_LEFT + _SIZE + 22} {_TOP + _SIZE + 48}" width="{_LEFT + _SIZE + 22}" role="img" '
        f'aria-label="ROC curves on logarithmic axes">{_axes()}'
        f'<polygon class="band" points="{_path(_band(shown[0]))}" fill="{_COLOURS[0]}" opacity="0.15"/>'
        f'<polyline points="{_path([(_LOWEST, _LOWEST), (1, 1)])}" stroke="#8a93a1" stroke-dasharray="4 4"/>'
        + "".join(lines)
        + f'</svg><ul class="key">{"".join(key)}</ul><figcaption>AUC after each name. Dashed: guessing. The band is '
        f"the 95 % interval of the members found by {html.escape(str(shown[0][name]))}. Below 1 % few non-members "
        "decide: read the table's intervals.</figcaption></figure>"
    )


def _at(fpr: float, tpr: float) -> tuple[float, float]:
    x, y = (1 - math.log10(max(v, _LOWEST)) / math.log10(_LOWEST) for v in (fpr, tpr))
    return _LEFT + x * _SIZE, _TOP + (1 - y) * _SIZE


def _path(points: Curve) -> str:
    return " ".join(f"{x:.1f},{y:.1f}" for x, y in (_at(*p) for p in points))


def _band(first: Mapping[str, Any]) -> Curve:
    fpr, n = first["roc"]["fpr"], first["members"]
    bounds = [clopper_pearson(round(t * n), n) for t in first["roc"]["tpr"]]
    upper = [(f, high) for f, (_, high) in zip(fpr, bounds, strict=True)]
    return upper + [(f, low) for f, (low, _) in zip(fpr, bounds, strict=True)][::-1]


def _axes() -> str:
    out = []
    for power in (-3, -2, -1, 0):
        x, y = _at(10.0**power, 10.0**power)
        label = f"{10.0**power * 100:g} %"
        out.append(f'<path d="M{x:.1f} {_TOP}V{_TOP + _SIZE}M{_LEFT} {y:.1f}H{_LEFT + _SIZE}" stroke="#e2e6ec"/>')
        out.append(f'<text x="{x:.1f}" y="{_TOP + _SIZE + 18}" text-anchor="middle">{label}</text>')
        out.append(f'<text x="{_LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{label}</text>')
    middle = _TOP + _SIZE / 2
    return (
        "".join(out)
        + f'<text x="{_LEFT + _SIZE / 2}" y="{_TOP + _SIZE + 40}" text-anchor="middle">non-members accused (FPR)</text>'
        f'<text x="17" y="{middle}" text-anchor="middle" transform="rotate(-90 17 {middle})">members found (TPR)</text>'
    )
