"""The auditor finds an exact statistic that its study does not declare, and more sums of an analysis than it allows."""

import pytest

from common import analyses, announcement
from common.audit import bundle, verify
from common.errors import CapPassed, HospitalMissing, RecordDamaged
from common.mechanism import Exact
from common.study import Study
from tests import cohorts, federation, ledgers
from tests.ledgers import DELTA, Ask

DECLARED = (
    {"kind": "robust", "formula": "grade ~ length_mm"},
    {"kind": "logistic", "formula": "dead ~ length_mm", "queries_max": 3},
)
DEAD = {"name": "dead", "source": "clinical", "unit": "1", "lower": "0", "upper": "1"}


def study():
    plain = ledgers.study().model_dump()
    plain["variables"] = [*plain["variables"], DEAD]
    return Study.model_validate({**plain, "statistics": {**plain["statistics"], "analyses": DECLARED}})


STUDY = study()


def verified(folder, *sums, aborted=0, most=None):
    """The auditor's verdict on a real ledger that was asked for these exact sums in one run, one a round.

    `most`: the exact_releases_max of the hospital's policy.
    """
    with ledgers.create(folder / "ledger.sqlite", plan=STUDY) as ledger:
        if most is not None:
            ledger.record_policy({"epsilon_cap": ledgers.CAP, "delta_cap": DELTA, "exact_releases_max": most})
        for number, mechanism in enumerate(sums, start=1):
            receipt = Ask(number=number, mechanism=mechanism, study=STUDY.hash(), delta=DELTA).to(ledger)
            if number <= aborted:
                ledgers.give_back(ledger, receipt.reservation)
            else:
                ledger.release(receipt, sha256=f"{number:064x}", size_bytes=80)
        ledgers.export(folder / "aalen.zip", ledger, plan=STUDY)
    return verify.verify(bundle.read(folder / "aalen.zip"), roster_hash=None)


def of(task, *, position=0):
    index = analyses.index(position, number=1) if task == "query" else 0
    return announcement.mechanism_for(STUDY, task=task, index=index, hospitals=3, dimension=7)


def test_every_statistic_of_the_study_holds(tmp_path):
    sums = [of("gram"), of("evaluate"), *[of("query")] * 2, *[of("query", position=1)] * 3]
    assert [one.statistic for one in verified(tmp_path, *sums).exact] == [
        *("gram", "score-histogram", "analysis-1-robust", "analysis-1-robust"),
        *["analysis-2-logistic"] * 3,
    ]


def test_more_exact_sums_than_the_policy_allowed_are_found(tmp_path):
    gram, scores, robust = of("gram"), of("evaluate"), [of("query")] * 2
    assert len(verified(tmp_path, gram, gram, *robust, scores, most=3).exact) == 5  # a Gram and an analysis count once
    for at, sums in enumerate([(gram, *robust, scores), (gram, scores, scores), (scores, robust[0], gram)]):
        folder = tmp_path / str(at)
        folder.mkdir()
        with pytest.raises(CapPassed, match="more than the 2"):
            verified(folder, *sums, most=2)
    (tmp_path / "given").mkdir()
    assert (
        len(verified(tmp_path / "given", gram, scores, robust[0], aborted=1, most=2).exact) == 2
    )  # what was given back left not


@pytest.mark.parametrize(
    ("statistic", "ring_bits"),
    [
        ("analysis-7-patients-one-by-one", 128),
        ("analysis-1-logistic", 128),
        ("analysis-3-robust", 128),
        ("anything", 64),
        ("Gram", 128),
        ("gram", 8),
        ("score-histogram", 128),
        ("analysis-1-robust", 64),
    ],
)
def test_an_exact_statistic_that_the_study_does_not_declare_is_found(statistic, ring_bits, tmp_path):
    with pytest.raises(RecordDamaged, match="privacy parameters of its study"):
        verified(tmp_path, Exact(statistic=statistic, ring_bits=ring_bits))


@pytest.mark.parametrize(("position", "most"), [(0, 2), (1, 3)])
def test_more_sums_of_an_analysis_than_its_study_allows_are_found(position, most, tmp_path):
    with pytest.raises(RecordDamaged, match="more than its study allows"):
        verified(tmp_path, *[of("query", position=position)] * (most + 1))


def test_a_charge_that_was_given_back_is_no_sum(tmp_path):
    assert len(verified(tmp_path, *[of("query", position=1)] * 4, aborted=1).exact) == 3


def test_a_hospital_refuses_what_the_auditor_would_find(make_federation):
    """A coordinator that repeats a known query in one run tells nothing new, but would spoil an honest hospital's ledger."""
    one = make_federation()
    wanted = cohorts.study({"kind": "quantiles", "variable": "score", "bins": 8, "probabilities": ["0.5"]})
    cohorts.put(one, wanted, cohorts.tables())
    asked = wanted.asked(0).forms[0].example()
    for run in ("first", "second"):
        coordinator = federation.Coordinator(one, wanted, run=run)
        coordinator.set_up()
        size = len(wanted.asked(0).forms[0].fixed["grid.0"]) + 2
        again = {"task": "query", "index": analyses.index(0, number=1), "dimension": size, "blob": asked.bytes(), "attempts": 1}
        coordinator.secure_sum(**again)
        with pytest.raises(HospitalMissing):
            coordinator.secure_sum(**again)
