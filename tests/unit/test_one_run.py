"""The audit in one run finds a trainer that does not clip, count or add noise as claimed, and lets the right one pass.

The broken builds are made here, by replacing one function of the product for one test.
"""

import json
import math
import subprocess
import sys
from decimal import Decimal

import numpy as np
import pytest
from scipy import stats

from client import cli, train
from client.attack import canaries, steps
from client.attack import cli as attack
from client.engine import clipped
from common.audit.attack import one_run
from common.audit.attack.one_run import Plan, Seen, epsilon_least, p_value
from common.crypto import rng

right_noise, right_bags, right_clip, right_sum = rng.discrete_gaussian, train._bags, train.clip, train.clipped_sum
EVERYBODY = Plan(noise_multiplier=4, sigma=4, rate=1, steps=30, delta=Decimal("0.00001"))
SAMPLED = Plan(noise_multiplier=1, sigma=1, rate=0.05, steps=200, delta=Decimal("0.00001"))


def attacked(*, noise="4", rate="1", number=30):
    seen = canaries.run(noise=Decimal(noise), rate=Decimal(rate), steps=number, canaries=800)
    return {check.name.removeprefix("x: "): check for check in one_run.checks(seen, one_run.guess(seen), name="x")}


def alarms(found):
    return {name for name, check in found.items() if not check.holds}


def step_alarms():
    return {check.name for check in steps.checks(steps=100) if not check.holds}


def test_the_right_trainer_raises_no_alarm():
    assert step_alarms() == set()
    assert alarms(attacked()) == set()
    assert alarms(attacked(noise="1", rate="0.05", number=50)) == set()


def test_clipping_that_is_off_is_found(monkeypatch):
    monkeypatch.setattr(train, "clip", lambda gradients, *, norm: gradients)
    monkeypatch.setattr(clipped, "_factors", lambda squares, *, present, clip_norm: (squares > 0).double())
    assert step_alarms() == {"one patient, head", "one patient, full", "batches of a step"}
    assert "pull" in alarms(attacked())


def test_views_that_count_as_patients_are_found(monkeypatch):
    def bags(*words, **named):
        return [(patient, (label, (view,))) for patient, (label, bag) in right_bags(*words, **named) for view in bag]

    monkeypatch.setattr(train, "_bags", bags)
    assert step_alarms() == {"one patient, head", "one patient, full"}


def test_a_batch_of_a_fixed_size_is_found(monkeypatch):
    def fixed(n, *, rate):
        chosen = np.zeros(n, np.bool_)
        chosen[np.random.default_rng().permutation(n)[: int(n * rate)]] = True
        return chosen

    monkeypatch.setattr(rng, "poisson_sample", fixed)
    assert step_alarms() == {"batches of a step"}


def test_clipping_the_batch_instead_of_each_patient_is_found(monkeypatch):
    monkeypatch.setattr(train, "clip", lambda gradients, *, norm: right_clip(gradients.sum(axis=0, keepdims=True), norm=norm))
    assert step_alarms() == {"batches of a step"}


def test_dividing_by_the_patients_who_were_drawn_is_found(monkeypatch):
    def divided(*words, sampled, **named):
        return right_sum(*words, sampled=sampled, **named) / max(1, sampled.sum())

    monkeypatch.setattr(train, "clipped_sum", divided)
    assert step_alarms() == {"batches of a step"}


@pytest.mark.parametrize("factor", [0.0, 0.25, 0.9])
def test_too_little_noise_is_found(monkeypatch, factor):
    def drawn(n, *, share_bits):
        return np.rint(right_noise(n, share_bits=share_bits) * factor).astype(np.int64)

    monkeypatch.setattr(rng, "discrete_gaussian", drawn)
    found = attacked()
    assert "noise" in alarms(found)
    assert ("AUROC" in alarms(found)) == (factor < 0.9)  # one of 800 canaries says little about a tenth


