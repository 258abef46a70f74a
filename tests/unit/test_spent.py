"""Epsilons as texts: never below what was spent, Renyi's where the other accountant has no answer, and asked for once."""

import math
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


def test_renyis_bound_stands_where_the_other_accountant_has_none():
    little = [replace(STEP, noise_multiplier=Decimal("0.3"))] * 8
    assert accounting.epsilon_pld(little, delta=DELTA) == math.inf
    told = spent.epsilons(little, delta=DELTA)
    assert told["epsilon"] == told["epsilon_rdp"]
    assert Decimal(told["epsilon"]) > 99
    assert spent.size(spent.INFINITE) > spent.size(told["epsilon"])


def test_nothing_spent_is_zero():
    assert spent.epsilons([], delta=DELTA) == {"epsilon": "0", "epsilon_rdp": "0", "delta": "0.00001"}


@pytest.mark.long
def test_a_study_with_little_noise_ends_with_a_result(make_federation):
    one, wanted = (
        make_federation(epsilon_cap=Decimal(10_000)),
        federation.study(privacy={"noise_multiplier": Decimal("0.3")}, training={"steps": 8}),
    )
    one.approve(wanted)
    result = one.run(wanted)
    told = result["privacy"]["epsilon"]
    assert told == result["training"]["epsilon"] == result["privacy"]["epsilon_rdp"]
    assert Decimal(told) > 90
    assert told in next(one.folder.glob("run-*/report.html")).read_text()
