"""What hospitals refuse as too coarse is refused before anything is spent: one limit on both sides, in every size of round."""

import hashlib
import json
import math
from decimal import Decimal

import pytest
import tomlkit

from client import policy
from common import announcement, model
from common.announcement import Announcement
from common.errors import ConfigError, OutsidePolicy
from server import plan as plans
from server import plan_noise, plan_rhythms
from tests import federation, ledgers, policies
from tests.commands import COORDINATOR, request
from tests.commands import coordinator as motet

PROBE = {"model": "resnet18", "recipe": "full", "prior_sha256": model.prior_sha256("resnet18"), "patients_per_step_max": 2500}
LIMIT = 0.01  # reference: refuse if rho > 1 %
HEAD = 13  # parameters of the phantom study's head


def answer(study, *, hospitals, dimension):
    """Ask a hospital's policy for the first step of training over so many hospitals; raises what it refuses with."""
    signed = ledgers.roster_of(hospitals)
    announced = Announcement(
        run="r",
        study=study.hash(),
        roster=signed.hash(),
        round=1,
        hospitals=signed.names,
        task="train",
        index=1,
        dimension=dimension,
        blob_sha256=hashlib.sha256(b"").hexdigest(),
        mechanism=announcement.mechanism_for(study, task="train", hospitals=hospitals, dimension=dimension),
    )
    mine = policies.policy(epsilon_cap=Decimal(10), colluders_min=1)
    policy.check_round(mine, announcement=announced, study=study, roster=signed, me="hosp-1")


def noise_at(slack, *, hospitals):
    """Return the noise multiplier with which rounding the head's gradient on the finest grid adds `slack`; one colludes."""
    return Decimal(slack * math.sqrt(hospitals - 1) * 2**24 / math.sqrt(HEAD)).quantize(Decimal("1e-6"))


@pytest.mark.parametrize("hospitals", [3, 5])
@pytest.mark.parametrize("share", [0.5, 0.99999, 1.00001, 2])
def test_the_coordinator_and_a_hospital_refuse_at_the_same_limit(hospitals, share):
    noise = noise_at(share * LIMIT, hospitals=hospitals)
    study = federation.study(privacy={"noise_multiplier": noise}, hospitals_min=hospitals)
    if share < 1:
        plan_noise.check(study, hospitals=hospitals)
        answer(study, hospitals=hospitals, dimension=HEAD)
        return
    with pytest.raises(ConfigError, match="hospitals refuse more than 1 %") as raised:
        plan_noise.check(study, hospitals=hospitals)
    assert raised.value.action.endswith("or a smaller noise_multiplier.")  # fewer patients would not help here
    with pytest.raises(OutsidePolicy, match="more than 1 % to the sensitivity"):
        answer(study, hospitals=hospitals, dimension=HEAD)


def test_a_whole_resnet18_for_too_many_patients_is_refused_before_anything_is_spent(tmp_path):
    study = federation.study(training={**PROBE, "patients_declared": 9000})
    with pytest.raises(OutsidePolicy, match="Rounding"):
        answer(study, hospitals=4, dimension=plan_noise.trainable(study))
    path, home = tmp_path / "study.toml", tmp_path / "hub"
    path.write_text(tomlkit.dumps(json.loads(study.model_dump_json(exclude_none=True))))
    assert motet("init", "--home", home, *COORDINATOR)[0] == 0
    for asked in (("plan", path, "--hospitals", "4"), ("propose", path, "--home", home)):
        code, said = motet(*asked)
        assert code == 10
        assert "rounding would add" in said
        assert 'Choose recipe = "head", a smaller network, or a smaller patients_per_step_max.' in " ".join(said.split())
    assert "2.94 % to the sensitivity" in motet("plan", path, "--hospitals", "4")[1]
    assert not list((home / "studies").iterdir())