def test_half_the_noise_is_found_by_its_size_but_the_lower_bound_stays_below_the_claim(monkeypatch):
    monkeypatch.setattr(rng, "discrete_gaussian", lambda n, *, share_bits: right_noise(n, share_bits=share_bits) // 2)
    found = attacked()
    assert {"noise", "AUROC"} <= alarms(found)
    assert found["epsilon"].holds


def test_a_seed_that_is_used_again_is_found(monkeypatch):
    monkeypatch.setattr(rng, "secret_bytes", bytes)
    assert "AUROC" in alarms(attacked())


def test_the_expected_auroc_is_the_closed_form_and_its_deviation_that_of_two_normal_samples():
    area, deviation = one_run.expectation(EVERYBODY, inside=2000, outside=1900)
    apart = math.sqrt(30) / (4 * math.sqrt(2))
    assert area == pytest.approx(stats.norm.cdf(apart), abs=1e-6)
    two = stats.multivariate_normal(cov=[[1, 0.5], [0.5, 1]]).cdf([apart, apart])
    variance = (area * (1 - area) + (1999 + 1899) * (two - area**2)) / (2000 * 1900)
    assert deviation == pytest.approx(math.sqrt(variance), rel=1e-3)


def test_the_expected_auroc_with_sampling_is_that_of_a_simulation():
    random, n = np.random.default_rng(0), 40_000
    inside = np.arange(n) % 2 == 0
    total = np.zeros(n)
    for _ in range(SAMPLED.steps):
        seen = (random.random(n) < SAMPLED.rate) * inside + random.normal(size=n)
        total += one_run.score(seen[None], sigma=1, rate=SAMPLED.rate)
    area, deviation = one_run.expectation(SAMPLED, inside=n // 2, outside=n // 2)
    assert one_run.auroc(total, inside=inside) == pytest.approx(area, abs=4 * deviation)
    assert area == pytest.approx(0.728, abs=0.001)


def test_the_claimed_epsilon_is_the_closed_form_of_gaussian_steps():
    mu, epsilon = math.sqrt(30) / 4, EVERYBODY.epsilon()
    spent = stats.norm.cdf(mu / 2 - epsilon / mu) - math.exp(epsilon) * stats.norm.cdf(-mu / 2 - epsilon / mu)
    assert spent == pytest.approx(1e-5, rel=1e-3)


def test_guesses_that_are_all_right_prove_what_the_binomial_says():
    exact = -math.log(0.05 ** (-1 / 100) - 1)
    assert epsilon_least(canaries=1000, made=100, correct=100, delta=0.0) == pytest.approx(exact, abs=1e-6)
    assert epsilon_least(canaries=1000, made=100, correct=100, delta=1e-5) < exact
    assert epsilon_least(canaries=1000, made=100, correct=50, delta=0.0) == 0
    assert epsilon_least(canaries=1000, made=100, correct=0, delta=1e-5) == 0


@pytest.mark.parametrize("delta", [0.0, 1e-5, 1e-2])
def test_the_bound_on_guesses_is_the_papers_linear_program(delta):
    canaries, made, correct, epsilon = 300, 40, 33, 1.2
    law = stats.binom(made, math.exp(epsilon) / (1 + math.exp(epsilon)))
    worst = max((law.cdf(correct - 1) - law.cdf(correct - 1 - i)) / i for i in range(1, correct + 1))
    expected = min(1.0, law.sf(correct - 1) + 2 * canaries * delta * worst)
    assert p_value(epsilon, canaries=canaries, made=made, correct=correct, delta=delta) == pytest.approx(expected)


def test_the_lower_bound_does_not_pass_the_claim_of_a_right_build():
    random = np.random.default_rng(1)
    for plan in (EVERYBODY, SAMPLED):
        for _ in range(5):
            inside = random.random(4000) < 0.5
            noise = random.normal(0, plan.sigma, (plan.steps, 4000))
            drawn = (random.random((plan.steps, 4000)) < plan.rate) * inside
            found = one_run.guess(Seen(plan=plan, coordinates=drawn + noise, inside=inside))
            assert 1 < found.epsilon_least < found.epsilon_claimed


@pytest.mark.parametrize("inside", [[True] * 4, [False] * 4, [True, False]])
def test_a_run_without_both_kinds_is_no_audit(inside):
    with pytest.raises(ValueError, match="nobody is in or out"):
        Seen(plan=EVERYBODY, coordinates=np.zeros((30, 4)), inside=np.array(inside))


def test_wild_coordinates_have_a_score():
    wild = np.array([[1e12, -1e12, 0.0]])
    for rate in (1.0, 0.05):
        found = one_run.score(wild, sigma=1, rate=rate)
        assert np.isfinite(found).all()
        assert found[0] > found[2] > found[1]


def run(monkeypatch, capsys, *words):
    monkeypatch.setattr(steps, "STEPS", 50)
    monkeypatch.setattr(sys, "argv", ["motet-hospital", "attack", "one-run", *words])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    return ended.value.code, capsys.readouterr().out


def test_the_hospitals_command_attacks_its_trainer_and_says_what_the_bound_is_worth(monkeypatch, capsys):
    monkeypatch.setattr(attack, "RUNS", [("everybody", Decimal(4), Decimal(1), 20)])
    code, said = run(monkeypatch, capsys, "--canaries", "200", "--json")
    found = json.loads(said)
    assert code == 0
    assert found["holds"]
    assert found["guesses"]["everybody"]["epsilon_least"] < found["guesses"]["everybody"]["epsilon_claimed"]
    assert "only consistent with" in found["remark"]


def test_a_broken_trainer_ends_with_code_six(monkeypatch, capsys):
    monkeypatch.setattr(attack, "RUNS", [("everybody", Decimal(4), Decimal(1), 5)])
    monkeypatch.setattr(train, "clip", lambda gradients, *, norm: gradients)
    code, said = run(monkeypatch, capsys, "--canaries", "200")
    assert code == 6
    assert "FAILS" in said


@pytest.mark.parametrize("number", ["0", "199", "10001", "many"])
def test_a_strange_number_of_canaries_is_a_usage_error(monkeypatch, capsys, number):
    assert run(monkeypatch, capsys, "--canaries", number)[0] == 64


def test_the_numbers_of_the_audit_need_neither_torch_nor_the_hospital():
    code = "import sys, common.audit.attack.one_run\nprint(*({'torch', 'flwr', 'client', 'server'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == ""
