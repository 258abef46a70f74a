"""Other neighbours by PLD: the library's figures, never above RDP, withheld with the plan, and infinite rather than wrong."""

import json
import sys
from dataclasses import replace
from decimal import Decimal

import numpy as np
import pytest
from scipy.optimize import brentq
from scipy.special import logsumexp, ndtr

from common import cli
from common.audit import accountants, bundle, neighbours, neighbours_pld, verify
from common.ledger import accounting
from common.mechanism import LocalSteps
from tests import ledgers
from tests.ledgers import DELTA, share

ONCE = Decimal(1)
TABLE = [  # by dp-accounting 0.6.0 at delta 1e-5 on a grid of 1e-3; `composed` below finds them to 5e-4
    (1.0, 0.02, 2000, 9.4063, 12.9154),
    (2.0, 0.25, 100, 12.9185, 15.1423),
    (12.0, 0.25, 30, 0.8379, 0.8581),
]


@pytest.mark.parametrize(("sigma", "rate", "count", "replaced", "twice"), TABLE)
def test_the_library_s_figures_are_told(sigma, rate, count, replaced, twice):
    part = (neighbours_pld._Part(sigma=sigma, rate=rate, count=count, once=False),)
    assert neighbours_pld._pld(part, 1e-5, "replace") == pytest.approx(replaced, abs=2e-3)
    assert neighbours_pld._pld(part, 1e-5, "twice") == pytest.approx(twice, abs=2e-3)


def composed(parts, *, pair, delta=1e-5, step=1e-3, most=32.0):
    """Epsilon without the library: each pair's loss on a grid, mass shared so that its mean holds, composed by FFT."""
    half, found = round(most / step), []
    for one_way in (True, False):
        spectrum = np.ones(half + 1, complex)
        for sigma, rate, count, once in parts:
            q = rate
            if pair == "replace":
                both = {0: 1 - q, 1: q}, {0: 1 - q, -1: q}
            else:
                both = ({0: 1 - q, 1: q} if once else {0: (1 - q) ** 2, 1: 2 * q * (1 - q), 2: q * q}), {0: 1.0}
            p, r = both if one_way else both[::-1]
            x = np.linspace(-1 - 10 * sigma, 2 + 10 * sigma, 100_001)
            mass = sum(weight * np.diff(ndtr((x - at) / sigma)) for at, weight in p.items() if weight)
            middle = (x[1:] + x[:-1]) / 2
            logs = [
                logsumexp([np.log(w) - (middle - at) ** 2 / (2 * sigma**2) for at, w in one.items() if w], axis=0)
                for one in (p, r)
            ]
            cell, share = np.divmod((logs[0] - logs[1]) / step, 1)
            at = cell.astype(int) % (2 * half)
            density = np.bincount(at, mass * (1 - share), 2 * half) + np.bincount((at + 1) % (2 * half), mass * share, 2 * half)
            spectrum = spectrum * np.fft.rfft(density) ** count
        density = np.fft.fftshift(np.fft.irfft(spectrum, 2 * half))
        loss = (np.arange(2 * half) - half) * step
        found.append(brentq(beyond, 0, most / 2, args=(density, loss, delta)))
    return max(found)


def beyond(epsilon, density, loss, delta):
    return density @ -np.expm1(np.minimum(epsilon - loss, 0)) - delta


@pytest.mark.parametrize("pair", ["replace", "twice"])
def test_a_composition_that_shares_no_code_finds_the_same(pair):
    kinds = [(2.0, 0.25, 20, False), (8.0, 1.0, 1, False), (3.0, 0.3, 10, True)]
    parts = tuple(neighbours_pld._Part(sigma=s, rate=q, count=n, once=o and pair == "twice") for s, q, n, o in kinds)
    found = neighbours_pld._pld(parts, 1e-5, pair)
    assert found == pytest.approx(composed(kinds, pair=pair), abs=5e-4)
    assert found != pytest.approx(composed(kinds[:2], pair=pair), abs=0.1)


