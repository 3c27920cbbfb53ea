"""The terms of a federation survive JSON, with every selection rule and loss."""

import json
from dataclasses import replace
from typing import Any

import pytest

from edgefd.core.errors import UserError
from edgefd.federation.terms import FederationTerms, parse_terms
from edgefd.federation.training import Training
from edgefd.learners.losses import loss_of, losses
from edgefd.selection import selection_of, selection_rules

TERMS = FederationTerms("fedmd", {"a": 1}, "float16", 5, 10, "ab", {"name": "top_k", "k": 2}, Training(rounds=7))
SELECTIONS: dict[str, dict[str, Any]] = {name: {"budget": 0.25} for name in selection_rules()} | {
    "all": {},
    "alternating": {"parts": 3},
    "rad": {"budget": 9, "assumed_teacher_error": 0.25},
    "ddk": {"budget": 0.5, "uniform_share": 0.75},
}
LOSSES: dict[str, dict[str, Any]] = {name: {} for name in losses()} | {
    "kl": {"temperature": 3.0},
    "swing": {"temperature": 2.0},
    "mixed": {"label_share": 0.25},
    "taid": {"start": 0.5},
}


@pytest.mark.parametrize("rule", SELECTIONS)
@pytest.mark.parametrize("loss", LOSSES)
def test_terms_survive_json(rule: str, loss: str) -> None:
    selection = selection_of({"name": rule, **SELECTIONS[rule]})
    terms = replace(TERMS, selection=selection, distillation=loss_of({"loss": loss, **LOSSES[loss]}))
    parsed = parse_terms(json.loads(json.dumps(terms.to_dict())))
    assert parsed == terms
    assert (type(parsed.selection), type(parsed.distillation)) == (selection_rules()[rule], losses()[loss])


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"selection": {"name": "randm"}}, "unknown selection 'randm': did you mean 'random'"),
        ({"selection": {"name": "random", "budget": 1.0}}, "random needs a budget below 1"),
        ({"selection": {"name": "all", "budget": 0.5}}, "selection all has no setting 'budget'"),
        ({"distillation": {"loss": "ld"}}, "unknown loss 'ld': did you mean 'pld'"),
        ({"distillation": {"loss": "pld", "start": 0.5}}, "distillation pld has no setting 'start'"),
        ({"distillation": {"loss": "swing"}}, "swing needs a temperature other than 1"),
        ({"training": {"rounds": 0}}, "rounds must be at least 1"),
    ],
)
def test_terms_with_invalid_settings_are_refused(changed: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        parse_terms(TERMS.to_dict() | changed)


def test_only_the_fields_that_identify_a_federation_are_compared() -> None:
    other = replace(TERMS, training=Training(rounds=9), selection=selection_of({"name": "random", "budget": 0.5}))
    assert TERMS.differences(other) == []
    assert TERMS.differences(replace(other, seed=6, defence={"name": "none"})) == ["seed", "defence"]
