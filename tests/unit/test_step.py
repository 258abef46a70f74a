"""Claims about the optimisers: what they do with a sum, and that the state a run leaves is whole."""

import math

import numpy as np
import pytest
import safetensors.numpy
import torch

from common.errors import InternalError
from server import step as optimiser
from server.schedule import learning_rate
from tests import learning

ADAM = {"kind": "adam", "beta_1": "0.9", "beta_2": "0.99", "damping": "0.001"}
WARM = {"kind": "warm-up-cosine", "warm_up_steps": 3}
MOVING = {"kind": "moving-average", "decay": "0.8"}
WAYS = (
    {},
    {"optimiser": ADAM},
    {"schedule": WARM},
    {"average": MOVING},
    {"optimiser": ADAM, "schedule": WARM, "average": MOVING},
)


def momentum(value):
    return {"kind": "momentum", "momentum": value}


def run(study, totals, position=None):
    state = optimiser.start(np.zeros(3) if position is None else position, training=study.training)
    for total in totals:
        state = optimiser.step(state, total, training=study.training, privacy=study.privacy)
    return state


def test_steps_equal_torchs_momentum_on_the_declared_mean():
    study = learning.study(steps=6, learning_rate="0.3", optimiser=momentum("0.8"), sampling_rate="0.5", patients_declared=40)
    random = np.random.default_rng(0)
    totals = [random.normal(size=3) * 20 for _ in range(6)]
    start = random.normal(size=3)
    parameter = torch.nn.Parameter(torch.tensor(start))
    reference = torch.optim.SGD([parameter], lr=0.3, momentum=0.8)
    positions = []
    for total in totals:
        parameter.grad = torch.tensor(total / (0.5 * 40))
        reference.step()
        positions.append(parameter.detach().numpy().copy())
    state = run(study, totals, start)
    assert np.allclose(state.position, positions[-1], rtol=1e-12)
    assert np.allclose(optimiser.final(state, training=study.training), np.mean(positions[3:], axis=0), rtol=1e-12)


def test_steps_equal_torchs_adam_with_its_warm_up_and_cosine():
    study = learning.study(
        steps=40, learning_rate="0.3", optimiser=ADAM, schedule=WARM, sampling_rate="0.5", patients_declared=40
    )
    random = np.random.default_rng(1)
    begun = random.normal(size=50)
    totals = [random.normal(size=50) * 10.0 ** random.integers(-6, 6) for _ in range(40)]
    parameter = torch.nn.Parameter(torch.tensor(begun))
    reference = torch.optim.Adam([parameter], lr=0.3, betas=(0.9, 0.99), eps=0.001)
    rising = torch.optim.lr_scheduler.LinearLR(reference, start_factor=1 / 3, end_factor=1, total_iters=2)
    falling = torch.optim.lr_scheduler.CosineAnnealingLR(reference, T_max=37)
    rates = torch.optim.lr_scheduler.SequentialLR(reference, [rising, falling], milestones=[3])
    state = optimiser.start(begun, training=study.training)
    for total in totals:
        parameter.grad = torch.tensor(total / (0.5 * 40))
        reference.step()
        rates.step()
        state = optimiser.step(state, total, training=study.training, privacy=study.privacy)
        assert np.allclose(state.position, parameter.detach().numpy(), rtol=1e-12, atol=1e-12)


def test_the_learning_rate_is_constant_or_rises_and_falls_as_written():
    constant = learning.study(steps=4, learning_rate="0.5").training
    assert [learning_rate(constant, step=step) for step in range(1, 5)] == [0.5] * 4
    warm = learning.study(steps=7, learning_rate="2", schedule=WARM).training
    cosine = [2.0, 1 + math.cos(math.pi / 4), 1.0, 1 + math.cos(3 * math.pi / 4)]
    assert [learning_rate(warm, step=step) for step in range(1, 8)] == pytest.approx([2 / 3, 4 / 3, 2, *cosine], rel=1e-15)
    straight = learning.study(steps=2, learning_rate="2", schedule={**WARM, "warm_up_steps": 0}).training
    assert [learning_rate(straight, step=step) for step in (1, 2)] == pytest.approx([2, 1], rel=1e-15)
    for step in (0, 8, -1):
        with pytest.raises(ValueError, match="no such step"):
            learning_rate(warm, step=step)