def test_pld_is_below_renyi_for_every_notion():
    for noise in ("1.5", "6"):
        releases = [share(noise=noise)] * 8
        rdp = neighbours.epsilons(releases, delta=DELTA)
        once = accounting.round_up(accounting.epsilon_pld(releases, delta=DELTA))
        found = neighbours_pld.epsilons(releases, delta=DELTA, once=once)
        assert found.zero_out == found.add_or_remove_one == once < found.replace_one < found.two_hospitals
        assert found.replace_one < rdp.replace_one
        assert found.two_hospitals < rdp.two_hospitals


def test_without_sampling_both_are_half_the_noise():
    releases = [replace(share(noise="40"), sampling_rate=Decimal(1))] * 5
    half = accounting.epsilon_pld([replace(one, noise_multiplier=Decimal(20)) for one in releases], delta=DELTA)
    found = neighbours_pld.epsilons(releases, delta=DELTA, once=ONCE)
    assert float(found.replace_one) == pytest.approx(half, rel=1e-3)
    assert float(found.two_hospitals) == pytest.approx(half, rel=1e-3)


def test_a_release_with_the_whole_noise_of_every_hospital_composes_in_two_of_them():
    base = share()
    names = "noise_multiplier clip_norm sampling_rate hospitals colluders dimension share_bits ring_bits patients_per_step_max"
    local = LocalSteps(**{name: getattr(base, name) for name in names.split()}, local_steps=4, scale_bits=0)
    found = neighbours_pld.epsilons([local] * 3, delta=DELTA, once=ONCE)
    assert float(found.two_hospitals) == pytest.approx(accounting.epsilon_pld([local] * 6, delta=DELTA), rel=1e-3)


def test_nothing_costs_nothing_and_too_little_noise_is_infinite():
    assert neighbours_pld.epsilons([], delta=DELTA, once=Decimal(0)) == neighbours.NOTHING
    for hopeless in (share(noise="0.1"), replace(share(noise="0.4"), sampling_rate=Decimal(1))):
        found = neighbours_pld.epsilons([hopeless] * 200, delta=DELTA, once=ONCE)
        assert found.replace_one == found.two_hospitals == Decimal("Infinity")


@pytest.mark.parametrize("sigma", [0.3, 20.0])
@pytest.mark.parametrize("rate", [1e-6, 0.5, 1.0])
def test_extreme_steps_have_a_figure_that_is_none_too_small(sigma, rate):
    part = (neighbours_pld._Part(sigma=sigma, rate=rate, count=1, once=False),)
    once = (neighbours_pld._Part(sigma=sigma, rate=rate, count=1, once=True),)
    least = neighbours_pld._pld(once, 1e-5, "twice")
    for pair in ("replace", "twice"):
        assert neighbours_pld._pld(part, 1e-5, pair) >= least - 2e-3  # two points of the coarser grid
    assert least >= 0


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return ledgers.two_rounds(tmp_path_factory.mktemp("neighbours"))


def test_recompute_tells_it_where_pld_is_asked_for(place, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["motet-audit", "recompute", str(place), "--accountants", "pld", "--json"])
    with pytest.raises(SystemExit):
        cli.main()
    (told,) = json.loads(capsys.readouterr().out)
    assert told["neighbours_pld"]["zero_out"] == told["pld"] < told["neighbours_pld"]["replace_one"]
    assert "neighbours" not in told


def test_it_is_withheld_with_the_plan(place):
    read = bundle.read(place)
    verdict = verify.verify(read, roster_hash=None)
    withheld = replace(verdict, epsilon_pld=None, epsilon_pld_independent=None, pld_withheld="the plan came late")
    assert accountants.costs(read, withheld, with_prv=False, with_neighbours_pld=True).neighbours_pld is None
    assert accountants.costs(read, verdict, with_prv=False).neighbours_pld is None
    assert accountants.costs(read, verdict, with_prv=False, with_neighbours_pld=True).neighbours_pld is not None
