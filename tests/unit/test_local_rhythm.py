"""The other rhythm: several private steps at each hospital between two sums, from the study to the ledger and the auditor."""

from decimal import Decimal

from tests.federation import study

LOCAL = {"local_steps": 3, "learning_rate": Decimal("0.2"), "update_norm": Decimal(50)}


def wanted(**training):
    return study(training={"local": LOCAL, **training})


def test_a_study_runs_in_the_local_rhythm(make_federation):
    one = make_federation()
    one.approve(wanted())
    result = one.run(wanted())
    assert [item["task"] for item in result["rounds"]].count("train") == 2
    assert result["training"]["releases"] == 2
