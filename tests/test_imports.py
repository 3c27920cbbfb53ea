"""Who may import whom."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LIGHT = [  # what a device needs: numpy, and protobuf for the wire
    "edgefd",
    "edgefd.core.knowledge",
    "edgefd.federation.method",
    "edgefd.rounds.client",
    "edgefd.learners.batches",
    "edgefd.wire.messages",
    "edgefd.rounds.validation",
    "edgefd.wire.exchange_folder",
    "edgefd.wire.device_link",
    "edgefd.federation.terms",
    "edgefd.__main__",
    "edgefd.filters.kmeans_dre",
    "edgefd.filters.acceptance",
    "edgefd.filters.density_ratio",
    "edgefd.data.features",
    "edgefd.defences.apply",
    *(f"edgefd.methods.{p.stem}" for p in sorted((ROOT / "edgefd/methods").glob("[a-z]*.py"))),
]
FLOWER = ("edgefd_client.client_app", "edgefd.simulation.ray_client")  # the modules of the client that are Flower's
CLIENT = [
    "edgefd_client",
    *(f"edgefd_client.{p.stem}" for p in sorted((ROOT / "client/edgefd_client").glob("[a-z]*.py"))),
]
HEAVY = "torch sklearn scipy flwr pydantic typer rich"

PROGRAM = """
import importlib, sys

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in sys.argv[2].split():
            raise ImportError(f"{name} must not be imported here")

sys.meta_path.insert(0, Refuse())
importlib.import_module(sys.argv[1])
"""


@pytest.mark.parametrize("module", [m for m in LIGHT + CLIENT if m not in FLOWER])
def test_the_core_imports_without_heavy_packages(module: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, module, HEAVY],
        capture_output=True,
        text=True,
        timeout=60,
        env={"PYTHONPATH": f"{ROOT}:{ROOT / 'client'}:{ROOT / 'proto'}"},
    )
    assert done.returncode == 0, done.stderr


def test_a_device_behind_flower_needs_no_torch() -> None:
    pytest.importorskip("flwr")
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            PROGRAM + "import edgefd_client.flower_node",
            "edgefd_client.client_app",
            "torch sklearn scipy",
        ],
        capture_output=True,
        text=True,
        timeout=60,
        env={"PYTHONPATH": f"{ROOT}:{ROOT / 'client'}:{ROOT / 'proto'}"},
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    "module", ["edgefd_server.serve.grpc", "edgefd_server.serve.folder", "edgefd_server.proxy_collection.serve"]
)
def test_a_coordinator_needs_no_torch(module: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, module, "torch sklearn scipy flwr onnxruntime"],
        capture_output=True,
        text=True,
        timeout=60,
        env={"PYTHONPATH": f"{ROOT}:{ROOT / 'server'}:{ROOT / 'client'}:{ROOT / 'proto'}"},
    )
    assert done.returncode == 0, done.stderr


def test_the_method_package_imports_neither_server_nor_client() -> None:
    for path in (ROOT / "edgefd").rglob("*.py"):
        for node in ast.parse(path.read_text()).body:  # inside a function they may be imported, when needed
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and node.module:
                names.append(node.module)
            top = {n.partition(".")[0] for n in names}
            assert not top & {"edgefd_server", "edgefd_client"}, path
