"""Studies of differing delta in one ledger: everything is composed at one, the last one's; none of the others is added up."""

from decimal import Decimal

import pytest

from common.audit import bundle, verify
from common.errors import BudgetExhausted
from common.ledger import accounting
from tests import ledgers
from tests.ledgers import CAP, DELTA, Ask, share

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
