"""The third accountant: its published numbers, its distance from the others, and where it cannot say."""

import math

import pytest

from common.audit import accountants, prv, recompute, verify
from common.audit import bundle as bundles
from common.audit.recompute import Step
from common.errors import AccountantsDisagree
from tests import ledgers
from tests.ledgers import share


def test_it_gives_the_numbers_that_another_implementation_gave():
    # reference, ledger.md 7, by Opacus 1.6.0 at the same error
    assert prv.epsilon([Step(sigma=40.0, rate=1.0, count=50)], delta=1e-5) == pytest.approx(0.6440, abs=2e-4)


@pytest.mark.long
@pytest.mark.parametrize(
    ("steps", "expected"),
    [
        ([Step(sigma=1.0, rate=0.02, count=2000)], 5.6261),
        ([Step(sigma=1.0, rate=0.02, count=2000), Step(sigma=20.0, rate=1.0, count=50)], 5.8738),
        ([Step(sigma=1.2, rate=0.05, count=2000), Step(sigma=40.0, rate=1.0, count=50)], 11.8446),
    ],
)
def test_it_gives_the_numbers_of_long_runs(steps, expected):
    assert prv.epsilon(steps, delta=1e-5) == pytest.approx(expected, abs=2e-4)


@pytest.mark.parametrize("steps", [[Step(sigma=1.5, rate=0.1, count=30)], [Step(sigma=4.0, rate=1.0, count=9)]])
def test_it_lies_above_the_others_by_its_error_and_less_noise_in_one_is_an_alarm(steps):
    first = recompute.epsilon(steps, delta=1e-5, grid=1e-4)
    third = prv.epsilon(steps, delta=1e-5)
    assert 0 <= third - first <= 2 * prv.EPSILON_ERROR
    prv.check_agreement(pld=first, prv=third, rdp=first + 0.5)
    less = [Step(sigma=step.sigma * 0.97, rate=step.rate, count=step.count) for step in steps]
    for other in (recompute.epsilon(less, delta=1e-5, grid=1e-4), first - 0.05, math.nan):
        with pytest.raises(AccountantsDisagree):
            prv.check_agreement(pld=other, prv=third, rdp=first + 0.5)
    with pytest.raises(AccountantsDisagree):
        prv.check_agreement(pld=first, prv=third, rdp=first - 0.01)


@pytest.mark.parametrize(
    ("steps", "delta"),
    [
        ([Step(sigma=1.0, rate=0.02, count=10)], 1e-12),
        ([Step(sigma=0.05, rate=0.5, count=1)], 1e-5),
        ([Step(sigma=30.0, rate=0.5, count=10_000_000)], 1e-5),
    ],
)
def test_where_it_cannot_say_it_gives_no_number(steps, delta):
    assert prv.epsilon(steps, delta=delta) == math.inf


def test_where_the_library_gives_no_number_neither_does_it(monkeypatch):
    import prv_accountant

    monkeypatch.setattr(prv_accountant.PRVAccountant, "compute_epsilon", lambda *_, **__: (math.nan, math.nan, math.nan))
    assert prv.epsilon([Step(sigma=4.0, rate=1.0, count=1)], delta=1e-5) == math.inf


def test_nothing_spent_is_zero_and_a_large_delta_is_no_negative_epsilon():
    assert prv.epsilon([], delta=1e-5) == 0.0
    assert prv.epsilon([Step(sigma=2.0, rate=1.0, count=1)], delta=0.3) == 0.0


def test_an_accountant_that_contradicts_the_bundle_ends_with_the_alarm(tmp_path, monkeypatch):
    with ledgers.create(tmp_path / "ledger.sqlite") as ledger:
        ledgers.run_rounds(ledger, rounds=2, mechanism=share())
        ledgers.export(tmp_path / "aalen.zip", ledger)
    read = bundles.read(tmp_path / "aalen.zip")
    verdict = verify.verify(read, roster_hash=None)
    costs = accountants.costs(read, verdict)
    assert costs.pld < costs.prv < costs.rdp
    right = prv.epsilon
    monkeypatch.setattr(prv, "epsilon", lambda steps, *, delta: right(steps, delta=delta) + 0.05)
    with pytest.raises(AccountantsDisagree):
        accountants.costs(read, verdict)
