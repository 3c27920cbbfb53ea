"""Federated distillation for edge devices: simulate it, deploy it, audit what it leaks.

The names below are the Python API; docs/guides/python.md explains them. A name is imported when it is first used, so
`import edgefd` itself imports nothing else: devices have neither torch nor pydantic.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from edgefd.core.version import __version__

if TYPE_CHECKING:
    from edgefd.api import audit, compare, load_model, plot, simulate, sweep
    from edgefd.config.load import load_config
    from edgefd.config.schema import Config
    from edgefd.core.errors import RunError, UserError
    from edgefd.core.knowledge import Knowledge
    from edgefd.federation.method import Method
    from edgefd.filters.kmeans_dre import KMeansDRE
    from edgefd.methods import get_method
    from edgefd.runs.callbacks import Callback, RunInfo
    from edgefd.simulation.run import Run

_MODULES = {
    **dict.fromkeys(("audit", "compare", "load_model", "plot", "simulate", "sweep"), "edgefd.api"),
    "load_config": "edgefd.config.load",
    "Config": "edgefd.config.schema",
    **dict.fromkeys(("RunError", "UserError"), "edgefd.core.errors"),
    "Knowledge": "edgefd.core.knowledge",
    "Method": "edgefd.federation.method",
    "KMeansDRE": "edgefd.filters.kmeans_dre",
    "get_method": "edgefd.methods",
    **dict.fromkeys(("Callback", "RunInfo"), "edgefd.runs.callbacks"),
    "Run": "edgefd.simulation.run",
}
"""the module of each public name"""

__all__ = [
    "Callback",
    "Config",
    "KMeansDRE",
    "Knowledge",
    "Method",
    "Run",
    "RunError",
    "RunInfo",
    "UserError",
    "__version__",
    "audit",
    "compare",
    "get_method",
    "load_config",
    "load_model",
    "plot",
    "simulate",
    "sweep",
]


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used (PEP 562)."""
    if name not in _MODULES:
        raise AttributeError(f"module 'edgefd' has no attribute {name!r}")
    try:
        module = import_module(_MODULES[name])
    except ModuleNotFoundError as error:
        raise ImportError(f"edgefd.{name} needs {error.name}: pip install 'edgefd[sim]'") from error
    globals()[name] = value = getattr(module, name)
    return value


def __dir__() -> list[str]:
    """Return all public names, also those that are not imported yet."""
    return sorted({*globals(), *__all__})
