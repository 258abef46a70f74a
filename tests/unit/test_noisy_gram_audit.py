"""What the auditor finds in the ledger of a noisy Gram: its cost by three accountants, and a hospital's lies about it."""

import math
from decimal import Decimal
from functools import partial

import pytest
from scipy import optimize, stats

from common import announcement
from common.audit import bundle, recompute, show, verify
from common.errors import RecordDamaged
from common.ledger import accounting, events, merkle, note
from common.ledger.events import Event, Kind
from common.mechanism import Exact
from common.study import Study
from tests import ledgers
from tests.ledgers import CAP, DELTA, share

PRIVACY = {
    "noise_multiplier": "4",
    "clip_norm": "1.5",
    "delta": "0.000001",
    "patients_max": 1000,
    "colluders": 1,
    "rounds_void_allowed": 1,
}


def study(**changes):
    plain = ledgers.study().model_dump()
    return Study.model_validate({**plain, "statistics": {**plain["statistics"], "privacy": {**PRIVACY, **changes}}})


STUDY = study()
GRAM = announcement.mechanism_for(STUDY, task="gram", hospitals=3, dimension=10)
GRAM_DELTA = Decimal("1e-6")
charged = partial(ledgers.charged, plan=STUDY)


def analytic(sigma, delta):
    """The smallest epsilon of one Gaussian release of sensitivity 1; Balle, Wang 2018, theorem 8."""

    def beyond(epsilon):
        first = stats.norm.cdf(0.5 / sigma - epsilon * sigma)
        return first - math.exp(epsilon) * stats.norm.cdf(-0.5 / sigma - epsilon * sigma) - delta

    return optimize.brentq(beyond, 1e-6, 60)


@pytest.mark.parametrize("noise", ["0.5", "1.19", "4.23", "8.06"])
def test_one_release_costs_what_the_closed_form_says(noise):
    one = announcement.mechanism_for(study(noise_multiplier=noise), task="gram", hospitals=3, dimension=10)
    exact = analytic(float(noise), 1e-6)
    ours = recompute.epsilon([recompute.Step(sigma=float(noise), rate=1.0, count=1)], delta=1e-6, grid=1e-4)
    assert exact - 1e-6 <= accounting.epsilon_pld([one], delta=GRAM_DELTA) <= exact + 5e-4
    assert exact - 1e-6 <= ours <= exact + 5e-4
    assert exact <= accounting.epsilon_rdp([one], delta=GRAM_DELTA) <= 1.2 * exact + 0.05


def test_a_gram_and_steps_compose_in_one_ledger(tmp_path):
    verdict = verify.verify(charged(tmp_path, (GRAM, GRAM_DELTA), (share(), DELTA), (share(), DELTA)), roster_hash=None)
    together = [GRAM, share(), share()]
    assert verdict.releases_private == 3
    assert verdict.epsilon_rdp == accounting.round_up(accounting.epsilon_rdp(together, delta=DELTA))
    assert verdict.epsilon_pld == accounting.round_up(accounting.epsilon_pld(together, delta=DELTA))
    assert verdict.epsilon_rdp > accounting.round_up(accounting.epsilon_rdp(together[1:], delta=DELTA))


def test_the_entries_say_what_was_released(tmp_path):
    said = [row.says for row in show.rows(charged(tmp_path, (GRAM, GRAM_DELTA), (share(), DELTA))) if row.kind == "reserve"]
    assert "noise 4, clip 1.5, gram, everybody" in said[0]
    assert "sampling rate 0.25" in said[1]


def test_more_grams_than_planned_are_counted_and_the_report_s_number_is_withheld(tmp_path):
    verdict = verify.verify(charged(tmp_path, *[(GRAM, GRAM_DELTA)] * 3), roster_hash=None)
    assert verdict.releases_private == 3
    assert verdict.epsilon_pld is None
    assert "more private releases" in verdict.pld_withheld


LIES = {
    "an exact Gram in its place": ({"name": "none", "statistic": "gram", "ring_bits": 128}, {}),
    "less noise": ({"noise_multiplier": "3"}, {}),
    "a larger clipping norm": ({"clip_norm": "2"}, {}),
    "more patients": ({"patients_max": 1001}, {}),
    "fewer columns": ({"dimension": 6}, {}),
    "a coarser grid": ({"share_bits": 20}, {}),
    "another ring": ({"ring_bits": 32}, {}),
    "fewer colluders": ({"colluders": 0}, {}),
    "more hospitals": ({"hospitals": 4}, {}),
    "nobody honest": ({"colluders": 3}, {}),
    "training's delta": ({}, {"delta": str(DELTA)}),
}


@pytest.mark.parametrize("lie", [None, *LIES])
def test_a_lie_about_the_gram_is_found_under_the_real_signature(lie):
    mech, fields = LIES[lie] if lie else ({}, {})
    told = mech if mech.get("name") else {**GRAM.entry(), **mech}
    reserve = {
        "id": "run/1/aalen", "study": STUDY.hash(), "purpose": "lesion-cnn", "mech": told, "round": 1,
        "roster": list(ledgers.HOSPITALS), "epsilon_cap": CAP, "delta_cap": DELTA, "delta": GRAM_DELTA, **fields,
    }  # fmt: skip
    reserve["delta"] = Decimal(reserve["delta"])
    key = note.key_of(ledgers.ORIGIN, key=ledgers.LEDGER_KEY).vkey
    said = [
        (Kind.GENESIS, {"origin": ledgers.ORIGIN, "key": key}),
        (Kind.POLICY, {"policy": {}}),
        (Kind.PLAN, {"study": STUDY.hash(), "title": STUDY.title}),
        (Kind.RESERVE, reserve),
    ]
    lines = tuple(events.encode(Event(seq=seq, kind=kind, ts=9, fields=one)) for seq, (kind, one) in enumerate(said))
    root = merkle.root([merkle.leaf_hash(line) for line in lines])
    text = note.Checkpoint(origin=ledgers.ORIGIN, size=len(lines), root=root).text()
    made = bundle.Bundle(
        entries=lines,
        checkpoint=note.sign(text, name=ledgers.ORIGIN, key=ledgers.LEDGER_KEY),
        roster=ledgers.roster().bytes(),
        studies={STUDY.hash(): STUDY.canonical_bytes()},
        hospital="aalen",
    )
    if lie is None:
        assert verify.verify(made, roster_hash=None).releases_private == 1
        return
    with pytest.raises(RecordDamaged, match=r"Entry 3 does not have the privacy parameters|noise that cannot be accounted"):
        verify.verify(made, roster_hash=None)


def test_a_noisy_gram_in_a_study_that_has_none_is_found(tmp_path):
    with pytest.raises(RecordDamaged, match="privacy parameters of its study"):
        verify.verify(charged(tmp_path, (GRAM, DELTA), plan=ledgers.study()), roster_hash=None)


def test_an_exact_gram_in_a_study_without_privacy_holds(tmp_path):
    exact = Exact(statistic="gram", ring_bits=128)
    verdict = verify.verify(charged(tmp_path, (exact, DELTA), plan=ledgers.study()), roster_hash=None)
    assert [item.statistic for item in verdict.exact] == ["gram"]
