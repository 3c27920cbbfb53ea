"""The `defence` section of a config: choice of a defence, checks, and methods with a defence."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from edgefd.core.errors import RunError, UserError
from edgefd.core.knowledge import Knowledge
from edgefd.core.seeding import NoiseKey, noise_key
from edgefd.core.settings import settings_of
from edgefd.defences import dp_sgd
from edgefd.defences.dp_sgd import DpSgd
from edgefd.defences.label_only import LabelOnly
from edgefd.defences.noise import Noise
from edgefd.defences.pate import Pate
from edgefd.defences.swing import Swing
from edgefd.defences.top_k import TopK
from edgefd.federation.context import ClientContext
from edgefd.federation.method import Method
from edgefd.federation.plan import RoundPlan
from edgefd.federation.terms import FederationTerms
from edgefd.federation.training import Training


@dataclass(frozen=True)
class NoDefence:
    """No defence: soft labels are sent as the method computes them."""

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
Private = Noise | Pate | DpSgd
"""Defences that guarantee differential privacy."""


def defended(method: Method, defence: Defence) -> Method:
    """Return the method with the defence applied to its clients."""
    if isinstance(defence, NoDefence):
        return method
    if isinstance(defence, DpSgd):
        return replace(method, local_step=lambda ctx, _: dp_sgd.local_step(ctx, defence))
    return replace(method, upload=lambda ctx: privatised(defence, ctx, method.upload(ctx)))


def privatised(defence: Defence, ctx: ClientContext, knowledge: Knowledge) -> Knowledge:
    """Return the knowledge that a client sends instead of `knowledge`."""
    if isinstance(defence, NoDefence | DpSgd) or not len(knowledge):
        return knowledge
    return defence.privatise(ctx, knowledge)


def defence_of(settings: Mapping[str, Any]) -> Defence:
    """Return the defence for plain values, as a device reads them from its bundle.

    Raises:
        UserError: for an unknown defence or setting, or a value of the wrong type or out of range.

    >>> defence_of({"name": "top_k", "k": 2})
    TopK(name='top_k', k=2, calibrate=False)
    """
    name = settings.get("name")
    if not isinstance(name, str) or name not in DEFENCES:
        raise UserError(f"unknown defence {name!r}: there are {', '.join(DEFENCES)}")
    defence: Defence = settings_of(f"defence {name}", DEFENCES[name], settings)
    return defence


def check_method(defence: Defence, method: Method) -> None:
    """Check that the defence can be applied to the method.

    Raises:
        UserError: if it cannot.
    """
    if isinstance(defence, NoDefence):
        return
    if not method.message.of_proxy_rows:
        raise UserError(
            f"defence {defence.name} needs soft labels of proxy rows, but method {method.name} sends none: "
            "use another method, or remove the defence"
        )
    if not isinstance(defence, Private):
        return
    if not method.privacy_accounting:
        raise UserError(
            f"defence {defence.name}: its accounting does not cover method {method.name}. Which rows a client accepts, "
            "and their weights, are sent too and may depend on its private data, or clients train in another way: use "
            "a method that accepts all rows and trains in the standard way, such as fedmd"
        )


def check_private(defence: Defence, training: Training, contributes: bool, learners: set[str]) -> None:
    """Check that the privacy guarantee of a defence holds with the other settings of a config.

    Args:
        defence: any defence; those without a guarantee pass.
        training: the `train` section.
        contributes: whether the proxy set consists of raw private samples of the clients.
        learners: names of the learners that train the models of clients ("torch", "onnx").

    Raises:
        UserError: if the guarantee does not hold, with the reason.
    """
    if not isinstance(defence, Private):
        return
    if contributes:
        raise UserError(
            f"defence {defence.name}: with proxy.source=contributed, raw private samples leave the client, so no "
            "epsilon can be claimed: set proxy.source=public"
        )
    if not isinstance(defence, DpSgd):
        return
    if training.private_rows_per_batch or training.adjusted_steps != 0:
        raise UserError(
            "defence dp_sgd: the client would learn private rows during the distillation without noise: set "
            "train.private_rows_per_batch=0, train.adjusted_steps=0 and train.local_steps above 0"
        )
    if not training.trains_locally:
        raise UserError("defence dp_sgd changes local steps, but train.local_steps is 0: set train.local_steps above 0")
    if learners != {"torch"}:
        raise UserError("defence dp_sgd needs gradients of single records: set run.learner=torch for every model")


def check_devices_can(defence: Defence) -> None:
    """Check that a device can apply the defence and that a coordinator cannot undo it.

    Raises:
        UserError: if not, with the reason.
    """
    if isinstance(defence, DpSgd):
        raise UserError(
            "defence dp_sgd needs torch, which devices do not have: use it in a simulation, or choose another defence"
        )
    if noise_seed(defence) is not None:
        raise UserError("defence.seed is for tests in simulations: a coordinator could subtract the noise; remove it")


def spend(defence: Defence, terms: FederationTerms, plan: RoundPlan, n_proxy: int, spent: float) -> float:
    """Return the share of a device's privacy budget that is spent after a round; no coordinator can exceed the budget.

    A round of `noise` with R rounds in the terms spends 1 / R, whatever other rounds have spent. `pate` spends
    everything in the first round, on the labels of all rows.

    Args:
        defence: of the device.
        terms: of the federation, as the coordinator sent them when the device joined.
        plan: of the round.
        n_proxy: number of proxy rows.
        spent: share that was spent before the round.

    Raises:
        RunError: if the budget does not cover the round.
    """
    if plan.closing or not isinstance(defence, Noise | Pate):
        return spent
    if isinstance(defence, Pate):
        if len(plan.ids) < n_proxy and not terms.selection.queries:
            raise RunError(
                f"defence pate: the coordinator queries {len(plan.ids)} of {n_proxy} rows without a selection"
            )
        return 1.0
    after = spent + 1 / terms.training.rounds
    if after > 1 + 1e-9:
        raise RunError(f"defence noise: the privacy budget of this run is spent, so round {plan.round} gets no answer")
    return after


def noise_seed(defence: Defence) -> int | None:
    """Return the known seed of a defence's noise; None if nobody knows it, or there is no noise."""
    return defence.seed if isinstance(defence, Private) else None


def key_of(defence: Defence) -> NoiseKey:
    """Return a new key for the noise of a defence: a secret one, unless the defence has a seed."""
    return noise_key(noise_seed(defence))


def claim(defence: Defence) -> tuple[float, float] | None:
    """Return the guaranteed (epsilon, delta) of one private record over the whole run, or None without a guarantee.

    Noise whose seed is in the config guarantees nothing.
    """
    return (defence.epsilon, defence.delta) if isinstance(defence, Private) and defence.seed is None else None


def covered(defence: Defence) -> tuple[str, ...]:
    """Return the adversaries of `edgefd audit` against which the guarantee holds.

    Only DP-SGD covers the model itself, which a holder has.
    """
    if claim(defence) is None:
        return ()
    of_model = ("holder",) if isinstance(defence, DpSgd) else ()
    return ("server", "client", *of_model, "eavesdropper")
