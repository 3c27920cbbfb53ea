"""The federated methods: one file each, which defines `METHOD`. Modules whose name begins with _ hold shared helpers."""

from __future__ import annotations

import functools
import importlib
import pkgutil
from collections.abc import Mapping
from dataclasses import is_dataclass
from typing import Any

from edgefd.core.errors import UserError, hint
from edgefd.core.settings import settings_of
from edgefd.federation.method import MessageKind, Method


@functools.cache
def method_names() -> tuple[str, ...]:
    """The methods that edgefd ships: the files of `edgefd/methods`."""
    return tuple(sorted(m.name for m in pkgutil.iter_modules(__path__) if not m.name.startswith("_")))


@functools.cache
def get_method(name: str) -> Method:
    """A shipped method by its name, or anybody's by "package.module:ATTRIBUTE".

    Raises:
        UserError: if there is none of that name.
    """
    if ":" in name:
        return _foreign(name)
    if name not in method_names():
        raise UserError(f"unknown method {name!r}: {hint(name, method_names())}")
    found: Method = importlib.import_module(f"edgefd.methods.{name}").METHOD
    return found


def check_devices_can(method: Method, config: Any) -> None:
    """Whether devices, and a coordinator without torch, can run the method, so configured.

    Raises:
        UserError: if not.
    """
    if method.message is MessageKind.PARAMETERS:
        raise UserError(f"method {method.name} exchanges parameters, devices only predictions: it runs in simulations")
    if method.server_model:
        raise UserError(
            f"method {method.name} trains a model at the server, which has no torch: it runs in simulations"
        )
    if missing := method.packages(config):
        raise UserError(
            f"method {method.name}, so configured, needs {', '.join(missing)}, which devices do not have: "
            "it runs in simulations; for devices, use method.estimator=kmeans, knn or kulsif"
        )


def config_of(method: Method, settings: Mapping[str, Any]) -> Any:
    """The method's Config from plain values, as a device reads them from its bundle.

    Raises:
        UserError: for an unknown setting, or a value of another type or out of range.

    >>> config_of(get_method("edgefd"), {"n_clusters": 5}).n_clusters
    5
    """
    return settings_of(f"method {method.name}", method.config, settings)


def _foreign(path: str) -> Method:
    module, _, attribute = path.partition(":")
    if not module or not attribute:
        raise UserError(f"method {path!r} must look like package.module:ATTRIBUTE")
    try:
        found = getattr(importlib.import_module(module), attribute)
    except (Exception, SystemExit) as error:  # whatever that module does when it is imported
        reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
        raise UserError(f"cannot load method {path!r}: {reason}") from error
    if not isinstance(found, Method):
        raise UserError(f"{path!r} is a {type(found).__name__}, not an edgefd.federation.method.Method")
    if not is_dataclass(found.config):
        raise UserError(f"{path!r}: its config must be a dataclass")
    return found
