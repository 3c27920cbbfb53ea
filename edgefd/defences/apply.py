"""Which defence a config asks for, and a method with it: the `defence` section."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from edgefd.core.errors import UserError
from edgefd.core.knowledge import Knowledge
from edgefd.core.settings import settings_of
from edgefd.defences import dp_sgd, label_only, noise, pate, swing, top_k
from edgefd.defences.dp_sgd import DpSgd
from edgefd.defences.label_only import LabelOnly
from edgefd.defences.noise import Noise
from edgefd.defences.pate import Pate
from edgefd.defences.swing import Swing
from edgefd.defences.top_k import TopK
from edgefd.federation.method import Method, accept_all, default_local_step, identity, teacher_rows
from edgefd.federation.plan import Training


@dataclass(frozen=True)
class NoDefence:
    """Answers leave as the method makes them."""

    name: Literal["none"] = "none"


Defence = NoDefence | TopK | LabelOnly | Swing | Noise | Pate | DpSgd
DEFENCES: dict[str, type] = {
    "none": NoDefence,
    "top_k": TopK,
    "label_only": LabelOnly,
    "swing": Swing,
    "noise": Noise,
    "pate": Pate,
    "dp_sgd": DpSgd,
}
_RELEASES: dict[type, Callable[..., Knowledge]] = {
    TopK: top_k.privatise,
    LabelOnly: label_only.privatise,
    Swing: swing.privatise,
    Noise: noise.privatise,
    Pate: pate.privatise,
}
Private = Noise | Pate | DpSgd
"""Defences that claim differential privacy."""


def defended(method: Method, defence: Defence) -> Method:
    """The method whose clients defend themselves."""
    if isinstance(defence, NoDefence):
        return method
    if isinstance(defence, DpSgd):
        return replace(method, run_local_training=functools.partial(dp_sgd.run_local_training, settings=defence))
    return replace(method, privatise=functools.partial(_RELEASES[type(defence)], settings=defence))


def defence_of(settings: Mapping[str, Any]) -> Defence:
    """The defence from plain values, as a device reads them from its bundle.

    Raises:
        UserError: for an unknown defence or setting, or a value of another type or out of range.

    >>> defence_of({"name": "top_k", "k": 2})
    TopK(name='top_k', k=2, calibrate=False)
    """
    name = settings.get("name")
    if name not in DEFENCES:
        raise UserError(f"unknown defence {name!r}: there are {', '.join(DEFENCES)}")
    found: Defence = settings_of(f"defence {name}", DEFENCES[name], settings)
    return found


def check_method(defence: Defence, method: Method) -> None:
    """Whether the method sends what the defence works on.

    Raises:
        UserError: if not.
    """
    if isinstance(defence, NoDefence):
        return
    if not method.exchanges or not method.message.of_proxy_rows:
        raise UserError(f"defence: it works on soft labels of proxy rows; method {method.name} sends none")
    if not isinstance(defence, Private):
        return
    if method.client_filter is not accept_all or method.upload is not None:
        raise UserError(
            f"defence {defence.name}: which rows a client of method {method.name} answers for, and how surely, is told "
            "too and depends on its private data, which no noise covers: use a method that answers for all rows, fedmd"
        )
    if (
        method.distillation_targets is not teacher_rows
        or method.personalise_teacher is not identity
        or method.train is not default_local_step
    ):
        raise UserError(
            f"defence {defence.name}: method {method.name} trains clients in a way of its own, which is not accounted "
            "for: use fedmd"
        )


def check_private(defence: Defence, training: Training, contributes: bool, learners: set[str]) -> None:
    """Whether a claim of differential privacy would hold with the rest of a config.

    Args:
        defence: any; those that claim nothing pass.
        training: the `train` section.
        contributes: whether raw private samples are the proxy set.
        learners: names of what trains the clients' models.

    Raises:
        UserError: if it would not; it says why.
    """
    if not isinstance(defence, Private):
        return
    if contributes:
        raise UserError(
            f"defence {defence.name}: with proxy.source=contributed raw private samples leave the client, so no "
            "epsilon can be claimed: set proxy.source=public"
        )
    if not isinstance(defence, DpSgd):
        return
    if training.private_rows_per_batch:
        raise UserError(
            "defence dp_sgd: private rows in distillation batches would be seen without noise: set "
            "train.private_rows_per_batch=0 and train.local_steps above 0"
        )
    if not training.local_steps:
        raise UserError("defence dp_sgd: it is what local steps do: set train.local_steps above 0")
    if learners != {"torch"}:
        raise UserError("defence dp_sgd needs gradients of single records: set run.learner=torch, for every model")


def check_devices_can(defence: Defence) -> None:
    """Whether a device can do it, and its coordinator cannot undo it.

    Raises:
        UserError: if not.
    """
    if isinstance(defence, DpSgd):
        raise UserError("defence dp_sgd needs torch, which devices do not have: it runs in simulations")
    if isinstance(defence, Private):
        raise UserError(
            f"defence {defence.name}: its noise is drawn from the run's seed, which a coordinator knows and could take "
            "off again: it runs in simulations"
        )


def claim(defence: Defence) -> tuple[float, float] | None:
    """(epsilon, delta) of one client's private record, over the whole run; None: nothing is claimed."""
    return (defence.epsilon, defence.delta) if isinstance(defence, Private) else None


def covered(defence: Defence) -> tuple[str, ...]:
    """Against whom: adversaries of `edgefd audit`. Only DP-SGD covers the model itself, which a holder has."""
    if isinstance(defence, DpSgd):
        return ("server", "client", "holder", "eavesdropper")
    return ("server", "client", "eavesdropper") if isinstance(defence, Private) else ()
