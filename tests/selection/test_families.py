"""A new selection rule or loss is one file: nothing else names it, and `edgefd.rounds` names none at all."""

import ast
import importlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

import edgefd.learners.losses
import edgefd.rounds
import edgefd.selection
from edgefd.config.load import load_config
from edgefd.core import families
from edgefd.core.errors import UserError
from edgefd.learners.dual_head import DualHead
from edgefd.learners.losses import loss_of, losses
from edgefd.selection import selection_of, selection_rules
from tests.support.small_runs import config, results, teachers

EVEN_ROWS = '''"""Even rows are queried."""
from dataclasses import dataclass
from typing import ClassVar, Literal

from edgefd.selection._rule import Selection


@dataclass(frozen=True)
class EvenRows(Selection):
    name: Literal["even_rows"] = "even_rows"
    offset: int = 0
    queries: ClassVar[bool] = True

    def query(self, ids, teacher, state, rng, round):
        return ids[ids % 2 == self.offset]


RULE = EvenRows
'''
HARD = '''"""The most likely class of the teacher is the target."""
from dataclasses import dataclass
from typing import Literal

from edgefd.core.knowledge import Knowledge
from edgefd.learners.batches import hard_labels
from edgefd.learners.losses._loss import Distillation


@dataclass(frozen=True)
class Hard(Distillation):
    loss: Literal["hard"] = "hard"

    def prepare(self, teacher, acceptance, contributed, contributed_y):
        return Knowledge(teacher.ids, hard_labels(teacher.values), teacher.weights)


LOSS = Hard
'''
Add = Callable[[str, str, str], None]


def forget() -> None:
    families.member_names.cache_clear()
    families.members.cache_clear()


@pytest.fixture
def add(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Add]:
    """Return a function that adds a file to a package, which has it until the end of the test."""
    added = []

    def add_file(package: str, name: str, code: str) -> None:
        folder = tmp_path / package
        folder.mkdir()
        (folder / f"{name}.py").write_text(code)
        module = importlib.import_module(package)
        monkeypatch.setattr(module, "__path__", [*module.__path__, str(folder)])
        added.append(f"{package}.{name}")
        forget()

    yield add_file
    for name in added:
        sys.modules.pop(name, None)
    monkeypatch.undo()
    forget()


def test_a_new_selection_rule_is_one_file(add: Add, tmp_path: Path) -> None:
    assert "even_rows" not in selection_rules()
    with pytest.raises(UserError, match="unknown selection 'even_rows'"):
        selection_of({"name": "even_rows"})
    add("edgefd.selection", "even_rows", EVEN_ROWS)
    assert selection_of({"name": "even_rows", "offset": 1}).query(np.arange(6), None, None, None, 0).tolist() == [
        1,
        3,
        5,
    ]
    done = results(config(selection={"name": "even_rows"}))
    assert [np.unique(r.plan.ids % 2).tolist() for r in done] == [[0]] * 3 + [[0, 1]]
    path = tmp_path / "config.yaml"
    path.write_text("selection: {name: random, budget: 0.5}\n")
    assert load_config(path, ["selection.name=even_rows"]).selection == selection_of({"name": "even_rows"})
    for sections in ({"method": {"name": "scarlet"}}, {"method": {"name": "comet"}}):
        with pytest.raises(UserError, match=r"the server cannot choose rows .*: remove even_rows"):
            config(selection={"name": "even_rows"}, **sections)


def test_a_new_loss_is_one_file(add: Add) -> None:
    assert "hard" not in losses()
    with pytest.raises(UserError, match="unknown loss 'hard'"):
        loss_of({"loss": "hard"})
    add("edgefd.learners.losses", "hard", HARD)
    assert not loss_of({"loss": "hard"}).stepwise
    hard, plain = teachers(config(distillation={"loss": "hard"})), teachers(config())
    assert hard[0].equals(plain[0])  # nothing is distilled before the first upload
    assert not hard[-1].equals(plain[-1])


def test_files_with_a_leading_underscore_are_no_members(add: Add) -> None:
    add("edgefd.selection", "_helper", "RULE = None\n")
    assert set(selection_rules()) == {
        "all",
        "alternating",
        "random",
        "pcoreset",
        "ddk",
        "rad",
        "llkd",
        "adaspec",
        "kd3",
    }
    assert set(losses()) == {"kl", "l1", "pld", "taid", "mixed", "swing"}


def used_names(source: str) -> set[str]:
    """Return the identifiers, parts of imported modules and strings of a module, without its docstrings."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Name(id=name) | ast.Attribute(attr=name) | ast.ClassDef(name=name) | ast.FunctionDef(name=name):
                found.add(name)
            case ast.ImportFrom(module=module, names=names):
                found |= {*str(module).split("."), *(alias.name for alias in names)}
            case ast.Import(names=names):
                found |= {part for alias in names for part in alias.name.split(".")}
            case ast.Constant(value=str(text)) if " " not in text:
                found.add(text)
    return found


# Python and numpy use these two words too: `all(...)`, `rng.random()`.
@pytest.mark.parametrize("path", sorted(Path(edgefd.rounds.__file__).parent.glob("*.py")), ids=lambda p: p.name)
def test_the_rounds_name_no_rule_no_loss_and_no_head(path: Path) -> None:
    members = [*selection_rules().items(), *losses().items()]
    named = {name for name, _ in members} - {"all", "random"} | {member.__name__ for _, member in members}
    named |= {DualHead.__name__, "dual_head", "losses"}
    assert used_names(path.read_text()) & named == set()
    words = set(path.read_text().replace("_", " ").split())
    assert not words & ({name for name, _ in members} - {"all", "random", "mixed"})
