"""Local steps at one hospital: what one patient can do, what the noise is, that it learns; what is refused."""

from dataclasses import replace
from decimal import Decimal
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from scipy.stats import rankdata

from client import local, train
from common import announcement, model, rhythm
from common.crypto import encoding, noise, ring, rng
from common.errors import InternalError, OutsidePolicy, TooManyPatients
from common.ledger.accounting import Tally, epsilon_pld, epsilon_rdp
from common.mechanism import from_entry
from common.optimisation import Adam
from server import step
from tests import learning

LOCAL = {"local_steps": 4, "learning_rate": "2", "update_norm": "1000"}
N = 24
SIZE = 13  # of the head


def study(*, local=None, **changes):
    return learning.study(local={**LOCAL, **(local or {})}, **changes)


def mechanism(plan, *, hospitals=4):
    size = model.trainable_size(plan.training, channels=1, patch_voxels=learning.SIDE)
    return announcement.mechanism_for(plan, task="train", hospitals=hospitals, dimension=size + 1)


def change(plan, *, cohort, rows=None, blob=None, clipped_sum=None, hospitals=4):
    rows = np.arange(len(cohort.patients)) if rows is None else rows

    def own(blob, drawn):
        return train.clipped_sum(blob, study=plan, cohort=cohort, training_rows=rows, sampled=drawn)

    return local.contribution(
        blob or learning.initial(plan),
        study=plan,
        patients=len(rows),
        mechanism=mechanism(plan, hospitals=hospitals),
        clipped_sum=clipped_sum or own,
    ).values


def test_the_change_is_computed_from_noisy_sums_and_public_numbers_alone(monkeypatch):
    """The real noisy sums of one run are handed to another over other patients: what is random is repeated."""
    plan, cohort, noisy = study(), learning.cohort(N), []
    real = noise.noised

    def kept(values, *, mechanism):
        noisy.append(real(values, mechanism=mechanism))
        return noisy[-1]

    monkeypatch.setattr(noise, "noised", kept)
    told = change(plan, cohort=cohort)
    assert len(noisy) == 4
    assert all(one.dtype == np.int64 for one in noisy)
    again = iter(noisy)
    monkeypatch.setattr(noise, "noised", lambda values, *, mechanism: next(again))
    without = change(plan, cohort=learning.cohort(3, seed=9), clipped_sum=lambda _blob, _drawn: np.full(SIZE, np.nan))
    assert told.tobytes() == without.tobytes()  # the patients, how many they are and who was drawn do not matter any more


def test_one_patient_moves_each_noisy_sum_by_at_most_the_clip_norm(monkeypatch):
    plan, cohort = study(sampling_rate="1", clip_norm="0.01"), learning.cohort(N)
    monkeypatch.setattr(rng, "discrete_gaussian", lambda n, *, share_bits: np.zeros(n, np.int64))
    models, everybody, but_one = [], [], []

    def sum_of(blob, rows):
        return train.clipped_sum(blob, study=plan, cohort=cohort, training_rows=rows, sampled=np.ones(len(rows), bool))

    def kept(blob, _drawn):
        models.append(blob)
        everybody.append(sum_of(blob, np.arange(N)))
        return everybody[-1]

    def without_one(_blob, _drawn):  # at the models of the other run: the noisy sums, once made, are all that leads on
        but_one.append(sum_of(models[len(but_one)], np.arange(N - 1)))
        return but_one[-1]

    change(plan, cohort=cohort, clipped_sum=kept)
    change(plan, cohort=cohort, clipped_sum=without_one)
    moved = [np.linalg.norm(one - other) for one, other in zip(everybody, but_one, strict=True)]
    assert len(moved) == 4
    assert max(moved) <= 0.01 * (1 + 1e-6)
    assert min(moved) > 0.005


def test_noise_of_each_local_step_is_whole_and_of_the_stated_deviation():
    plan = study(recipe="full", sampling_rate="0.5")
    size = mechanism(plan).dimension
    told = change(plan, cohort=learning.cohort(2), clipped_sum=lambda _blob, _drawn: np.zeros(size))
    batch = 0.5 * 40 / 4
    expected = 2 * 0.5 * (2.0 / batch) * np.sqrt(4)  # noise multiplier, clip norm, rate over batch, four steps
    assert told.std() == pytest.approx(expected, rel=0.02)
    assert mechanism(plan).rounding_slack < 1e-3


