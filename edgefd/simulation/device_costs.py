"""Seconds and joules of the work of each client on its device, from the profiles of the section `devices`."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch.utils.flop_counter import FlopCounterMode

from edgefd.config.schema import Config, Model
from edgefd.core.errors import UserError
from edgefd.federation.clients import Federation
from edgefd.federation.device_profile import PREDICTION_SHARE, DeviceProfile
from edgefd.federation.devices import fleet_of
from edgefd.learners.counted_learner import Work
from edgefd.learners.models import build_model

_STEP_PASSES = 3  # forward, and twice as many operations backward


@dataclass(frozen=True)
class Cost:
    """Time and energy of a task."""

    seconds: float
    joules: float


@dataclass(frozen=True)
class ClientCosts:
    """Times of one client: its model on its device."""

    profile: DeviceProfile
    step_seconds: float
    """seconds of one training step, of a batch of any size: the graph of a step computes missing rows too"""
    row_seconds: float
    """seconds of the logits of one row"""
    filter_seconds: float
    """seconds of the filter before the first round"""

    def filter(self) -> Cost:
        """Return the cost of the filter."""
        return Cost(self.filter_seconds, self.filter_seconds * self.profile.training_watts)

    def round(self, work: Work, bytes_down: int, bytes_up: int) -> Cost:
        """Return the cost of a round: download, computation, upload, and the latency of both messages."""
        p = self.profile
        computing = work.steps * self.step_seconds + work.rows * self.row_seconds
        radio = 8e-6 * (bytes_down / p.down_mbit + bytes_up / p.up_mbit)
        joules = computing * p.training_watts + radio * p.radio_watts
        return Cost(computing + radio + 2 * p.latency_seconds, joules)


def costs_of(config: Config, federation: Federation) -> tuple[ClientCosts, ...]:
    """Return the costs of all clients.

    Raises:
        UserError: for a profile that is not known, or that says nothing about the speed of a client's model.
    """
    shape, batch = federation.proxy.x.shape[1:], config.train.largest_batch

    @functools.cache
    def operations(model: Model) -> float:
        return step_operations(config, model, shape, federation.n_classes, batch)

    costs = []
    for data, profile in zip(
        federation.clients, fleet_of(config.devices, config.seed, len(federation.clients)), strict=True
    ):
        step = _step_seconds(profile, config.model_of(data.client), batch, operations)
        measured = profile.predict_seconds.get(config.model_of(data.client).name)
        row = PREDICTION_SHARE * step / batch if measured is None else measured / profile.step_rows
        n_rows = len(data.x) + len(data.x_heldout) + len(federation.proxy)
        costs.append(ClientCosts(profile, step, row, profile.filter_row_seconds * n_rows))
    return tuple(costs)


def step_operations(config: Config, model: Model, shape: tuple[int, ...], n_classes: int, batch: int) -> float:
    """Return the floating-point operations of a training step of a model: three times those of its logits."""
    module = build_model(config.factory(model), shape, model.heads * n_classes, config.seed).eval()
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        module(torch.zeros((batch, *shape)))
    return float(_STEP_PASSES * counter.get_total_flops())


def _step_seconds(profile: DeviceProfile, model: Model, batch: int, operations: Callable[[Model], float]) -> float:
    measured = profile.step_seconds.get(model.name)
    if measured is not None:
        return measured * batch / profile.step_rows
    if profile.flops is None:
        raise UserError(
            f"devices: the profile {profile.description!r} has no step_seconds of model {model.name} and no flops: "
            "measure it with `edgefd-client doctor --bundle ... --profile`, or set flops"
        )
    return operations(model) / profile.flops
