"""Check that devices can run a config, before an export, a collection and a served run."""

from __future__ import annotations

from dataclasses import asdict

from edgefd.config.schema import Config
from edgefd.core.errors import UserError
from edgefd.methods._deployable import deployed_method


def check_deployable(config: Config) -> None:
    """Check that the config has no setting that only a simulation supports.

    Raises:
        UserError: if it has one.
    """
    if config.attack.name != "none":
        raise UserError("attack is for simulations: real devices cannot be told to attack; remove the section")
    deployed_method(config.method_name, asdict(config.method_config), config.defence)
    if any(model.heads == 2 for model in config.model):
        raise UserError("model.heads=2 runs in simulations only: a device's bundle has a model of one head; remove it")
    if config.train.initial == "own":
        raise UserError("train.initial=own is for simulations: all devices start from the parameters of their bundle")
    if config.data.evaluate_on != "test":
        raise UserError(
            "data.evaluate_on=validation is for simulations: devices measure on their own held-out data; remove it"
        )
    if config.coordinator.dropout:
        raise UserError("coordinator.dropout is for simulations: real devices drop out by themselves; remove it")
    if config.coordinator.lateness:
        raise UserError("coordinator.lateness is for simulations: real devices are late by themselves; remove it")
    if config.devices.fleet:
        raise UserError("devices is for simulations: real devices take the time that they take; remove the section")
