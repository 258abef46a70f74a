"""Claims about the attacks' alarms: on the right build every p is as often below a level as the level says, or less."""

from collections import defaultdict
from decimal import Decimal

import numpy as np
import pytest
from scipy import stats

from client.attack import canaries, draws
from common.audit.attack import conformance, one_run

pytestmark = [pytest.mark.statistical, pytest.mark.long]

RUNS = 40
SURE = 1e-6  # a right build fails a test here once in a million runs


def no_smaller_than_uniform(found):
    """Return p of the hypothesis that the values of each name are uniform or larger, the smallest over names."""
    return {name: stats.kstest(values, "uniform", alternative="greater").pvalue for name, values in found.items()}


def test_conformance_raises_alarms_no_more_often_than_it_says(monkeypatch):
    monkeypatch.setattr(draws, "DIMENSION", 10_000)
    monkeypatch.setattr(draws, "STEPS", 400)
    found = defaultdict(list)
    for _ in range(RUNS):
        for check in conformance.checks(draws.draw(rounds=2)):
            found[check.name].append(check.p)
    assert len(found) == 18
    assert min(no_smaller_than_uniform(found).values()) > SURE


@pytest.mark.parametrize(("noise", "rate", "steps"), [("4", "1", 10), ("1", "0.1", 15)])
def test_one_run_raises_alarms_no_more_often_than_it_says(noise, rate, steps):
    found, off = defaultdict(list), []
    for _ in range(RUNS):
        seen = canaries.run(noise=Decimal(noise), rate=Decimal(rate), steps=steps, canaries=400)
        guess = one_run.guess(seen)
        off.append((guess.auroc - guess.auroc_expected) / guess.auroc_deviation)
        for check in one_run.checks(seen, guess, name="x"):
            found[check.name].append(check.p)
    assert len(found) == 4
    assert min(no_smaller_than_uniform(found).values()) > SURE
    assert abs(np.mean(off)) < 5 / np.sqrt(RUNS)
    assert SURE < stats.chi2.sf(np.square(off).sum(), RUNS) < 1 - SURE
