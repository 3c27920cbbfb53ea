"""The architecture: rooms import only rooms below them, no files import each other, and devices need no torch.

A room is a folder (or a file) directly below `edgefd/`, `server/edgefd_server/` or `client/edgefd_client/`. Imports
inside functions, imports for type checking and `importlib.import_module("...")` count like all others.
"""

import ast
import functools
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCES = {
    "edgefd": ROOT / "edgefd",
    "edgefd_server": ROOT / "server" / "edgefd_server",
    "edgefd_client": ROOT / "client" / "edgefd_client",
}
ROOMS = [  # from the lowest to the highest; docs/architecture.md draws them
    *("edgefd.core", "edgefd.filters", "edgefd.learners", "edgefd.selection", "edgefd.federation"),
    *("edgefd.wire", "edgefd.data", "edgefd.rounds", "edgefd.defences", "edgefd.poisoning", "edgefd.methods"),
    *("edgefd.export", "edgefd.config", "edgefd.runs", "edgefd.report", "edgefd.simulation", "edgefd.auditing"),
    *("edgefd.api", "edgefd"),  # the names of `import edgefd`, which imports them when they are used
    "edgefd_client",
    *("edgefd_server", "edgefd_server.certs", "edgefd_server.monitoring", "edgefd_server.coordinator"),
    *("edgefd_server.grpc_link", "edgefd_server.folder_link", "edgefd_server.proxy_collection"),
    *("edgefd_server.serve", "edgefd_server.flower"),
    *("edgefd.cli", "edgefd.__main__"),
]
DEVICE_ROOMS = (
    *("edgefd.core", "edgefd.filters", "edgefd.learners", "edgefd.selection", "edgefd.federation", "edgefd.wire"),
    *("edgefd.data", "edgefd.rounds", "edgefd.defences", "edgefd.methods", "edgefd_client"),
)
TORCH_LEARNERS = (
    *("device", "library_models", "max_pool_relu", "models", "noise", "normalised_models", "own_models"),
    *("resident_samples", "stacked_learner", "stacked_model", "step_recorder", "tensor_block", "torch_learner"),
    *("training_step", "window_models"),
)
EXCEPTIONS = {  # the only files of these rooms that need another package, and which one
    **dict.fromkeys((f"edgefd.learners.{name}" for name in TORCH_LEARNERS), "torch"),
    "edgefd.data.efficientnet": "torch",
    "edgefd.data.backbones": "torch",
    **{"edgefd.data.download": "rich", "edgefd_client.client_app": "flwr"},
}
MAY_IMPORT_TORCH = (  # rooms and files; imports inside functions count
    *(
        "edgefd.export",
        "edgefd.runs.learners",
        "edgefd.runs.trained_model",
        "edgefd.runs.weights",
        "edgefd.runs.whole_model",
        "edgefd.simulation",
        "edgefd.auditing",
    ),
    *(f"edgefd.learners.{name}" for name in TORCH_LEARNERS),
    *("edgefd.data.backbones", "edgefd.data.efficientnet", "edgefd.defences.dp_sgd"),
)
NOT_ON_A_DEVICE = ("torch", "flwr", "sklearn", "scipy", "pydantic", "typer", "rich")
NOT_AT_A_COORDINATOR = ("torch", "sklearn", "scipy", "numba", "flwr", "onnxruntime")
LONGEST_FILE = 400

IMPORT_WITHOUT = """
import importlib, json, sys

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in refused:
            raise ImportError(f"{name} must not be imported here")

modules, refused = json.loads(sys.argv[1])
sys.meta_path.insert(0, Refuse())
failures = {}
for module in modules:
    try:
        importlib.import_module(module)
    except ImportError as error:
        failures[module] = str(error)
print(json.dumps(failures))
"""


