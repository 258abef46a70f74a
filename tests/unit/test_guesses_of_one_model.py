"""Guesses about one model err together: intervals and p-values of shadow models count models, not guesses."""

import math
from decimal import Decimal

import numpy as np
import pytest
from scipy.stats import norm

from common.audit.attack import clustered, membership
from common.audit.attack.one_run import Plan
from common.audit.attack.shadow import Models, attack

PLAN = Plan(noise_multiplier=10, sigma=10, rate=1, steps=100, delta=Decimal("0.00001"))
SHIFT = math.sqrt(PLAN.steps) / PLAN.sigma  # of a member's score, where an attack is as good as the claim allows
TARGETS, PATIENTS, RUNS = 64, 16, 250


def guesses(random, *, shared, shift=SHIFT):
    """Scores (target, patient) that are N(0, 1), and members' `shift` more, of which each target's share one part."""
    inside = random.random((TARGETS, PATIENTS)) < 0.5
    own, common = random.normal(size=inside.shape), random.normal(size=(TARGETS, 1))
    return math.sqrt(shared) * common + math.sqrt(1 - shared) * own + shift * inside, inside


def told(random, *, shared, by_model=True, shift=SHIFT):
    """What is found, and the true rate of members above each of the two thresholds."""
    scores, inside = (one.ravel() for one in guesses(random, shared=shared, shift=shift))
    models = np.repeat(np.arange(TARGETS), PATIENTS) if by_model else None
    found = membership.found_by(scores, inside=inside, plan=PLAN, models=models)
    outside = np.sort(scores[~inside])[::-1]
    thresholds = [outside[math.floor(one.false_alarm * len(outside))] for one in found]
    return found, [norm.sf(one - shift) for one in thresholds]


def coverage(*, shared, by_model):
    random, held = np.random.default_rng(21), []
    for _ in range(RUNS):
        found, true = told(random, shared=shared, by_model=by_model, shift=2.0)
        held += [one.least <= rate <= one.most for one, rate in zip(found, true, strict=True)]
    return np.mean(held)


@pytest.mark.parametrize("shared", [0.0, 0.3, 0.6])
def test_the_interval_of_members_found_holds_the_true_rate_as_often_as_it_says(shared):
    assert coverage(shared=shared, by_model=True) > 0.95 - 3 * math.sqrt(0.05 * 0.95 / RUNS)


def test_counted_as_independent_guesses_it_would_not():
    assert coverage(shared=0.6, by_model=False) < 0.8


@pytest.mark.parametrize("shared", [0.0, 0.6])
def test_an_attack_as_good_as_the_claim_allows_raises_alarms_no_more_often_than_the_level(monkeypatch, shared):
    monkeypatch.setattr(membership, "LEVEL", 0.04)
    random = np.random.default_rng(22)
    alarms = [any(one.p < 0.04 for one in told(random, shared=shared)[0]) for _ in range(RUNS)]
    assert np.mean(alarms) <= 0.04


@pytest.mark.parametrize("shared", [0.0, 0.6])
def test_what_is_said_of_an_attack_as_good_as_the_claim_allows_does_not_contradict_the_claim(shared):
    """The counted rate of false alarms is not the true one: the ceiling is said at the end of its interval, too."""
    random = np.random.default_rng(25)
    found = [one for _ in range(RUNS) for one in told(random, shared=shared)[0]]
    assert np.mean([one.least > one.ceiling_most for one in found]) <= 0.01
    assert np.mean([one.least > one.ceiling for one in found]) > 0.02, "by the counted rate alone it often would"
    first = next(iter(membership.checks(found[:1], name="x")))
    assert first.claim.endswith(f"{100 * found[0].ceiling_most:.1f} % if they are {100 * found[0].false_alarm_most:.1f} %")


def test_an_attack_that_finds_every_member_raises_an_alarm_although_models_are_few():
    random = np.random.default_rng(23)
    found, _ = told(random, shared=0.3, shift=20.0)
    assert not any(check.holds for check in membership.checks(found, name="x"))
    assert all(one.members_effective == TARGETS for one in found), "where all are found, each model counts once"


def test_guesses_are_worth_at_most_their_number_and_where_models_agree_no_more_than_their_models():
    models = np.repeat(np.arange(20), 10)
    alike = np.repeat(np.arange(20) % 2 == 0, 10)
    mixed = np.tile(np.arange(10) % 2 == 0, 20)
    assert 10 < clustered.effective(alike, models=models, tail=0.025) < 20
    assert 150 < clustered.effective(mixed, models=models, tail=0.025) <= 200
    assert clustered.effective(np.zeros(200, bool), models=models, tail=0.025) == 20
    assert clustered.effective(mixed, models=np.zeros(200, np.int64), tail=0.025) == 1
    assert clustered.effective(np.zeros(0, bool), models=np.zeros(0, np.int64), tail=0.025) == 0


def test_the_attack_says_how_many_guesses_it_counts():
    random = np.random.default_rng(24)
    first = random.random((16, PATIENTS)) < 0.5
    shadows = np.stack([first, ~first], axis=1).reshape(32, PATIENTS)

    def made(inside):
        odds = random.normal(size=(len(inside), 1)) * 2 + 2 * inside
        return Models(inside=inside, patients=odds, strangers=random.normal(size=(len(inside), 40)))

    results = attack(shadows=made(shadows), targets=made(random.random((32, PATIENTS)) < 0.5), plan=PLAN)
    assert all(one.members_effective < one.members / 2 for one in results[0].found)