def test_a_roster_that_grew_after_the_proposal_is_checked_before_the_run(tmp_path):
    most = {"patients_declared": 9000, "patients_per_step_max": 1600}  # 0.90 % with three hospitals, 1.47 % with four
    study = federation.study(training={**PROBE, **most}, hospitals_min=3)
    path, home = tmp_path / "study.toml", tmp_path / "hub"
    path.write_text(tomlkit.dumps(json.loads(study.model_dump_json(exclude_none=True))))
    assert motet("init", "--home", home, *COORDINATOR)[0] == 0
    members = [request(tmp_path, name) for name in "abcd"]
    assert motet("enrol", "--home", home, *members[:3])[0] == 0
    assert motet("propose", path, "--home", home)[0] == 0
    assert motet("enrol", "--home", home, "--replace", *members)[0] == 0
    code, said = motet("run", "--home", home, study.hash())
    assert (code, "rounding would add 1.47 %" in said) == (10, True), said
    assert not list((home / "runs").iterdir())


def test_rounds_without_a_hospital_are_checked_too():
    noise = (noise_at(LIMIT, hospitals=3) + noise_at(LIMIT, hospitals=4)) / 2
    every, fewer = (federation.study(privacy={"noise_multiplier": noise}, hospitals_min=least) for least in (4, 3))
    plan_noise.check(every, hospitals=4)
    answer(fewer, hospitals=4, dimension=HEAD)
    with pytest.raises(OutsidePolicy):
        answer(fewer, hospitals=3, dimension=HEAD)
    for refuses in (lambda: plan_noise.check(fewer, hospitals=4), lambda: plans.plan(fewer, hospitals=4)):
        with pytest.raises(ConfigError, match="from 3 hospitals"):
            refuses()


def test_the_practical_limit_is_the_one_that_the_readme_states():
    for hospitals in (2, 3, 4, 8, 20):
        most = {"patients_per_step_max": 3000 // hospitals, "patients_declared": 3000}
        study = federation.study(training={**PROBE, **most}, hospitals_min=2, privacy={"colluders": 0})
        assert math.sqrt(plan_noise.trainable(study)) * 3000 == pytest.approx(1e7, rel=0.01)
        plan_noise.check(study, hospitals=hospitals)


def test_a_plan_shows_what_rounding_adds_to_each_noisy_sum(tmp_path):
    noisy = {"noise_multiplier": Decimal(100), "delta": Decimal("1e-6"), "patients_max": 100, "colluders": 1}
    study = federation.study(
        privacy={"noise_multiplier": noise_at(0.005, hospitals=4)},
        evaluation={"privacy": {**noisy, "rounds_void_allowed": 0}},
    )
    path = tmp_path / "study.toml"
    path.write_text(tomlkit.dumps(json.loads(study.model_dump_json(exclude_none=True))))
    code, told = motet("plan", path, "--hospitals", "4", "--json")
    assert code == 0, told
    slack = {one["task"]: one["rounding_slack"] for one in json.loads(told)["rounds"]}
    assert slack["gram"] is None
    assert slack["train"] == pytest.approx(0.005, rel=1e-6)
    assert slack["evaluate"] == plan_noise.released(study, task="evaluate", hospitals=4)[0].rounding_slack
    code, said = motet("plan", path, "--hospitals", "4")
    assert code == 0
    (train,) = (line for line in said.splitlines() if line.startswith("│ train "))
    assert [cell.strip() for cell in train.split("│")][6] == "0.5 %"
    assert "rounding, at most 1 %" in said


def test_the_other_rhythm_may_be_impossible_and_the_studys_is_planned_all_the_same():
    local = {"local_steps": 5, "learning_rate": Decimal("0.5"), "update_norm": Decimal(10)}
    plan = federation.study(privacy={"noise_multiplier": Decimal(40)}, training={**PROBE, "local": local, "steps": 2})
    distributed, chosen = plan_rhythms.compare(plan, hospitals=4, link=plan_rhythms.Link())["rhythms"]
    assert (distributed["chosen"], chosen["chosen"]) == (False, True)
    assert "rounding would add" in distributed["refused"]
    assert chosen["rounding_slack"] == pytest.approx(40 * math.sqrt(11_170_753) / 2**24)