def test_no_seed_repeats_the_noise_and_an_empty_draw_is_a_step_of_noise():
    plan, told = study(sampling_rate="0.000001"), set()
    for _ in range(2):
        torch.manual_seed(0)
        np.random.seed(0)  # noqa: NPY002
        told.add(change(plan, cohort=learning.cohort(3)).tobytes())
    assert len(told) == 2


def test_four_hospitals_learn_in_the_local_rhythm():
    plan = study(
        local={"local_steps": 5, "learning_rate": "5", "update_norm": "100"},
        noise_multiplier="1",
        steps=4,
        learning_rate="1",
        optimiser={"kind": "momentum", "momentum": "0"},
        patients_declared=160,
    )
    hospitals = [learning.cohort(40, seed=seed) for seed in range(4)]
    network = learning.built(plan)
    names = model.trainable_names(network, plan.training)
    state = step.start(model.flat(network, names), training=plan.training)
    chosen = mechanism(plan)
    for _ in range(plan.training.steps):
        words = [
            encoding.encode(change(plan, cohort=cohort, blob=model.dump(network)), encoding=encoding.of(chosen))
            for cohort in hospitals
        ]
        total = ring.total(words, dimension=chosen.dimension + 1, bits=32)
        changes, cut_off = encoding.decode(total, encoding=encoding.of(chosen))
        assert cut_off == 0
        state = step.step_of_changes(state, changes, hospitals=4, training=plan.training)
        model.with_flat(network, names, state.position)
    assert auc(learning.built(plan)) == 0.5
    assert auc(network) > 0.9


def auc(network):
    """Of other patients, by their first views."""
    test = learning.cohort(80, seed=17)
    with torch.no_grad():
        scores = network(torch.from_numpy(test.views[[bag[0] for bag in test.bags]].copy())).numpy()
    positive = test.table[:, 1] > 3
    order = rankdata(scores)
    many = positive.sum()
    return (order[positive].sum() - many * (many + 1) / 2) / (many * (len(positive) - many))


def test_the_mean_of_changes_is_fed_avg_or_fed_adam():
    plan = study(learning_rate="1", optimiser={"kind": "momentum", "momentum": "0"})
    start = step.start(np.array([1.0, -2.0]), training=plan.training)
    averaged = step.step_of_changes(start, np.array([4.0, 8.0]), hospitals=4, training=plan.training)
    assert averaged.position.tolist() == [2.0, 0.0]
    adam = {"kind": "adam", "beta_1": "0.9", "beta_2": "0.99", "damping": "0.001"}
    fed_adam = study(learning_rate="0.1", optimiser=adam).training
    assert isinstance(fed_adam.optimiser, Adam)
    first = step.step_of_changes(
        step.start(np.zeros(2), training=fed_adam), np.array([4.0, -8.0]), hospitals=4, training=fed_adam
    )
    mean = np.array([1.0, -2.0])
    assert np.abs(first.position - 0.1 * mean / (np.abs(mean) + 0.001)).max() < 1e-12
    with pytest.raises(InternalError):
        step.step_of_changes(start, np.array([np.nan, 0]), hospitals=4, training=plan.training)


def test_a_long_change_is_shortened():
    assert np.linalg.norm(local.shortened(np.array([3.0, 4.0]), norm=1.0)) == pytest.approx(1)
    assert local.shortened(np.array([3.0, 4.0]), norm=5.0).tolist() == [3.0, 4.0]
    plan = study(local={"update_norm": "0.5"})
    assert np.linalg.norm(change(plan, cohort=learning.cohort(N))) == pytest.approx(0.5)


@settings(max_examples=60)
@given(norm=st.decimals("0.000001", "1000000", places=6), hospitals=st.integers(2, 64))
def test_no_change_within_its_norm_is_cut_off_and_no_sum_wraps(norm, hospitals):
    bits = rhythm.scale_bits(norm, hospitals=hospitals)
    chosen = encoding.Encoding(bits=32, scale_bits=bits, hospitals=hospitals)
    assert Fraction(norm) <= Fraction(chosen.limit) / Fraction(2) ** bits < 8 * Fraction(norm)
    at_most = encoding.encode(np.array([float(norm), -float(norm)]), encoding=chosen)
    values, cut_off = encoding.decode(ring.total([at_most] * hospitals, dimension=3, bits=32), encoding=chosen)
    assert cut_off == 0
    assert np.abs(values - hospitals * float(norm) * np.array([1, -1])).max() <= chosen.error_most