def files() -> dict[str, Path]:
    """Path of each module of the three packages."""
    modules = {}
    for package, folder in SOURCES.items():
        for path in sorted(folder.rglob("*.py")):
            parts = [package, *path.relative_to(folder).with_suffix("").parts]
            modules[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return modules


FILES = files()


def names_imported(path: Path) -> Iterator[str]:
    """Every dotted name that the file imports, wherever in it the import stands."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("import_module"):
            yield from (argument.value for argument in node.args[:1] if isinstance(argument, ast.Constant))


def module_of(name: str) -> str | None:
    """The module of ours that an imported name is, or is defined in."""
    if name in FILES:
        return name
    parent = name.rpartition(".")[0]
    return parent if parent in FILES else None


@functools.cache
def targets(module: str) -> set[str]:
    """Modules of ours that a module imports."""
    return {t for name in names_imported(FILES[module]) if (t := module_of(name)) is not None and t != module}


def room(module: str) -> str:
    """The room of a module; the client is one room."""
    package, *rest = module.split(".")
    return package if package == "edgefd_client" or not rest else f"{package}.{rest[0]}"


def import_without(packages: tuple[str, ...], modules: list[str]) -> dict[str, str]:
    """Import modules in a new process that refuses some packages: the modules that failed, with the reason."""
    path = os.pathsep.join(map(str, (ROOT, ROOT / "server", ROOT / "client", ROOT / "proto")))
    command = [sys.executable, "-c", IMPORT_WITHOUT, json.dumps([modules, packages])]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, env={"PYTHONPATH": path})
    assert done.returncode == 0, done.stderr
    failures: dict[str, str] = json.loads(done.stdout)
    return failures


def test_every_room_is_listed_and_there_are_at_most_20_in_edgefd() -> None:
    rooms = {room(module) for module in FILES}
    assert rooms == set(ROOMS)
    assert len({r for r in rooms if r.startswith("edgefd.")}) <= 20


def test_a_file_imports_only_rooms_below_its_own() -> None:
    height = {name: i for i, name in enumerate(ROOMS)}
    upward = [f"{m} imports {t}" for m in FILES for t in targets(m) if height[room(t)] > height[room(m)]]
    assert not upward


def test_no_files_import_each_other_in_a_circle() -> None:
    try:
        TopologicalSorter({module: targets(module) for module in FILES}).prepare()
    except CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))


def test_only_the_command_line_imports_server_and_client() -> None:
    inside = [m for m in FILES if m.startswith("edgefd.") and room(m) != "edgefd.cli"]
    assert [
        f"{m} imports {t}" for m in inside for t in targets(m) if t.startswith(("edgefd_server", "edgefd_client"))
    ] == []


def test_only_listed_rooms_and_files_import_torch() -> None:
    importers = {m for m in FILES if any(name.split(".")[0] == "torch" for name in names_imported(FILES[m]))}
    assert {
        m for m in importers if not f"{m}.".startswith(tuple(f"{allowed}." for allowed in MAY_IMPORT_TORCH))
    } == set()


def test_a_device_imports_its_rooms_without_the_packages_that_it_does_not_have() -> None:
    modules = [module for module in FILES if room(module) in DEVICE_ROOMS]
    failures = import_without(NOT_ON_A_DEVICE, modules)
    assert {module: reason.split()[0] for module, reason in failures.items()} == EXCEPTIONS


def test_a_coordinator_imports_its_rooms_without_torch_scikit_learn_and_flower() -> None:
    modules = [m for m in FILES if m.startswith("edgefd_server") and room(m) != "edgefd_server.flower"]
    modules += [m for m in FILES if room(m) in ("edgefd.cli", "edgefd.__main__")]  # the commands import the rest later
    assert import_without(NOT_AT_A_COORDINATOR, modules) == {}


def test_a_coordinator_cannot_load_a_data_set() -> None:
    """What it needs of the federation is in the bundle."""
    reached, new = set[str](), {"edgefd_server.serve.grpc", "edgefd_server.serve.folder", "edgefd.cli.serve"}
    while new:
        reached |= new
        new = {t for module in new for t in targets(module)} - reached
    assert not reached & {"edgefd.runs.prepare", "edgefd.runs.load_data", "edgefd.data.build_federation"}


def test_a_device_behind_flower_needs_no_torch() -> None:
    pytest.importorskip("flwr")
    assert (
        import_without(("torch", "sklearn", "scipy"), ["edgefd_client.client_app", "edgefd_client.flower_node"]) == {}
    )


def test_no_file_is_too_long() -> None:
    lengths = {name: len(path.read_text(encoding="utf-8").splitlines()) for name, path in FILES.items()}
    assert {name: n for name, n in lengths.items() if n > LONGEST_FILE} == {}
