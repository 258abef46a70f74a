"""The accountants: fixed table, closed forms, two independent code bases, and values that no accountant can take."""

import functools
import math
from decimal import Decimal

import dp_accounting
import numpy as np
import pytest
from dp_accounting import rdp
from mpmath import mp

from common.audit import recompute
from common.audit.recompute import Step
from common.ledger import accounting
from common.ledger.accounting import Tally
from tests.ledgers import share

# sigma, q, steps, delta, PLD at 1e-4, PLD at 1e-3, RDP, Opacus PRV: measured with dp-accounting 0.6.0 and opacus 1.6.0
ROWS = [
    ("1.0", "0.01", 1000, "1e-5", 1.82824, 1.82893, 2.1014, 1.8384),
    ("0.7", "0.05", 200, "1e-4", 8.89576, 8.89579, 10.3184, 8.9065),
    ("1.5", "0.1", 500, "1e-4", 7.31822, 7.31834, 8.0701, 7.3287),
    ("2.0", "0.25", 300, "1e-5", 12.14713, 12.14719, 13.1061, 12.1577),
    ("4.0", "1", 50, "1e-5", 8.59587, 8.59587, 9.2350, 8.6063),
    ("0.8", "0.004", 10000, "1e-6", 4.02848, 4.03330, 4.4600, 4.0386),
    ("5.0", "0.5", 1000, "1e-5", 18.06375, 18.06394, 19.2897, 18.0745),
    ("1.5", "0.25", 100, "1e-5", 9.68581, 9.68583, 10.5728, 9.6963),
]
MIXED = [("1.2", "0.05", 600), ("20", "1", 1), ("15", "1", 3), ("40", "1", 10), ("1.5", "0.1", 200)]


def releases(*groups):
    return [share(noise=sigma, rate=rate, bits=24, dimension=1) for sigma, rate, count in groups for _ in range(count)]


def steps(*groups):
    return [Step(sigma=float(sigma), rate=float(rate), count=count) for sigma, rate, count in groups]


@functools.cache
def recomputed(row):
    """What the independent accountant says of a row at its grid of 1e-4; it takes a while."""
    sigma, rate, count, delta, *_ = row
    return recompute.epsilon(steps((sigma, rate, count)), delta=float(delta), grid=1e-4)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"sigma{row[0]}-q{row[1]}")
def test_table_rows(row):
    sigma, rate, count, delta, fine, coarse, renyi, _ = row
    group = (sigma, rate, count)
    by_rdp = accounting.epsilon_rdp(releases(group), delta=Decimal(delta))
    by_pld = accounting.epsilon_pld(releases(group), delta=Decimal(delta))
    assert by_rdp == pytest.approx(renyi, abs=1e-3)
    assert by_pld == pytest.approx(fine, abs=1e-4)
    assert by_pld <= by_rdp
    assert recomputed(row) == pytest.approx(fine, abs=2e-5)
    assert recompute.epsilon(steps(group), delta=float(delta), grid=1e-3) == pytest.approx(coarse, abs=2e-5)


def test_mixed_ledger():
    by_rdp = accounting.epsilon_rdp(releases(*MIXED), delta=Decimal("1e-5"))
    assert by_rdp == pytest.approx(8.8302, abs=1e-3)  # dp-accounting: 8.8349, its best order's series does not converge
    assert accounting.epsilon_pld(releases(*MIXED), delta=Decimal("1e-5")) == pytest.approx(8.1208, abs=1e-4)
    assert recompute.epsilon(steps(*MIXED), delta=1e-5, grid=1e-3) == pytest.approx(8.1211, abs=1e-4)


@pytest.mark.parametrize(
    ("sigma", "count", "delta", "epsilon"),
    [
        ("4", 50, "1e-5", 8.595865790470),
        ("1", 1, "1e-5", 4.377178095681),
        ("20", 1, "1e-5", 0.160042034458),
        ("40", 50, "1e-5", 0.633978376199),
        ("5", 30, "1e-6", 5.422511402020),
    ],
)
def test_closed_form_of_the_gaussian_mechanism(sigma, count, delta, epsilon):
    for value in (
        accounting.epsilon_pld(releases((sigma, "1", count)), delta=Decimal(delta)),
        recompute.epsilon(steps((sigma, "1", count)), delta=float(delta), grid=1e-4),
    ):
        assert epsilon - 1e-7 <= value <= epsilon + 1e-5


def test_own_pld_lies_below_opacus_prv_by_what_prv_adds():
    from opacus.accountants import PRVAccountant

    for row in ROWS[:3]:
        sigma, rate, count, delta, fine, _, _, prv = row
        accountant = PRVAccountant()
        accountant.history = [(float(sigma), float(rate), count)]
        upper = accountant.get_epsilon(float(delta))
        assert upper == pytest.approx(prv, abs=2e-4)
        own = recomputed(row)
        assert own == pytest.approx(fine, abs=2e-5)
        assert own + 0.009 <= upper <= own + 0.0125


