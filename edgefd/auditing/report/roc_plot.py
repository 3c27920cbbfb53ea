"""ROC curves on logarithmic axes as SVG, because what an attack finds at low false-positive rates matters most."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from edgefd.report.html import escape
from edgefd.report.svg import path, svg, text

CURVES = 9  # the number of colours in audit.css
_LOWEST = 1e-3
_LEFT, _TOP, _SIZE = 62, 10, 330
_TITLE = "ROC curves on logarithmic axes"

Points = list[tuple[float, float]]


def log_roc(results: Sequence[Mapping[str, Any]], key: str, label: str = "attack") -> str:
    """Draw the ROC curves of the first nine attack results on logarithmic axes, as a figure.

    `label` is the field that names a curve; `key` is unique on the page. The band is the 95 % interval of the first
    curve's true-positive rate, see `tpr_interval`.
    """
    shown = results[:CURVES]
    names = [f"{result[label]}, {result['auc']['value']:.3f}" for result in shown]
    curves = [
        f'<path class="curve s{style}" d="{_path(list(zip(r["roc"]["fpr"], r["roc"]["tpr"], strict=True)))}"/>'
        for style, r in enumerate(shown)
    ]
    body = (
        f'{_axes()}<path class="band s0" d="{_path(_band(shown[0]))}Z"/>'
        f'<path class="ideal" d="{_path([(_LOWEST, _LOWEST), (1, 1)])}"/>' + "".join(curves)
    )
    items = "".join(f'<li><i class="s{style}"></i>{escape(name)}</li>' for style, name in enumerate(names))
    plot = svg(key, _TITLE, f"AUC of {'; '.join(names)}", _LEFT + _SIZE + 22, _TOP + _SIZE + 48, body)
    return (
        f'<figure>{plot}<ul class="key">{items}</ul><figcaption>The number after each name is the AUC. The dashed line '
        "is random guessing. The band is the 95 % interval of the share of members that "
        f"{escape(shown[0][label])} finds. Below 1 %, only few non-members decide: read the intervals in the table."
        "</figcaption></figure>"
    )


def _position(fpr: float, tpr: float) -> tuple[float, float]:
    x, y = (1 - math.log10(max(v, _LOWEST)) / math.log10(_LOWEST) for v in (fpr, tpr))
    return _LEFT + x * _SIZE, _TOP + (1 - y) * _SIZE


def _path(points: Points) -> str:
    return path([_position(*point) for point in points])


def _band(result: Mapping[str, Any]) -> Points:
    roc = result["roc"]
    upper = list(zip(roc["fpr"], roc["high"], strict=True))
    return upper + list(zip(roc["fpr"], roc["low"], strict=True))[::-1]


def _axes() -> str:
    parts = []
    for power in (-3, -2, -1, 0):
        x, y = _position(10.0**power, 10.0**power)
        label = f"{10.0**power * 100:g} %"
        parts.append(f'<path class="grid" d="M{x:.1f} {_TOP}V{_TOP + _SIZE}M{_LEFT} {y:.1f}H{_LEFT + _SIZE}"/>')
        parts.append(text(x, _TOP + _SIZE + 18, label, "middle"))
        parts.append(text(_LEFT - 6, y + 4, label, "end"))
    parts.append(text(_LEFT + _SIZE / 2, _TOP + _SIZE + 40, "non-members accused (FPR)", "middle"))
    parts.append(text(17, _TOP + _SIZE / 2, "members found (TPR)", "middle", rotate=-90))
    return "".join(parts)
