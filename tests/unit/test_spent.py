"""Epsilons as texts: never below what was spent, infinite where no accountant has an answer, and asked for once."""

from dataclasses import replace
from decimal import Decimal

import pytest

from common.ledger import accounting
from common.mechanism import SampledStep
from server import spent
from tests import federation

STEP = SampledStep(
    noise_multiplier=Decimal(4),
    clip_norm=Decimal(1),
    sampling_rate=Decimal(1),
    hospitals=4,
    colluders=1,
    dimension=13,
    patients_per_step_max=64,
    share_bits=20,
    ring_bits=32,
)
DELTA = Decimal("1e-5")


@pytest.mark.parametrize("step", ["0.0001", "0.000001"])
def test_a_told_epsilon_is_never_below_the_accountants(step):
    told = spent.epsilons([STEP] * 8, delta=DELTA, step=Decimal(step))
    for name, found in (("epsilon", accounting.epsilon_pld), ("epsilon_rdp", accounting.epsilon_rdp)):
        exact = Decimal(found([STEP] * 8, delta=DELTA))
        assert exact <= Decimal(told[name]) <= exact + Decimal(step) + Decimal("0.000001")
    assert told["delta"] == "0.00001"


def test_what_no_accountant_bounds_is_infinite_and_the_larger():
    told = spent.epsilons([replace(STEP, noise_multiplier=Decimal("0.3"))] * 8, delta=DELTA)
    assert told["epsilon"] == spent.INFINITE
    assert spent.size(told["epsilon"]) > spent.size("99.1")


def test_nothing_spent_is_zero():
    assert spent.epsilons([], delta=DELTA) == {"epsilon": "0", "epsilon_rdp": "0", "delta": "0.00001"}


@pytest.mark.long
def test_a_study_with_little_noise_ends_with_a_result_that_says_infinite(make_federation):
    one, wanted = (
        make_federation(epsilon_cap=Decimal(10_000)),
        federation.study(privacy={"noise_multiplier": Decimal("0.3")}, training={"steps": 8}),
    )
    one.approve(wanted)
    result = one.run(wanted)
    assert result["privacy"]["epsilon"] == result["training"]["epsilon"] == spent.INFINITE
    assert Decimal(result["privacy"]["epsilon_rdp"]) > 20
    assert "infinite" in next(one.folder.glob("run-*/report.html")).read_text()
