"""What the auditor finds in the ledger of a charged evaluation: its cost by every accountant, and lies about it."""

from decimal import Decimal
from functools import partial

import pytest

from common import announcement, scores
from common.audit import verify
from common.errors import RecordDamaged
from common.ledger import accounting
from common.mechanism import Exact, NoisyScores, from_entry
from common.study import Study
from tests import ledgers
from tests.ledgers import DELTA, share

PRIVACY = {"noise_multiplier": "4", "delta": "1e-6", "patients_max": 1000, "colluders": 1, "rounds_void_allowed": 1}


def study(**changes):
    return Study.model_validate({**ledgers.study().model_dump(), "evaluation": {"privacy": {**PRIVACY, **changes}}})


STUDY = study()
SCORES = announcement.mechanism_for(STUDY, task="evaluate", hospitals=3, dimension=scores.dimension(STUDY))
SCORES_DELTA = Decimal("1e-6")
charged = partial(ledgers.charged, plan=STUDY)


def test_an_entry_is_read_back_as_it_was_written():
    assert from_entry(SCORES.entry()) == SCORES
    for key, value in (("entries", True), ("clip_norm", "2"), ("sampling", "poisson"), ("patients_max", "1000")):
        with pytest.raises(ValueError, match="malformed"):
            from_entry({**SCORES.entry(), key: value})


def test_scores_and_steps_compose_in_one_ledger(tmp_path):
    verdict = verify.verify(charged(tmp_path, (share(), DELTA), (SCORES, SCORES_DELTA)), roster_hash=None)
    assert verdict.releases_private == 2
    assert verdict.epsilon_rdp == accounting.round_up(accounting.epsilon_rdp([share(), SCORES], delta=SCORES_DELTA))
    assert abs(verdict.epsilon_pld - verdict.epsilon_pld_independent) < Decimal("5e-4")


def test_more_scores_than_planned_are_counted_and_the_reports_number_is_withheld(tmp_path):
    verdict = verify.verify(charged(tmp_path, *[(SCORES, SCORES_DELTA)] * 3), roster_hash=None)
    assert verdict.releases_private == 3
    assert verdict.epsilon_pld is None
    assert "more private releases" in verdict.pld_withheld


def changed(**parts):
    plain = {**SCORES.entry(), **parts}
    return NoisyScores(
        noise_multiplier=Decimal(plain["noise_multiplier"]),
        **{
            key: plain[key]
            for key in ("entries", "patients_max", "hospitals", "colluders", "dimension", "share_bits", "ring_bits")
        },
    )


@pytest.mark.parametrize(
    ("lie", "delta"),
    [
        (changed(noise_multiplier="5"), SCORES_DELTA),
        (changed(entries=2), SCORES_DELTA),
        (changed(patients_max=10), SCORES_DELTA),
        (changed(dimension=SCORES.dimension + 1), SCORES_DELTA),
        (changed(share_bits=20), SCORES_DELTA),
        (changed(colluders=0), SCORES_DELTA),
        (SCORES, DELTA),
        (Exact(statistic="score-histogram", ring_bits=64), DELTA),
    ],
    ids=[
        "less noise",
        "more tables",
        "fewer patients",
        "longer",
        "coarser",
        "fewer colluders",
        "another delta",
        "exact scores",
    ],
)
def test_a_lie_about_the_scores_is_found_under_the_real_signature(tmp_path, lie, delta):
    with pytest.raises(RecordDamaged, match="does not have the privacy parameters"):
        verify.verify(charged(tmp_path, (lie, delta)), roster_hash=None)


def test_noisy_scores_in_a_study_that_has_none_are_found(tmp_path):
    with pytest.raises(RecordDamaged, match="does not have the privacy parameters"):
        verify.verify(charged(tmp_path, (SCORES, SCORES_DELTA), plan=ledgers.study()), roster_hash=None)
