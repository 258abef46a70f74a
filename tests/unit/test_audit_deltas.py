"""Which delta a verdict is at: the last study's where studies differ, and what of it noise in whole numbers takes."""

import json
import math
from decimal import Decimal

import pytest

from common.audit import bundle, verify
from common.errors import BudgetExhausted
from common.ledger import accounting
from tests import ledgers
from tests.commands import audit
from tests.ledgers import CAP, DELTA, GRAM, Ask, share

SMALL = Decimal("0.000001")
PLANS = {delta: ledgers.study(delta=str(delta)) for delta in (DELTA, SMALL)}


def verdict(folder, *, order):
    """Verify a ledger with five rounds of a study at each delta, in that order; both were planned first."""
    with ledgers.create(folder / "ledger.sqlite", plan=PLANS[DELTA]) as ledger:
        ledger.record_study(PLANS[SMALL].hash(), title=PLANS[SMALL].title)
        for at, delta in enumerate(order):
            ledgers.run_rounds(ledger, rounds=5, start=1 + 5 * at, study=PLANS[delta].hash(), delta=delta)
        path = folder / "aalen.zip"
        bundle.write(
            path,
            entries=ledger.entries(),
            checkpoint=ledger.checkpoint(),
            roster=ledgers.roster().bytes(),
            studies={plan.hash(): plan.canonical_bytes() for plan in PLANS.values()},
            hospital="aalen",
        )
    return verify.verify(bundle.read(path), roster_hash=None)


def test_epsilon_is_that_of_all_releases_at_the_last_ones_delta(tmp_path):
    found, charged = verdict(tmp_path, order=(DELTA, SMALL)), [share()] * 10
    assert (found.delta, found.releases_private) == (SMALL, 10)
    assert found.epsilon_rdp == accounting.round_up(accounting.epsilon_rdp(charged, delta=SMALL))
    assert found.epsilon_pld == accounting.round_up(accounting.epsilon_pld(charged, delta=SMALL))
    # what the hospital promised, its cap at its largest delta, follows from any smaller one
    assert accounting.epsilon_rdp(charged, delta=DELTA) <= found.epsilon_rdp <= found.epsilon_cap == CAP


def test_the_cap_is_held_at_each_releases_own_delta(tmp_path):
    within = accounting.round_up(accounting.epsilon_rdp([share()] * 10, delta=DELTA))
    with ledgers.create(tmp_path / "ledger.sqlite") as ledger:
        ledgers.run_rounds(ledger, rounds=9)
        with pytest.raises(BudgetExhausted):
            Ask(number=20, mechanism=share(), delta=SMALL, cap=within).to(ledger)
        Ask(number=21, mechanism=share(), cap=within).to(ledger)


COARSE = share(bits=12, dimension=2000)


def closed_form(*releases, epsilon):
    """(1 + e^epsilon) sqrt(T d KL / 2), KL = 1 / (691200 (h 4^b)^4). Source: reference training.md 1.3."""
    divergences = (one.dimension / (691_200 * ((one.hospitals - one.colluders) * 4**one.share_bits) ** 4) for one in releases)
    return (1 + math.exp(epsilon)) * math.sqrt(sum(divergences) / 2)


@pytest.mark.parametrize("many", [1, 7])
def test_what_noise_in_whole_numbers_adds_to_delta_is_the_closed_form(many, tmp_path):
    releases = [COARSE] * many
    made = ledgers.charged(tmp_path, *((one, DELTA) for one in releases), plan=ledgers.study())
    epsilon = accounting.epsilon_rdp(releases, delta=DELTA)
    found = verify.verify(made, roster_hash=None).delta_added
    assert float(found) == pytest.approx(closed_form(*releases, epsilon=epsilon), rel=1e-12)
    assert 0 < found < DELTA / 1000
    finer = [share(bits=20, dimension=2000)] * many
    assert closed_form(*finer, epsilon=epsilon) == pytest.approx(float(found) / 4.0**16)  # 8 bits more


def test_the_auditor_reads_what_noise_in_whole_numbers_adds_never_less_than_it_is(tmp_path):
    ledgers.charged(tmp_path, (COARSE, DELTA), (COARSE, DELTA), plan=ledgers.study())
    added = closed_form(COARSE, COARSE, epsilon=accounting.epsilon_rdp([COARSE] * 2, delta=DELTA))
    (told,) = json.loads(audit("verify", tmp_path / "aalen.zip", "--json").stdout)
    assert float(told["delta_added"]) == pytest.approx(added, rel=1e-12)
    said = audit("verify", tmp_path / "aalen.zip").stdout
    shown = float(said.split("adds at most ")[1].split(" to delta")[0])
    assert added <= shown < 1.1 * added


def test_nothing_is_said_of_noise_where_none_left(tmp_path):
    ledgers.charged(tmp_path, (GRAM, DELTA), plan=ledgers.study())
    done = audit("verify", tmp_path / "aalen.zip")
    assert (done.returncode, "to delta" in done.stdout) == (0, False)
    assert verify.verify(bundle.read(tmp_path / "aalen.zip"), roster_hash=None).delta_added == 0