def test_a_moving_average_weighs_the_models_by_their_age():
    study = learning.study(
        steps=5, optimiser=momentum("0"), learning_rate="1", sampling_rate="1", patients_declared=2, average=MOVING
    )
    for count in (1, 4, 5):
        state = run(study, [np.full(3, -2.0)] * count)  # position after step k is k
        weights = 0.8 ** np.arange(count - 1, -1, -1)
        assert np.allclose(
            optimiser.final(state, training=study.training), weights @ np.arange(1, count + 1) / weights.sum(), rtol=1e-12
        )
    begun = np.array([1.0, 2.0, 3.0])
    assert np.array_equal(optimiser.final(run(study, [], begun), training=study.training), begun)


@pytest.mark.parametrize("steps", [1, 2, 5])
def test_the_final_model_averages_the_second_half(steps):
    study = learning.study(steps=steps, optimiser=momentum("0"), learning_rate="1", sampling_rate="1", patients_declared=2)
    state = run(study, [np.full(3, -2.0)] * steps)  # position after step k is k
    expected = np.mean(np.arange(1, steps + 1)[steps // 2 :])
    assert np.allclose(optimiser.final(state, training=study.training), expected)


def test_before_the_second_half_the_model_is_where_training_stands():
    study = learning.study(steps=8)
    state = run(study, [np.ones(3)] * 3)
    assert np.array_equal(optimiser.final(state, training=study.training), state.position)


def test_momentum_descends_a_quadratic():
    study = learning.study(steps=60, learning_rate="0.2", optimiser=momentum("0.5"), sampling_rate="1", patients_declared=2)
    state = optimiser.start(np.array([5.0, -3.0, 1.0]), training=study.training)
    for _ in range(60):
        state = optimiser.step(state, 2 * state.position, training=study.training, privacy=study.privacy)
    assert np.abs(state.position).max() < 1e-3


@pytest.mark.parametrize("total", [np.ones(4), np.array([1.0, np.nan, 0.0]), np.array([np.inf, 0.0, 0.0])])
def test_a_sum_that_does_not_fit_is_refused(total):
    with pytest.raises(InternalError):
        run(learning.study(), [total])


def test_a_step_beyond_the_study_is_refused():
    with pytest.raises(InternalError, match="All steps"):
        run(learning.study(steps=2), [np.ones(3)] * 3)


@pytest.mark.parametrize("way", WAYS, ids=lambda way: "-".join(way) or "plain")
def test_the_written_state_is_all_that_the_next_step_needs(way):
    study = learning.study(steps=8, **way)
    random = np.random.default_rng(2)
    totals = [np.array([0.1, 1e100, -1e-300]), *(random.normal(size=3) for _ in range(7))]
    whole = run(study, totals)
    for stopped in range(9):
        written = safetensors.numpy.load(run(study, totals[:stopped]).to_bytes())
        assert written.pop("steps_done").tolist() == [stopped]
        state = optimiser.OptimiserState(steps_done=stopped, **written)
        for total in totals[stopped:]:
            state = optimiser.step(state, total, training=study.training, privacy=study.privacy)
        assert state.to_bytes() == whole.to_bytes()
        final = optimiser.final(state, training=study.training)
        assert final.tobytes() == optimiser.final(whole, training=study.training).tobytes()


def test_a_state_of_another_optimiser_is_refused():
    plain, adam = learning.study(), learning.study(optimiser=ADAM)
    for one, other in ((plain, adam), (adam, plain)):
        with pytest.raises(InternalError, match="another optimiser"):
            optimiser.step(run(one, [np.ones(3)]), np.ones(3), training=other.training, privacy=other.privacy)


@pytest.mark.parametrize(
    "wrong",
    [
        {"optimiser": {**ADAM, "damping": "0"}},
        {"optimiser": {**ADAM, "beta_2": "1"}},
        {"optimiser": {**ADAM, "momentum": "0.5"}},
        {"optimiser": {"kind": "adam"}},
        {"optimiser": {"kind": "newton"}},
        {"optimiser": None},
        {"schedule": {**WARM, "warm_up_steps": 8}},
        {"schedule": {**WARM, "warm_up_steps": -1}},
        {"schedule": {"kind": "constant", "warm_up_steps": 3}},
        {"average": {**MOVING, "decay": "1"}},
        {"average": {**MOVING, "decay": "0"}},
        {"average": {"kind": "last"}},
    ],
    ids=repr,
)
def test_a_study_whose_optimisation_makes_no_sense_is_refused(wrong):
    learning.study(steps=8, optimiser=ADAM, schedule=WARM, average=MOVING)
    with pytest.raises(ValueError, match=next(iter(wrong))):
        learning.study(steps=8, **wrong)


def test_state_cannot_be_changed_in_place():
    with pytest.raises(ValueError):
        optimiser.start(np.zeros(3), training=learning.study().training).position[0] = 1
