"""Other neighbours: replaced, set to zero, in two hospitals; against closed forms, integrals and PLD by dp-accounting."""

import json
import math
import sys
from dataclasses import replace
from decimal import Decimal

import numpy as np
import pytest
from scipy import integrate
from scipy.stats import norm

from common import cli
from common.audit import accountants, bundle, neighbours, page, page_html, report, verify
from common.audit.neighbours import NOTHING, epsilons
from common.ledger import accounting
from common.mechanism import LocalSteps
from tests import ledgers
from tests.ledgers import DELTA, share

TABLE = [  # PLD at delta 1e-5 by dp-accounting 0.6.0: replace-one; of two hospitals, a mixture of Gaussians
    (1.0, 0.02, 2000, 9.4063, 12.9154),
    (2.0, 0.25, 100, 12.9185, 15.1423),
]


@pytest.mark.parametrize(("sigma", "rate", "count", "replaced", "twice"), TABLE)
def test_renyi_is_above_pld_by_as_little_as_it_is_where_one_is_added(sigma, rate, count, replaced, twice):
    for pair, pld in (("replace", replaced), ("twice", twice)):
        found = accounting.convert(neighbours.ORDERS, count * neighbours.divergences(sigma, rate, pair), 1e-5)
        assert pld < found < 1.11 * pld


@pytest.mark.parametrize("pair", ["replace", "twice"])
def test_a_divergence_is_the_integral_in_both_directions(pair):
    sigma, rate, order = 1.5, 0.3, 3.0
    weights = {"replace": (0.7, 0.3), "twice": (0.49, 0.42, 0.09)}[pair]

    def mixed(x, side):
        return sum(weight * norm.pdf(x, side * k, sigma) for k, weight in enumerate(weights))

    def plain(x):
        return mixed(x, -1) if pair == "replace" else norm.pdf(x, 0, sigma)

    def divergence(p, q):
        value, _ = integrate.quad(lambda x: p(x) ** order * q(x) ** (1 - order), -25, 25, epsabs=1e-13)
        return math.log(value) / (order - 1)

    expected = max(divergence(lambda x: mixed(x, 1), plain), divergence(plain, lambda x: mixed(x, 1)))
    (at,) = np.flatnonzero(order == neighbours.ORDERS)
    assert neighbours.divergences(sigma, rate, pair)[at] == pytest.approx(expected, rel=1e-9)


def test_without_sampling_both_are_half_the_noise():
    releases = [replace(share(noise="40"), sampling_rate=Decimal(1))] * 5
    found = epsilons(releases, delta=DELTA)
    half = accounting.epsilon_rdp([replace(one, noise_multiplier=Decimal(20)) for one in releases], delta=DELTA)
    assert float(found.replace_one) == pytest.approx(half, rel=1e-4)
    assert found.two_hospitals == found.replace_one
    assert found.zero_out == found.add_or_remove_one < found.replace_one


def test_a_release_with_the_whole_noise_of_every_hospital_composes_in_two_of_them():
    base = share()
    local = LocalSteps(
        **{name: getattr(base, name) for name in (
            "noise_multiplier", "clip_norm", "sampling_rate", "hospitals", "colluders", "dimension", "share_bits", "ring_bits",
            "patients_per_step_max")},
        local_steps=4,
        scale_bits=0,
    )  # fmt: skip
    found = epsilons([local] * 3, delta=DELTA)
    twice = accounting.epsilon_rdp([local] * 6, delta=DELTA)
    assert float(found.two_hospitals) == pytest.approx(twice, rel=1e-3)


def test_nothing_costs_nothing_and_too_little_noise_is_infinite_and_never_nan():
    assert epsilons([], delta=DELTA) == NOTHING
    hopeless = epsilons([share(noise="0.1")], delta=DELTA)
    assert hopeless.replace_one == hopeless.two_hospitals == Decimal("Infinity")
    for sigma in (1e-9, 0.3, 0.31, 3.99, 4.0, 1e4):
        for rate in (1e-6, 0.5, 0.999, 1.0):
            for pair in ("replace", "twice"):
                found = neighbours.divergences(sigma, rate, pair)
                assert (found >= 0).all()
                assert not np.isnan(found).any()


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return ledgers.two_rounds(tmp_path_factory.mktemp("neighbours"))


@pytest.fixture(scope="module")
def verified(place):
    read = bundle.read(place)
    return read, verify.verify(read, roster_hash=None)


def test_record_and_page_have_every_notion_for_every_number_of_colluders(verified):
    facts = report.facts(*verified)
    rows = json.loads(report.plain(facts))["neighbours"]
    assert [row["colluders"] for row in rows] == list(range(len(rows)))
    assert "collusion" not in facts.values  # one source
    for row in rows:
        once, zeroed, replaced, twice = (Decimal(row[name]) for name in page.NEIGHBOURS)
        assert once == zeroed < replaced <= twice
    for language, word in (("en", "in two hospitals"), ("zh", "在两家医院")):
        html = page_html.render(page.page(facts, language=language))
        assert word in html
        assert all(row[name] in html for row in rows for name in page.NEIGHBOURS)


def test_what_recompute_says_is_the_row_of_the_planned_colluders(verified):
    planned = report.facts(*verified).values
    found = accountants.costs(*verified, with_prv=False)
    row = planned["neighbours"][planned["colluders_planned"]]
    assert float(row["two-hospitals"]) == pytest.approx(float(found.neighbours.two_hospitals), rel=1e-4)
    assert found.neighbours.add_or_remove_one == found.rdp
    assert found.prv is None


def recompute(monkeypatch, place, *arguments):
    monkeypatch.setattr(sys, "argv", ["motet-audit", "recompute", str(place), *arguments])
    with pytest.raises(SystemExit) as ending:
        cli.main()
    return ending.value.code or 0


def test_recompute_tells_the_accountants_that_were_asked_for_and_no_other(place, monkeypatch, capsys):
    assert recompute(monkeypatch, place, "--accountants", "rdp", "--json") == 0
    (told,) = json.loads(capsys.readouterr().out)
    assert told["neighbours"]["zero_out"] == told["rdp"] < told["neighbours"]["replace_one"]
    assert not {"pld", "pld_independent", "neighbours_pld", "prv"} & set(told)
    assert recompute(monkeypatch, place, "--accountants", "pld") == 0
    said = capsys.readouterr().out
    assert "PLD" in said
    assert "RDP" not in said
    assert "replaced" in said
    assert recompute(monkeypatch, place, "--accountants", "prv") == 0
    assert "replaced" not in capsys.readouterr().out
    assert recompute(monkeypatch, place, "--accountants", "gdp") == 64
