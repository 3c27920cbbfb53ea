"""Membership of a person: groups of records of one client, the best attack, and too few groups."""

import numpy as np

from edgefd.auditing.attacks.membership import Scores
from edgefd.auditing.report.membership_section import user_level_html
from edgefd.auditing.report.user_level import group_means, user_level

CLIENT, MEMBER = np.repeat(np.arange(10), 200), np.tile(np.arange(200) < 100, 10)


def scores(attack: str, shift: float, who: str = "holder", paired: bool = False) -> Scores:
    values = np.random.default_rng(0).normal(shift * MEMBER)
    return Scores(attack, who, values, CLIENT, MEMBER, None, paired)


def test_a_group_holds_records_of_one_client() -> None:
    means = group_means(CLIENT.astype(float), CLIENT, 3, np.random.default_rng(0))
    assert len(means) == 10 * (200 // 3)
    assert set(means) == set(range(10))


def test_several_records_tell_more_than_one() -> None:
    attacks = [scores("loss", 0.1), scores("lira", 0.5), scores("planted", 3.0), scores("weight", 3.0, "server", True)]
    rows = user_level(attacks, np.random.default_rng(0))
    assert [(r["adversary"], r["attack"], r["records"]) for r in rows] == [
        ("holder", "lira", 5),
        ("holder", "lira", 20),
    ]
    five, twenty = (r["auc"] for r in rows)
    one = rows[0]["auc_of_records"]
    assert one["high"] < five["low"] < five["value"] < twenty["value"]
    assert (rows[0]["member_groups"], rows[1]["non_member_groups"]) == (200, 50)
    # two normal distributions that differ by 0.5 sqrt(5) standard deviations: AUC = Phi(0.79) = 0.785
    assert five["low"] < 0.785 < five["high"]
    assert user_level_html([]) == ""
    assert "lira" in user_level_html(rows)


def test_groups_of_scores_without_a_leak_show_none_and_too_few_give_a_reason() -> None:
    (row, _) = user_level([scores("loss", 0.0)], np.random.default_rng(0))
    assert row["auc"]["low"] < 0.5 < row["auc"]["high"]
    few = Scores("loss", "holder", np.arange(200.0), CLIENT[:200], MEMBER[:200])
    rows = user_level([few], np.random.default_rng(0))
    assert rows[1]["auc"] is None
    assert rows[1]["reason"] == "5 groups of 20 records, 20 are needed"
    assert "20 are needed" in user_level_html(rows)
