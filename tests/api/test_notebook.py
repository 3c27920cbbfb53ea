"""The notebook runs from its first to its last cell, in a kernel as in Jupyter, and is stored without outputs."""

from pathlib import Path

import pytest

NOTEBOOK = Path(__file__).parents[2] / "simulations" / "notebooks" / "quickstart.ipynb"
nbformat = pytest.importorskip("nbformat")


def test_the_notebook_is_stored_without_outputs() -> None:
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert code
    assert all(not cell.outputs and cell.execution_count is None for cell in code)


@pytest.mark.slow
def test_the_notebook_runs_in_a_kernel_and_shows_what_it_says(tmp_path: Path) -> None:
    nbclient = pytest.importorskip("nbclient")
    for package in ("ipykernel", "pandas", "matplotlib"):
        pytest.importorskip(package)
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    place = {"metadata": {"path": str(tmp_path)}}  # where no config lies
    nbclient.NotebookClient(notebook, timeout=600, kernel_name="python3", resources=place).execute()
    outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    shown = "".join(str(output.get("text", output.get("data", {}).get("text/plain", ""))) for output in outputs)
    assert "stderr" not in {output.get("name") for output in outputs}, shown
    assert "<Run of edgefd on mnist_mini, strong: accuracy 0." in shown
    assert "fedmd" in shown
    assert "valid: True" in shown
    assert "# This file alone cannot repeat the run" in shown
    assert sum("image/png" in output.get("data", {}) for output in outputs) == 2
    assert list(tmp_path.iterdir()) == []
