"""Claims about the optimiser: what it does with a sum, and that its state survives the journal unchanged."""

import numpy as np
import pytest
import torch

from common.errors import InternalError, RecordDamaged
from server import step as optimiser
from tests import learning


def run(study, totals, position=None):
    state = optimiser.start(np.zeros(3) if position is None else position)
    for total in totals:
        state = optimiser.step(state, total, training=study.training, privacy=study.privacy)
    return state


def test_steps_equal_torchs_momentum_on_the_declared_mean():
    study = learning.study(steps=6, learning_rate="0.3", momentum="0.8", sampling_rate="0.5", patients_declared=40)
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


@pytest.mark.parametrize("steps", [1, 2, 5])
def test_the_final_model_averages_the_second_half(steps):
    study = learning.study(steps=steps, momentum="0", learning_rate="1", sampling_rate="1", patients_declared=2)
    state = run(study, [np.full(3, -2.0)] * steps)  # position after step k is k
    expected = np.mean(np.arange(1, steps + 1)[steps // 2 :])
    assert np.allclose(optimiser.final(state, training=study.training), expected)


def test_before_the_second_half_the_model_is_where_training_stands():
    study = learning.study(steps=8)
    state = run(study, [np.ones(3)] * 3)
    assert np.array_equal(optimiser.final(state, training=study.training), state.position)


def test_momentum_descends_a_quadratic():
    study = learning.study(steps=60, learning_rate="0.2", momentum="0.5", sampling_rate="1", patients_declared=2)
    state = optimiser.start(np.array([5.0, -3.0, 1.0]))
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


def test_state_survives_the_journal_bit_for_bit():
    study = learning.study(steps=8)
    state = run(study, [np.array([0.1, 1e300, -1e-300])] * 5)
    again = optimiser.from_bytes(state.to_bytes())
    assert again.steps_done == 5
    assert again.to_bytes() == state.to_bytes()
    following = [optimiser.step(one, np.ones(3), training=study.training, privacy=study.privacy) for one in (state, again)]
    assert following[0].to_bytes() == following[1].to_bytes()


def test_a_damaged_state_is_refused():
    blob = run(learning.study(), [np.ones(3)]).to_bytes()
    for damaged in (b"", blob[:-1], blob + b"\0", blob.replace(b"velocity", b"velocitx"), blob.replace(b"F64", b"F32", 1)):
        with pytest.raises(RecordDamaged):
            optimiser.from_bytes(damaged)


def test_state_cannot_be_changed_in_place():
    with pytest.raises(ValueError):
        optimiser.start(np.zeros(3)).position[0] = 1
