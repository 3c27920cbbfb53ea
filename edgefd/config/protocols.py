"""Training protocols of published work by name: the key `protocol` sets the defaults of the other sections."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from edgefd.config.schema import variant_key
from edgefd.core.errors import UserError, hint


@dataclass(frozen=True)
class Protocol:
    """A training protocol: how clients train and exchange, without data, partition and model."""

    summary: str
    """what the protocol does, in one sentence"""
    source: str
    """where the settings come from"""
    differs: str
    """what of the published protocol is not the same, not known, or left to the user"""
    settings: Mapping[str, Mapping[str, Any]]
    """sections of a config, as in YAML"""


_SELECTIVE = {
    "optimizer": "sgd",
    "momentum": 0.0,
    "lr": 0.1,
    "initial": "own",
    "local_steps": 1,
    "local_batch_size": 64,
    "batch_size": 512,
    "private_rows_per_batch": 0,
    "adjusted_steps": 0,
    "distill_epochs": 10,
    "closing_epochs": 10,
}
"""training of the code of Selective-FD, which the code of Weighted-FD took over"""
_DRAW = {"name": "random", "budget": 512}
_KULSIF = {"width": 5.0, "variant": "published"}

PROTOCOLS = {
    "edgefd": Protocol(
        "Each batch of the distillation holds some private rows; there is no separate local phase.",
        "The federation of EdgeFD (arXiv 2508.14769): clients give 10 % of their samples to the proxy set, and filter "
        "on the client alone. A review of the paper names 10 to 20 %.",
        "The training of the paper is not known. The training is that of edgefd's defaults, which were chosen on data.",
        {"method": {"name": "edgefd"}, "proxy": {"source": "contributed", "alpha": 0.1}},
    ),
    "fedmd": Protocol(
        "A round is one pass over the proxy set with the L1 loss of scores (digest), then 4 passes over the private "
        "data in batches of 5 (revisit). Before these rounds, clients train on the labelled proxy set.",
        "The authors' code (github.com/diogenes0319/FedMD_clean, `FedMD.py` and `conf/CIFAR_balance_conf.json`): 20 "
        "rounds, Adam with learning rate 0.001, digest in batches of 256, a model of its own for each client.",
        "They draw 5,000 new public samples for each round; here each round uses the whole proxy set. Their clients "
        "train on the public set until they stop gaining, then for up to 25 passes on private data, before the first "
        "round. Here they make 4 private passes in round 0 (set `train.warmup_steps` for more), then one pass over the "
        "labelled proxy set in round 1. Their clients have 18 samples: batches of 5 are slow for larger clients, and "
        "devices refuse such batches. To distil soft labels without proxy labels, set `method.name=fedmd "
        "distillation.loss=l1`.",
        {
            "method": {"name": "fedmd_published"},
            "proxy": {"source": "public"},
            "train": {
                "rounds": 20,
                "optimizer": "adam",
                "lr": 0.001,
                "schedule": "constant",
                "initial": "own",
                "local_epochs": 4,
                "local_batch_size": 5,
                "batch_size": 256,
                "private_rows_per_batch": 0,
                "adjusted_steps": 0,
                "distill_epochs": 1,
                "closing_epochs": 1,
            },
        },
    ),
    "selective_fd": Protocol(
        "A round is one private batch, then 10 steps on the same 512 random proxy rows; clients filter by KuLSIF.",
        "The authors' code (github.com/shaojiawei07/Selective-FD, `Selective-FD.py` and `KuLSIF.py`) for MNIST: plain "
        "SGD with learning rate 0.1, times 0.7 every 2,500 rounds; kernel width 5, first quartile as threshold.",
        "They train for 20,000 rounds and report the best accuracy on the test set: set `train.rounds`, and compare "
        "with `accuracy_best`. The default number of rounds is that of edgefd. They draw the 512 rows from those that "
        "a client accepted; here the rows are drawn from all, and those that nobody accepted drop out of the batch. "
        "Their inputs are `data: {scale: unit, mean: [0.1307], deviation: [0.3081]}`, and their network has dropout.",
        {
            "method": {"name": "selective_fd", **_KULSIF},
            "proxy": {"source": "public", "alpha": 0.1},
            "selection": _DRAW,
            "train": {**_SELECTIVE, "schedule": "step", "step_rounds": 2500, "step_factor": 0.7},
        },
    ),
    "weighted_fd": Protocol(
        "Clients train on 200 private batches before the first exchange. A round is one private batch, then 10 steps "
        "on the same 512 random proxy rows. The server knows the labels of the proxy set.",
        "The authors' code (github.com/pidellacqua/weighted-fd, `train.py`, commit e5197e0): 100 rounds, plain SGD "
        "with learning rate 0.1.",
        "Their step schedule does not change the learning rate within 100 rounds, so it is constant here. Their FedMD "
        "and Selective-FD have the same training: set `method.name`. [Reproduction](../results/reproduction.md) "
        "compares all three with runs of their code.",
        {
            "method": {"name": "weighted_fd"},
            "proxy": {"source": "public", "alpha": 0.2},
            "selection": _DRAW,
            "train": {**_SELECTIVE, "rounds": 100, "schedule": "constant", "warmup_steps": 200},
        },
    ),
    "fedadas": Protocol(
        "Clients train on their private data first, then send soft labels of all proxy rows; the server averages them "
        "plainly, and clients distil the mean by KL at temperature 1.",
        "FedADAS (arXiv 2605.19480), the later work of the authors of EdgeFD, **from summaries by others only**: 20 "
        "rounds, Adam with learning rate 0.001, batches of 32, about 10 % of each client's data shared as the proxy "
        "set.",
        "The text of the paper and its code were not available. The number of private and of distillation passes is "
        "not known: one of each is our choice, and so is the constant learning rate.",
        {
            "method": {"name": "fedmd"},
            "proxy": {"source": "contributed", "alpha": 0.1},
            "distillation": {"loss": "kl", "temperature": 1.0},
            "train": {
                "rounds": 20,
                "optimizer": "adam",
                "lr": 0.001,
                "schedule": "constant",
                "local_epochs": 1,
                "batch_size": 32,
                "private_rows_per_batch": 0,
                "adjusted_steps": 0,
                "distill_epochs": 1,
                "closing_epochs": 1,
            },
        },
    ),
}


def with_protocol(raw: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the sections of a config with those of its protocol as defaults.

    A section that names another method, rule or loss than the protocol gets none of the protocol's settings, because
    they can have another meaning there.

    Raises:
        UserError: for an unknown protocol.

    >>> with_protocol({"protocol": "weighted_fd", "train": {"lr": 0.5}})["train"]["lr"]
    0.5
    """
    name = raw.get("protocol")
    if name is None:
        return raw
    if not isinstance(name, str) or name not in PROTOCOLS:
        raise UserError(f"protocol: unknown protocol {name!r}: {hint(str(name), PROTOCOLS)}")
    sections: dict[str, Any] = dict(raw)
    for section, defaults in PROTOCOLS[name].settings.items():
        own, key = raw.get(section) or {}, variant_key(section)
        if isinstance(own, Mapping) and own.get(key) in (None, defaults.get(key)):
            sections[section] = {**defaults, **own}
    return sections