@pytest.mark.parametrize(
    ("rate", "sigma", "order", "value"),
    [
        (0.05, 1.0, 2, 0.004286504370419),
        (0.05, 1.0, 8, 0.601268913989),
        (0.25, 2.0, 16, 0.608226783775),
        (0.01, 0.8, 32, 20.246275937045),
    ],
)
def test_renyi_divergence_of_one_step(rate, sigma, order, value):
    integer, _ = accounting.one_step_rdp(sigma, rate)
    assert integer[list(accounting.INTEGER_ORDERS).index(order)] == pytest.approx(value, rel=1e-11)


@pytest.mark.parametrize(("sigma", "rate"), [(0.5, 0.01), (1.0, 0.05), (4.0, 0.5), (40.0, 0.25), (1.0, 1e-12)])
def test_every_integer_order_equals_the_binomial_sum_in_high_precision(sigma, rate):
    integer, _ = accounting.one_step_rdp(sigma, rate)
    mp.dps = 40
    for order, value in zip(accounting.INTEGER_ORDERS, integer, strict=True):
        q, n = mp.mpf(rate), int(order)
        moment = mp.fsum(
            mp.binomial(n, j) * q**j * (1 - q) ** (n - j) * mp.exp(mp.mpf(j * (j - 1)) / (2 * mp.mpf(sigma) ** 2))
            for j in range(n + 1)
        )
        assert value == pytest.approx(float(mp.log(moment) / (n - 1)), rel=1e-12, abs=2e-14)


def test_an_order_at_which_floats_overflow_is_infinite_and_the_others_stand():
    integer, fractional = accounting.one_step_rdp(1e-155, 0.5)
    assert np.isinf(integer[1:]).all()
    assert np.isinf(fractional).all()
    below, _ = accounting.one_step_rdp(4e-152, 0.5)
    assert np.isfinite(below[:10]).all()
    assert np.isinf(below[-1])
    assert not np.isnan(below).any()


@pytest.mark.parametrize(("sigma", "rate"), [(0.7, 0.05), (1.5, 0.25), (5.0, 0.5)])
def test_fractional_orders_equal_the_integral_in_high_precision(sigma, rate):
    _, fractional = accounting.one_step_rdp(sigma, rate)
    mp.dps = 30
    for at in (0, 4, 13, 80):
        order = mp.mpf(str(accounting.FRACTIONAL_ORDERS[at]))

        def integrand(x, order=order):
            density = mp.exp(-(x**2) / (2 * mp.mpf(sigma) ** 2)) / (mp.mpf(sigma) * mp.sqrt(2 * mp.pi))
            return density * (1 - mp.mpf(rate) + mp.mpf(rate) * mp.exp((2 * x - 1) / (2 * mp.mpf(sigma) ** 2))) ** order

        points = [-12 * sigma, -3 * sigma, 0, 1, float(order), float(order) + 4 * sigma, float(order) + 12 * sigma]
        exact = mp.log(mp.quad(integrand, points)) / (order - 1)
        assert fractional[at] == pytest.approx(float(exact), rel=1e-9)


def test_rdp_equals_dp_accounting_wherever_its_series_converges():
    orders = [float(order) for order in accounting.INTEGER_ORDERS]
    for sigma, rate, count, delta, *_ in ROWS:
        event = dp_accounting.GaussianDpEvent(float(sigma) - 1e-9)
        event = event if rate == "1" else dp_accounting.PoissonSampledDpEvent(float(rate), event)
        whole, integer_only = rdp.RdpAccountant(), rdp.RdpAccountant(orders=orders)
        whole.compose(event, count)
        integer_only.compose(event, count)
        own = accounting.epsilon_rdp(releases((sigma, rate, count)), delta=Decimal(delta))
        assert own <= whole.get_epsilon(float(delta)) + 1e-9  # it leaves out orders at which its series does not converge
        one = accounting.one_step_rdp(float(sigma) - 1e-9, float(rate))[0]
        by_integers = min(
            count * one
            + np.log1p(-1 / accounting.INTEGER_ORDERS)
            - np.log(float(delta) * accounting.INTEGER_ORDERS) / (accounting.INTEGER_ORDERS - 1)
        )
        assert by_integers == pytest.approx(integer_only.get_epsilon(float(delta)), rel=1e-9)


def test_noise_multiplier_for_a_target_is_the_smallest_that_the_gate_lets_through():
    for rate, count in (("0.25", 100), ("0.1", 300), ("1", 50)):
        noise = accounting.noise_multiplier_for(
            epsilon=Decimal(8), delta=Decimal("1e-5"), sampling_rate=Decimal(rate), steps=count
        )
        assert accounting.round_up(accounting.epsilon_rdp(releases((str(noise), rate, count)), delta=Decimal("1e-5"))) <= 8
        less = str(noise - Decimal("1e-4"))
        assert accounting.epsilon_rdp(releases((less, rate, count)), delta=Decimal("1e-5")) > 8 - 1e-6
    with pytest.raises(ValueError, match="positive"):
        accounting.noise_multiplier_for(epsilon=Decimal(0), delta=Decimal("1e-5"), sampling_rate=Decimal(1), steps=1)


