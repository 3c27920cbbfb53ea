"""The notebooks run from their first to their last cell, in a kernel as in Jupyter, and are stored without outputs."""

import re
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
NOTEBOOKS = {path.stem: path for path in (ROOT / "simulations" / "notebooks").glob("*.ipynb")}
SHOWN = {
    "quickstart": ("<Run of edgefd on mnist_mini, strong: accuracy 0.", "fedmd 9/9 accuracy 0.", "labels      [7"),
    "own_data_and_model": ("<Run of edgefd on arrays, object:by_site: acc", "# This file alone cannot repeat the run"),
    "compare_methods": (" accuracy 0.", "indlearn", "raw_samples_disclosed"),
    "audit_a_run": ("valid: True", "server: ", "audit.html"),
    "simulation_to_device": ("manifest.json", "client 2: device 0.", "run folder: devices"),
}
"""texts that the outputs of each notebook have"""
IMAGES = {"quickstart": 3, "own_data_and_model": 1, "compare_methods": 3, "audit_a_run": 0, "simulation_to_device": 1}
nbformat = pytest.importorskip("nbformat")


@pytest.mark.parametrize("name", sorted(NOTEBOOKS))
def test_a_notebook_is_stored_without_outputs_and_listed(name: str) -> None:
    notebook = nbformat.read(NOTEBOOKS[name], as_version=4)
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert code
    assert all(not cell.outputs and cell.execution_count is None for cell in code)
    assert f"notebooks/{name}.ipynb" in (ROOT / "docs" / "guides" / "python.md").read_text()
    text = "".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    linked = [target.partition("#")[0] for target in re.findall(r"\]\(([^)]+)\)", text)]
    assert [target for target in linked if not (NOTEBOOKS[name].parent / target).exists()] == []


def executed(notebook: Any, folder: Path) -> list[Any]:
    """Run a notebook in a folder that holds nothing else, and return the outputs of its cells."""
    nbclient = pytest.importorskip("nbclient")
    for package in ("ipykernel", "pandas", "matplotlib"):
        pytest.importorskip(package)
    place = {"metadata": {"path": str(folder)}}
    nbclient.NotebookClient(notebook, timeout=600, kernel_name="python3", resources=place).execute()
    return [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]


def text_of(output: Any) -> str:
    return str(output.get("text", output.get("data", {}).get("text/plain", "")))


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(NOTEBOOKS))
def test_a_notebook_runs_in_a_kernel_and_shows_what_it_says(name: str, tmp_path: Path) -> None:
    outputs = executed(nbformat.read(NOTEBOOKS[name], as_version=4), tmp_path)
    shown = "".join(map(text_of, outputs))
    assert "stderr" not in {output.get("name") for output in outputs}, shown
    for text in SHOWN[name]:
        assert text in shown
    assert sum("image/png" in output.get("data", {}) for output in outputs) == IMAGES[name]
    assert len(shown.splitlines()) < 100
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_the_progress_of_many_rounds_is_one_output_for_each_method(tmp_path: Path) -> None:
    settings = {"train.rounds": 150, "run.workers": 0, "baselines": ["fedmd"]}
    source = f"""
import edgefd
from tests.support.small_configs import SMALL
run = edgefd.simulate(SMALL, {settings!r}, out="run", progress=True)
run
"""
    paths = f"import sys; sys.path.insert(0, {str(ROOT)!r})"
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(paths + source)])
    data, edgefd, fedmd, run = executed(notebook, tmp_path)
    assert text_of(data).startswith("mnist_mini (")
    for bar, name in ((edgefd, "edgefd"), (fedmd, "fedmd")):
        assert text_of(bar).startswith(f"{name} 151/151 accuracy 0.")
        assert '<progress value="151" max="151"></progress>' in bar.data["text/html"]
    table = run.data["text/html"]
    assert re.findall(r"<tr><td>(\w+)</td><td>0\.\d{4}</td>", table) == ["edgefd", "fedmd"]