def test_local_steps_are_charged_as_so_many_sampled_gaussians():
    plan = study()
    one, single = mechanism(plan), announcement.mechanism_for(learning.study(), task="train", hospitals=4, dimension=SIZE)
    assert epsilon_rdp([one] * 3, delta=Decimal("1e-5")) == epsilon_rdp([single] * 12, delta=Decimal("1e-5"))
    assert epsilon_pld([one], delta=Decimal("1e-5")) == pytest.approx(
        epsilon_pld([single] * 4, delta=Decimal("1e-5")), abs=1e-6
    )
    tally = Tally([one, one])
    tally.add(one, times=-1)
    assert [group.count for group in tally.groups] == [4]


def test_the_mechanism_is_read_back_and_a_free_one_is_refused():
    one = mechanism(study())
    assert from_entry(one.entry()) == one
    for strange in ({"steps": 0}, {"steps": -1}, {"steps": 10**6}, {"steps": True}, {"scale_bits": 99}, {"name": "dp-sgd"}):
        with pytest.raises(ValueError, match=r"mechanism|range"):
            from_entry({**one.entry(), **strange})


@pytest.mark.parametrize(
    ("section", "says"),
    [
        ({"local_steps": 0}, "local_steps"),
        ({"local_steps": 1}, "local_steps"),
        ({"local_steps": -3}, "local_steps"),
        ({"local_steps": 10**9}, "local_steps"),
        ({"local_steps": "many"}, "local_steps"),
        ({"learning_rate": "0"}, "learning_rate"),
        ({"learning_rate": "NaN"}, "learning_rate"),
        ({"update_norm": "0"}, "update_norm"),
        ({"update_norm": "1e30"}, "update_norm"),
        ({"own_rates": [{"hospital": "a", "sampling_rate": "0.9"}]}, "above the sampling_rate"),
        ({"own_rates": [{"hospital": "a", "sampling_rate": "0"}]}, "own_rates"),
        ({"own_rates": [{"hospital": "a", "sampling_rate": "0.1"}] * 2}, "two own rates"),
        ({"colluders": 1}, "colluders"),
    ],
)
def test_wrong_local_sections_are_refused_by_name(section, says):
    with pytest.raises(ValidationError, match=says):
        study(local=section)


def test_no_key_of_a_local_section_has_a_default_but_own_rates():
    for key in LOCAL:
        with pytest.raises(ValidationError, match="Field required"):
            learning.study(local={name: value for name, value in LOCAL.items() if name != key})


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"recipe": "finetune"}, r"needs \[training.finetune\]"),
        ({"recipe": "head", "finetune": {"head_steps": 2, "head_learning_rate": "1"}}, "no other recipe"),
        ({"recipe": "finetune", "finetune": {"head_steps": 8, "head_learning_rate": "1"}}, "below steps"),
        ({"recipe": "finetune", "finetune": {"head_steps": 0, "head_learning_rate": "1"}}, "head_steps"),
        ({"recipe": "finetune", "finetune": {"head_steps": 2}}, "head_learning_rate"),
        (
            {
                "recipe": "finetune",
                "finetune": {"head_steps": 6, "head_learning_rate": "1"},
                "schedule": {"kind": "warm-up-cosine", "warm_up_steps": 2},
            },
            "warm_up_steps",
        ),
    ],
)
def test_wrong_finetune_sections_are_refused(changes, says):
    with pytest.raises(ValidationError, match=says):
        learning.study(**changes)


def test_local_steps_that_are_not_the_studys_are_refused():
    plan, cohort = study(), learning.cohort(3)
    good = mechanism(plan)
    for strange in (
        replace(good, local_steps=9),
        replace(good, noise_multiplier=Decimal("0.1")),
        replace(good, clip_norm=Decimal(9)),
        replace(good, dimension=5),
        replace(good, patients_per_step_max=2),
    ):
        with pytest.raises(TooManyPatients if strange.patients_per_step_max == 2 else OutsidePolicy):
            local.contribution(
                learning.initial(plan),
                study=plan,
                patients=len(cohort.patients),
                mechanism=strange,
                clipped_sum=lambda _blob, _drawn: np.zeros(SIZE),
            )


def test_a_learning_rate_that_leaves_the_numbers_is_no_refusal_which_would_say_something_that_is_not_charged():
    plan = study(local={"learning_rate": "1" + "0" * 23}, clip_norm="1000000", sampling_rate="0." + "0" * 15 + "1")
    told = change(plan, cohort=learning.cohort(3))
    assert np.isfinite(told).all()
    assert np.linalg.norm(told) == pytest.approx(1000)