def test_effective_noise_is_rounded_down():
    exact = 1.5 * math.sqrt(1 - 1 / (12 * 2 * 4**8))
    assert Decimal(exact) - Decimal("1e-9") <= accounting.effective_noise_multiplier(share(bits=8)) <= Decimal(exact)
    assert accounting.effective_noise_multiplier(share(bits=24)) == Decimal("1.499999999")


def test_one_more_release_of_a_known_mechanism_costs_the_same_however_many_there_are():
    tally = Tally([share()] * 1000 + [share(noise="3")] * 1000)
    tally.epsilon_rdp(delta=Decimal("1e-5"))
    computed = accounting.one_step_rdp.cache_info().misses
    more = tally.copy()
    more.add(share())
    assert more.epsilon_rdp(delta=Decimal("1e-5")) > tally.epsilon_rdp(delta=Decimal("1e-5"))
    assert accounting.one_step_rdp.cache_info().misses == computed
    assert [group.count for group in more.groups] == [1001, 1000]


def test_discreteness_of_the_noise_costs_delta():
    assert Tally([share(bits=16, dimension=241_000)] * 1000).delta_added(epsilon=8) == pytest.approx(1.3e-16 * 2**2, rel=0.05)
    coarse, fine = Tally([share(bits=8, dimension=10**6)] * 100), Tally([share(bits=24, dimension=1)] * 100)
    assert coarse.epsilon_pld(delta=Decimal("1e-5")) > fine.epsilon_pld(delta=Decimal("1e-5")) + 0.01
    assert coarse.delta_added(epsilon=1e4) == math.inf


@pytest.mark.parametrize("noise", ["0", "-1", "NaN", "Infinity", "1e-10"])
def test_noise_that_cannot_be_accounted_for_is_refused(noise):
    with pytest.raises(ValueError, match="noise"):
        accounting.epsilon_rdp([share(noise=noise)], delta=Decimal("1e-5"))


@pytest.mark.parametrize("rate", ["0", "1.5", "-0.1", "NaN"])
def test_a_sampling_rate_outside_its_range_is_refused(rate):
    with pytest.raises(ValueError, match="rate"):
        accounting.epsilon_rdp([share(rate=rate)], delta=Decimal("1e-5"))


@pytest.mark.parametrize("delta", ["0", "1", "-1", "NaN", "1e-999"])
def test_delta_outside_its_range_is_refused(delta):
    with pytest.raises(ValueError, match="delta"):
        accounting.epsilon_rdp([share()], delta=Decimal(delta))


def test_edges_of_the_accountants():
    assert accounting.epsilon_rdp([], delta=Decimal("1e-5")) == accounting.epsilon_pld([], delta=Decimal("1e-5")) == 0
    assert recompute.epsilon([], delta=1e-5, grid=1e-3) == 0
    assert accounting.epsilon_rdp([share(noise="1e6")], delta=Decimal("1e-5")) == 0
    assert accounting.epsilon_rdp([share(noise="0.00001")], delta=Decimal("1e-5")) > 1e6
    assert recompute.epsilon(steps(("0.00001", "0.5", 1)), delta=1e-5, grid=1e-3) == math.inf
    assert accounting.round_up(0.1234561) == Decimal("0.123457")
    assert accounting.round_up(math.inf) == Decimal("Infinity")
    with pytest.raises(ValueError):
        recompute.epsilon(steps(("0", "0.5", 1)), delta=1e-5, grid=1e-3)
    with pytest.raises(ValueError):
        recompute.epsilon([], delta=0.0, grid=1e-3)


def test_a_large_epsilon_is_had_on_a_coarser_grid_and_never_below_what_it_is():
    found = accounting.epsilon_pld([share(noise="1", rate="1", bits=60, dimension=1)] * 50, delta=Decimal("1e-5"))
    with mp.workdps(30):
        mu = mp.sqrt(50)
        exact = mp.findroot(
            lambda e: mp.ncdf(mu / 2 - e / mu) - mp.exp(e) * mp.ncdf(-mu / 2 - e / mu) - mp.mpf("1e-5"),
            (54, 55),
            solver="anderson",
        )
    assert exact <= found <= exact * (1 + mp.mpf("1e-5"))


@pytest.mark.parametrize("groups", [[("0.4", "1", 200)], [("0.01", "1", 1000)], [("0.45", "0.99", 200)]])
def test_an_epsilon_that_is_no_privacy_is_not_computed_for_minutes(groups):
    delta = Decimal("1e-5")
    assert accounting.epsilon_pld(releases(*groups), delta=delta) == math.inf
    assert accounting.epsilon_rdp(releases(*groups), delta=delta) > 512


def test_recompute_shares_no_code_with_dp_accounting():
    import subprocess
    import sys

    program = (
        "import sys, common.audit.recompute; foreign = {'dp_accounting', 'opacus', 'torch'}; "
        "print(any(name.split('.')[0] in foreign for name in sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout == "False\n"
