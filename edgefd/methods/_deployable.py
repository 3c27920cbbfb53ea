"""Check, before every deployment, that devices can run a method with its settings and a defence."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from edgefd.core.errors import UserError
from edgefd.defences.apply import Defence, check_method
from edgefd.defences.apply import check_devices_can as check_defence
from edgefd.federation.method import Method
from edgefd.methods import check_devices_can, config_of, get_method


def deployed_method(name: str, settings: Mapping[str, Any], defence: Defence) -> tuple[Method, Any]:
    """Return a method and its config, if devices and a coordinator without torch can run them with the defence.

    Args:
        name: of the method.
        settings: the fields of its config, as plain values.
        defence: that clients apply to their knowledge.

    Raises:
        UserError: if they cannot: for a method from outside edgefd, because its name would import code; for a method
            that exchanges parameters, has a model at the server or needs other packages; for a defence that a device
            cannot apply.
    """
    if ":" in name:
        raise UserError(f"method {name!r} cannot be deployed: devices run only the methods of edgefd")
    method = get_method(name)
    config = config_of(method, settings)
    check_devices_can(method, config)
    check_defence(defence)
    check_method(defence, method)
    return method, config
