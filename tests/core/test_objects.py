"""A user's own objects: modules beside the config, in the current folder, by the name of a file; errors say where."""

import os
from pathlib import Path

import pytest

from edgefd.core import objects
from edgefd.core.errors import UserError
from edgefd.core.objects import load_object, look_in


@pytest.fixture(autouse=True)
def own_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Forget the folders of a test afterwards."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setattr("sys.path", [*__import__("sys").path])
    monkeypatch.setattr(objects, "_FOLDERS", [])


def module(folder: Path, name: str, value: int = 1) -> None:
    folder.mkdir(exist_ok=True, parents=True)
    (folder / f"{name}.py").write_text(f"VALUE = {value}\n")


def test_a_module_is_found_beside_the_config_and_in_the_current_folder(tmp_path: Path) -> None:
    module(tmp_path / "configs", "edgefd_test_beside")
    module(tmp_path / "here", "edgefd_test_here", 2)
    look_in(tmp_path / "configs")
    assert load_object("edgefd_test_beside:VALUE", "model") == 1
    assert load_object("edgefd_test_here:VALUE", "model") == 2


def test_a_file_is_found_by_its_path_and_imported_by_its_name(tmp_path: Path) -> None:
    module(tmp_path / "here" / "nets", "edgefd_test_file", 3)
    assert load_object("nets/edgefd_test_file.py:VALUE", "model") == 3
    module(tmp_path / "configs", "edgefd_test_other", 4)
    look_in(tmp_path / "configs")
    assert load_object("edgefd_test_other.py:VALUE", "model") == 4
    assert load_object(f"{tmp_path}/configs/edgefd_test_other.py:VALUE", "model") == 4


@pytest.mark.parametrize(
    ("path", "words"),
    [
        (
            "edgefd_test_none:VALUE",
            "No module named 'edgefd_test_none' (looked in {configs}, {here}, and on PYTHONPATH)",
        ),
        ("none.py:VALUE", "there is no file none.py of model: looked in {configs}, {here}"),
        ("edgefd_test_has:OTHER", "edgefd_test_has.py has no OTHER: name another object"),
        ("edgefd_test_needs:VALUE", "ModuleNotFoundError: No module named 'edgefd_test_missing'"),
        ("json.py:VALUE", "Python has another module json, {json}: rename the file"),
        ("edgefd_test_has", "must look like package.module:ATTRIBUTE or file.py:ATTRIBUTE"),
    ],
)
def test_errors_say_where_was_looked(tmp_path: Path, path: str, words: str) -> None:
    import json

    configs, here = tmp_path / "configs", tmp_path / "here"
    module(configs, "edgefd_test_has")
    module(here, "json")
    (configs / "edgefd_test_needs.py").write_text("import edgefd_test_missing\n")
    look_in(configs)
    with pytest.raises(UserError) as caught:
        load_object(path, "model")
    assert words.format(configs=configs, here=here, json=os.path.realpath(json.__file__)) in str(caught.value)
    assert "\n" not in str(caught.value)
    if "needs" in path:
        assert "looked in" not in str(caught.value), "the module itself was found"
