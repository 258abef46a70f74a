"""Shadow models: LiRA and RMIA as the papers write them, beaten by the product's noise, winning where it is left out."""

import json
import sys
from decimal import Decimal

import numpy as np
import pytest
from scipy.special import expit
from scipy.stats import norm

from client import cli
from client.attack import cli as attack
from client.attack import shadows as training
from common.audit.attack import given, shadow
from common.audit.attack.one_run import Plan
from common.audit.attack.shadow import Models

PLAN = Plan(noise_multiplier=10, sigma=10, rate=1, steps=60, delta=Decimal("0.00001"))


def simulated(models, *, gain, seed, patients=10, strangers=40):
    """Models whose log-odds of a patient rise by `gain` where that patient was in; in pairs that share nobody."""
    random = np.random.default_rng(seed)
    first = random.random((models // 2, patients)) < 0.5
    inside = np.stack([first, ~first], axis=1).reshape(models, patients)
    odds = np.linspace(-1, 1, patients) + random.normal(size=inside.shape) + gain * inside
    return Models(inside=inside, patients=odds, strangers=random.normal(size=(models, strangers)))


def test_lira_is_the_likelihood_ratio_of_gaussians_fitted_to_the_shadows():
    shadows, targets = simulated(16, gain=2, seed=1), simulated(4, gain=2, seed=2)
    found = shadow.lira(shadows=shadows, targets=targets)
    means = {
        where: [shadows.patients[shadows.inside[:, at] == where, at].mean() for at in range(10)] for where in (True, False)
    }
    off = [odds - means[held][at] for row, told in zip(shadows.patients, shadows.inside, strict=True)
           for at, (odds, held) in enumerate(zip(row, told, strict=True))]  # fmt: skip
    deviation = np.sqrt(np.mean(np.square(off)))
    expected = norm.logpdf(targets.patients, means[True], deviation) - norm.logpdf(targets.patients, means[False], deviation)
    assert found == pytest.approx(expected)


def test_rmia_is_the_part_of_strangers_that_a_patients_ratio_is_not_below():
    shadows, targets = simulated(6, gain=2, seed=3), simulated(2, gain=2, seed=4)
    found = shadow.rmia(shadows=shadows, targets=targets)
    for target in range(2):
        ratios = expit(targets.strangers[target]) / expit(shadows.strangers).mean(axis=0)
        for at in range(10):
            own = expit(targets.patients[target, at]) / expit(shadows.patients[:, at]).mean()
            assert found[target, at] == pytest.approx((own >= ratios).mean())


def alarms(results, targets, *, plan=PLAN):
    found = shadow.checks(results, plan=plan, canaries=targets.inside.size, name="x")
    return {check.name for check in found if not check.holds}


def test_models_that_learn_patients_by_heart_refute_the_claim_and_models_of_noise_do_not():
    telling, silent = ((simulated(64, gain=gain, seed=5), simulated(400, gain=gain, seed=6)) for gain in (8, 0))
    loud = shadow.attack(shadows=telling[0], targets=telling[1], plan=PLAN)
    assert len(alarms(loud, telling[1])) >= 3
    assert loud[0].auroc > 0.99
    assert loud[0].epsilon_least > loud[0].epsilon_claimed
    assert shadow.power(loud, plan=PLAN).holds
    quiet = shadow.attack(shadows=silent[0], targets=silent[1], plan=PLAN)
    assert alarms(quiet, silent[1]) == set()
    assert all(one.epsilon_least < one.epsilon_claimed for one in quiet)
    assert not shadow.power(quiet, plan=PLAN).holds  # an attack without power proves nothing, and says so


def test_what_cannot_be_judged_is_refused():
    good = simulated(4, gain=1, seed=7)
    everybody = Models(inside=np.ones_like(good.inside), patients=good.patients, strangers=good.strangers)
    for shadows, targets in ((everybody, good), (good, everybody)):
        with pytest.raises(ValueError, match="some"):
            shadow.attack(shadows=shadows, targets=targets, plan=PLAN)
    with pytest.raises(ValueError, match="belong together"):
        Models(inside=good.inside[:2], patients=good.patients, strangers=good.strangers)
    with pytest.raises(ValueError, match="pairs"):
        training.trained(training.random_pictures(), models=3, noised=True)


def test_heads_of_the_product_give_nobody_away_and_without_clipping_and_noise_they_do(monkeypatch):
    monkeypatch.setattr(training, "STEPS", 30)
    monkeypatch.setattr(training, "STRANGERS", 64)
    plan, pictures = training.plan(), training.random_pictures()
    shadows, targets = training.trained(pictures, models=6, noised=True)
    right = shadow.attack(shadows=shadows, targets=targets, plan=plan)
    assert alarms(right, targets, plan=plan) == set()
    shadows, targets = training.trained(pictures, models=6, noised=False)
    assert max(one.auroc for one in shadow.attack(shadows=shadows, targets=targets, plan=plan)) > 0.6
    assert (shadows.inside[::2] ^ shadows.inside[1::2]).all()  # pairs share nobody and hold all


def run(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["motet-hospital", "attack", "membership", *arguments])
    with pytest.raises(SystemExit) as ending:
        cli.main()
    return ending.value.code


@pytest.mark.parametrize("number", ["33", "30", "-2", "2000"])
def test_a_number_of_shadows_that_makes_no_pairs_or_is_out_of_range_is_a_usage_error(monkeypatch, number):
    assert run(monkeypatch, "--shadows", number) == 64


def test_the_command_tells_both_trainings_and_the_page_takes_what_it_printed(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(attack, "RUNS", (("everybody", Decimal(4), Decimal(1), 3),))
    monkeypatch.setattr(attack, "SHADOWS_LEAST", 2)
    monkeypatch.setattr(training, "STEPS", 3)
    monkeypatch.setattr(training, "STRANGERS", 64)
    code = run(monkeypatch, "--canaries", "200", "--shadows", "2", "--json")
    told = json.loads(capsys.readouterr().out)
    assert code == (0 if told["holds"] else 6)
    assert told["shadows"]["models"] == 2
    for kind in ("with_noise", "without_clipping_and_noise"):
        assert [one["attack"] for one in told["shadows"][kind]] == ["LiRA, 2 shadows", "RMIA, 2 references"]
    (tmp_path / "membership.json").write_text(json.dumps(told))
    assert len(given.read([tmp_path / "membership.json"])[0].checks) == len(told["checks"])
