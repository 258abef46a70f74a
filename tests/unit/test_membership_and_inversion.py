"""Membership inference and gradient inversion stay below what the noise allows, and find a build that leaves the noise out."""

import json
import math
import sys
from decimal import Decimal

import numpy as np
import pytest

from client import cli
from client.attack import canaries, inversion
from client.attack import cli as attack
from common.audit.attack import given, membership
from common.audit.attack.one_run import Plan, Seen
from common.crypto import rng

right_noise = rng.discrete_gaussian
PLAN = Plan(noise_multiplier=4, sigma=4, rate=1, steps=30, delta=Decimal("0.00001"))


def simulated(*, sigma, canaries=4000):
    random = np.random.default_rng(11)
    inside = random.random(canaries) < 0.5
    coordinates = random.normal(0, sigma, (PLAN.steps, canaries)) + inside
    return Seen(plan=PLAN, coordinates=coordinates, inside=inside)


def alarms(seen):
    return {check.name for check in membership.checks(membership.attack(seen), name="x") if not check.holds}


def test_the_attack_finds_what_the_closed_form_says_and_no_more_than_the_ceiling():
    mu = math.sqrt(PLAN.steps) / PLAN.sigma
    for one in membership.attack(simulated(sigma=4)):
        from scipy.stats import norm

        expected = norm.sf(norm.isf(one.false_alarm) - mu)  # of the strongest test of a Gaussian mechanism
        assert one.rate == pytest.approx(expected, abs=0.05)
        assert expected <= one.ceiling <= 1.3 * expected + 0.002
    assert alarms(simulated(sigma=4)) == set()


def test_half_the_noise_finds_more_members_than_the_claim_allows():
    assert len(alarms(simulated(sigma=2))) == 2


def test_the_installed_trainer_gives_no_more_members_away_and_a_silent_one_does(monkeypatch):
    right = canaries.run(noise=Decimal(4), rate=Decimal(1), steps=10, canaries=400)
    assert alarms(right) == set()
    monkeypatch.setattr(rng, "discrete_gaussian", lambda n, *, share_bits: right_noise(n, share_bits=share_bits) // 8)
    assert alarms(canaries.run(noise=Decimal(4), rate=Decimal(1), steps=10, canaries=400))


def test_a_plain_gradient_is_the_image_and_what_leaves_is_worse_than_a_blank_guess():
    steps = []
    found, blank = inversion.run(progress=lambda: steps.append(1))
    assert len(steps) == len(inversion.KINDS) == len(found)
    read = [one.psnr_db for one in found]
    assert read[0] > 60
    assert read[1] > 60, "clipping scales, it hides nothing"
    assert all(one.psnr_db <= blank for one in found if one.leaves)
    assert sum(one.leaves for one in found) == 2


def run(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["motet-hospital", "attack", *arguments])
    with pytest.raises(SystemExit) as ending:
        cli.main()
    return ending.value.code


def test_the_commands_say_what_was_seen_and_noise_left_out_ends_with_six(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(attack, "RUNS", (("everybody", Decimal(4), Decimal(1), 5),))
    assert run(monkeypatch, "membership", "--canaries", "200", "--shadows", "0", "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert [one["false_alarm"] for one in told["found"]["everybody"]] == [0.01, 0.001]
    assert "shadows" not in told
    assert run(monkeypatch, "inversion") == 0
    said = capsys.readouterr().out
    assert "a blank" in said
    assert "Every check holds." in said
    assert "not significantly beyond the claim" in said
    assert "over 32 checks (Bonferroni)" in said
    monkeypatch.setattr(rng, "discrete_gaussian", lambda n, *, share_bits: np.zeros(n, np.int64))
    assert run(monkeypatch, "inversion", "--json") == 6
    told = json.loads(capsys.readouterr().out)
    assert told["holds"] is False
    assert [check["holds"] for check in told["checks"]] == [
        not one["leaves"] or one["psnr_db"] <= told["blank_db"] for one in told["read"]
    ]
    (tmp_path / "inversion.json").write_text(json.dumps(told))
    assert not given.read([tmp_path / "inversion.json"])[0].plain()["holds"]
