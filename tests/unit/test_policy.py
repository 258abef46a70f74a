"""The hospital's policy: every refusal by name, whatever the coordinator says."""

import hashlib
from dataclasses import replace
from decimal import Decimal

import pytest

from client import policy
from common import announcement, scores
from common.announcement import Announcement
from common.errors import OutsidePolicy, RefusedError, RosterNotApproved, RosterTooSmall, TooFewPatients
from common.mechanism import Exact
from tests import federation, ledgers, policies

STUDY = federation.study()
MINE = policies.policy(epsilon_cap=Decimal(10), colluders_min=1, exact_releases_max=10, local_steps_max=10)


FOUR = ledgers.roster_of(4)
ME = "hosp-1"


def announced(task="train", *, plan=STUDY, hospitals=FOUR.names, dimension=10, index=None, **changes):
    one = Announcement(
        run="r",
        study=plan.hash(),
        roster=FOUR.hash(),
        round=1,
        hospitals=hospitals,
        task=task,
        index=(0 if task == "gram" else 1) if index is None else index,
        dimension=dimension,
        blob_sha256=hashlib.sha256(b"").hexdigest(),
        mechanism=announcement.mechanism_for(plan, task=task, hospitals=max(len(hospitals), 3), dimension=dimension),
    )
    return replace(one, **changes)


def check_round(one, *, mine=MINE, study=STUDY):
    policy.check_round(mine, announcement=one, study=study, roster=FOUR, me=ME)


def changed(**changes):
    return MINE.model_copy(update=changes)


def test_an_honest_study_and_every_honest_round_pass():
    policy.check_study(MINE, study=STUDY, roster=FOUR)
    for task, index in (("gram", 0), ("train", 1), ("evaluate", scores.models(STUDY))):
        check_round(announced(task, index=index))
        check_round(announced(task, index=index, hospitals=FOUR.names[:3]))


def test_a_study_with_too_large_a_delta_is_refused():
    with pytest.raises(OutsidePolicy, match="delta"):
        policy.check_study(changed(delta_cap=Decimal("0.99e-5")), study=STUDY, roster=FOUR)


def test_a_study_that_assumes_too_few_colluders_is_refused():
    with pytest.raises(OutsidePolicy, match="colluding"):
        policy.check_study(changed(colluders_min=2), study=STUDY, roster=FOUR)


def test_a_study_that_allows_too_small_a_roster_is_refused():
    with pytest.raises(RosterTooSmall, match="too small"):
        policy.check_study(changed(hospitals_min=4), study=STUDY, roster=FOUR)


@pytest.mark.parametrize(("members", "colluders"), [(2, 1), (4, 3), (4, 63)])
def test_a_roster_with_fewer_than_two_honest_hospitals_is_refused(members, colluders):
    study = federation.study(privacy={"colluders": colluders})
    with pytest.raises(RosterTooSmall, match="honest"):
        policy.check_study(MINE, study=study, roster=ledgers.roster_of(members))


@pytest.mark.parametrize("change", [{"study": "1" * 64}, {"roster": "1" * 64}, {"study": ""}, {"roster": None}])
def test_a_round_of_another_study_or_roster_is_refused(change):
    with pytest.raises(RosterNotApproved, match="another study or roster"):
        check_round(announced(**change))


@pytest.mark.parametrize("hospitals", [("hosp-0", "hosp-2", "hosp-3"), ("hosp-0", "hosp-1", "sybil"), (), ("hub", "hosp-1")])
def test_a_round_with_strangers_or_without_us_is_refused(hospitals):
    with pytest.raises(RosterNotApproved, match="outside the approved roster"):
        check_round(announced(hospitals=hospitals))


def test_a_round_of_too_few_hospitals_is_refused():
    with pytest.raises(RosterTooSmall, match="too few"):
        check_round(announced(hospitals=("hosp-0", "hosp-1")))
    with pytest.raises(RosterTooSmall, match="too few"):
        check_round(announced(hospitals=FOUR.names[:3]), mine=changed(hospitals_min=4))


def test_a_round_with_fewer_than_two_honest_hospitals_is_refused():
    study = federation.study(privacy={"colluders": 2})
    with pytest.raises(RosterTooSmall, match="honest"):
        check_round(announced(plan=study, hospitals=FOUR.names[:3]), study=study)
    check_round(announced(plan=study), study=study)


@pytest.mark.parametrize(
    "change",
    [
        {"noise_multiplier": Decimal("0.01")},
        {"clip_norm": Decimal(100)},
        {"sampling_rate": Decimal("0.5")},
        {"hospitals": 64},
        {"colluders": 0},
        {"dimension": 1},
        {"patients_per_step_max": 1},
        {"share_bits": 1},
        {"ring_bits": 64},
    ],
    ids=str,
)
def test_a_mechanism_that_is_not_the_studys_is_refused(change):
    one = announced()
    with pytest.raises(OutsidePolicy, match="mechanism"):
        check_round(replace(one, mechanism=replace(one.mechanism, **change)))


@pytest.mark.parametrize("task", ["train", "gram", "evaluate"])
def test_an_exact_release_of_something_else_is_refused(task):
    with pytest.raises(OutsidePolicy, match="mechanism"):
        check_round(announced(task, mechanism=Exact(statistic="gradients", ring_bits=32)))


def test_a_hospital_without_exact_statistics_refuses_them_and_still_trains():
    mine = changed(exact_releases_max=0)
    for task in ("gram", "evaluate"):
        with pytest.raises(OutsidePolicy, match="no exact statistics"):
            check_round(announced(task), mine=mine)
    check_round(announced("train"), mine=mine)


def test_rounding_that_costs_more_than_one_percent_is_refused():
    with pytest.raises(OutsidePolicy, match="Rounding"):
        check_round(
            announced(dimension=1 << 28, plan=(loud := federation.study(privacy={"noise_multiplier": Decimal(64)}))),
            study=loud,
        )


@pytest.mark.parametrize("index", [0, -1, 1, scores.models(STUDY) - 1, scores.models(STUDY) + 1, 10**6])
def test_another_number_of_models_than_the_studys_is_refused(index):
    with pytest.raises(OutsidePolicy, match="models"):
        check_round(announced("evaluate", index=index))


def test_models_that_training_did_not_pass_through_are_refused():
    steps = STUDY.training.steps
    seen = tuple(f"step {number}" for number in range(steps))
    policy.check_models(STUDY, seen=seen, scored=(*seen, "last", "average"))
    policy.check_models(STUDY, seen=seen[1:], scored=(*seen, "last", "average"))
    for scored in ((*seen[1:], "probe", "last", "average"), ("probe",) * (steps + 2)):
        with pytest.raises(OutsidePolicy, match="did not pass through"):
            policy.check_models(STUDY, seen=seen, scored=scored)


def test_training_twice_on_one_model_does_not_make_room_for_a_strange_one():
    steps = STUDY.training.steps
    seen = tuple(f"step {number}" for number in range(steps))
    with pytest.raises(OutsidePolicy):
        policy.check_models(STUDY, seen=(*seen, *seen), scored=(*seen[1:], "probe", "last", "average"))


@pytest.mark.parametrize("patients", [0, 4])
def test_a_small_cohort_is_refused(patients):
    policy.check_cohort(MINE, patients=5)
    with pytest.raises(TooFewPatients):
        policy.check_cohort(MINE, patients=patients)


def test_no_refusal_tells_the_number_that_was_passed():
    with pytest.raises(RefusedError) as caught:
        policy.check_cohort(changed(patients_min=777), patients=123)
    assert not {"777", "123"} & set(str(caught.value).split())
