"""The settings of a config under keys of one level, such as train.rounds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def flat_settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings under keys such as train.rounds; for several models, model.name is such as "cnn+mlp".

    >>> flat_settings({"seed": 0, "train": {"rounds": 2}, "model": [{"name": "cnn"}, {"name": "mlp"}]})
    {'seed': 0, 'train.rounds': 2, 'model.name': 'cnn+mlp'}
    """
    flat: dict[str, Any] = {}
    for section, value in config.items():
        several_models = section == "model" and isinstance(value, list)
        plain = {k: _joined([model[k] for model in value]) for k in value[0]} if several_models else value
        flat |= {f"{section}.{k}": v for k, v in plain.items()} if isinstance(plain, dict) else {section: plain}
    return flat


def _joined(values: list[Any]) -> Any:
    return values[0] if all(v == values[0] for v in values) else "+".join(str(v) for v in values)
