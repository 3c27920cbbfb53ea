"""The federated methods: each file defines one `METHOD`. Modules whose names begin with _ hold shared helpers."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import is_dataclass
from typing import Any

from edgefd.core.errors import UserError, hint
from edgefd.core.families import member_names
from edgefd.core.objects import load_object
from edgefd.core.settings import settings_of
from edgefd.federation.method import MessageKind, Method


def method_names() -> tuple[str, ...]:
    """Return the names of the methods of edgefd: the files of `edgefd/methods`."""
    return member_names(__name__)


def get_method(name: str) -> Method:
    """Return a method of edgefd by its name, or any other method by "package.module:ATTRIBUTE".

    Raises:
        UserError: if there is no such method.
    """
    if ":" in name:
        return check_method(load_object(name, "method"), repr(name))
    if name not in method_names():
        raise UserError(f"unknown method {name!r}: {hint(name, method_names())}")
    method: Method = importlib.import_module(f"edgefd.methods.{name}").METHOD
    return method


def check_devices_can(method: Method, config: Any) -> None:
    """Check that devices, and a coordinator without torch, can run the method with this config.

    Raises:
        UserError: if they cannot.
    """
    if not method.exchanges:
        raise UserError(f"method {method.name} is a reference without any exchange: it runs in simulations")
    if method.message in (MessageKind.PARAMETERS, MessageKind.PROTOTYPES):
        raise UserError(
            f"method {method.name} exchanges {method.message}, but devices exchange only predictions: "
            "it runs in simulations"
        )
    if method.server_model:
        raise UserError(
            f"method {method.name} trains a model at the server, but a coordinator has no torch: it runs in simulations"
        )
    if missing := method.packages(config):
        raise UserError(
            f"method {method.name} with this config needs {', '.join(missing)}, which devices do not have: "
            "it runs in simulations; for devices, use method.estimator=kmeans, knn or kulsif"
        )


def config_of(method: Method, settings: Mapping[str, Any]) -> Any:
    """Build the Config of a method from plain values, as a device reads them from its bundle.

    Raises:
        UserError: for an unknown setting, or a value of another type or out of range.

    >>> config_of(get_method("edgefd"), {"n_clusters": 5}).n_clusters
    5
    """
    return settings_of(f"method {method.name}", method.config, settings)


def check_method(method: object, label: str) -> Method:
    """Return the object if it is a method; errors call it `label`.

    Raises:
        UserError: if it is no `Method`, or its config is no dataclass.
    """
    if not isinstance(method, Method):
        raise UserError(f"{label} is a {type(method).__name__}, not an edgefd.federation.method.Method")
    if not is_dataclass(method.config):
        raise UserError(f"{label}: its config must be a dataclass")
    return method
