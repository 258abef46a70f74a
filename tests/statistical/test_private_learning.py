"""The claim that training learns under privacy: four hospitals, exact shared noise, epsilon below 4 at delta 1e-5."""

import dp_accounting
import numpy as np
import pytest
from dp_accounting import pld

from client import score, train
from client.kernels.rows import ALONE
from common import model
from common.crypto import rng
from common.mechanism import Exact, SampledStep, largest_share_bits
from server import evaluate
from server import step as optimiser
from tests import learning

pytestmark = pytest.mark.statistical

HOSPITALS, SIDE = 4, 32
STUDY = learning.study(
    side=SIDE, noise_multiplier="4", sampling_rate="1", learning_rate="20", patients_declared=190, patients_per_step_max=65
)


def shared_noise_run(cohorts, *, noisy=True):
    """Return the evaluation of the final model; sums are rounded, noised and added as the masks would."""
    training, privacy = STUDY.training, STUDY.privacy
    held = [score.held_out(one.patients, study_hash="a" * 64, fraction=training.held_out_fraction) for one in cohorts]
    network = learning.built(STUDY)
    state = optimiser.start(model.flat(network, model.HEAD), training=training)
    bits = largest_share_bits(
        noise_multiplier=privacy.noise_multiplier, hospitals=4, colluders=1, patients_per_step_max=65, ring_bits=32
    )
    mechanism = SampledStep(
        noise_multiplier=privacy.noise_multiplier,
        clip_norm=privacy.clip_norm,
        sampling_rate=privacy.sampling_rate,
        hospitals=HOSPITALS,
        colluders=1,
        dimension=len(state.position),
        patients_per_step_max=65,
        share_bits=bits,
        ring_bits=32,
    )
    for _ in range(training.steps):
        total = np.zeros(mechanism.dimension, np.int64)
        for cohort, out in zip(cohorts, held, strict=True):
            rows = train.labelled_rows(cohort, study=STUDY)
            given = train.contribution(
                model.dump(network), study=STUDY, cohort=cohort, training_rows=rows[~out[rows]], mechanism=mechanism
            )
            total += np.rint(given.values / mechanism.grid_step).astype(np.int64)
            if noisy:
                total += rng.discrete_gaussian(mechanism.dimension, share_bits=bits)
        assert np.abs(total).max() < 2**31
        state = optimiser.step(state, total * mechanism.grid_step, training=training, privacy=privacy)
        model.with_flat(network, model.HEAD, state.position)
    model.with_flat(network, model.HEAD, optimiser.final(state, training=training))
    counts = sum(
        score.contribution(
            [model.dump(network)],
            study=STUDY,
            cohort=cohort,
            held_out_rows=np.flatnonzero(out),
            mechanism=Exact(statistic="score-histogram", ring_bits=64),
            seat=ALONE,
            cell_min=5,
        ).values
        for cohort, out in zip(cohorts, held, strict=True)
    )
    return evaluate.from_histogram(counts.reshape(2, -1))


def test_the_run_costs_less_than_epsilon_four_with_two_void_rounds():
    accountant = pld.PLDAccountant()
    event = dp_accounting.GaussianDpEvent(float(STUDY.privacy.noise_multiplier))
    accountant.compose(event, STUDY.training.steps + STUDY.privacy.rounds_void_allowed)
    assert accountant.get_epsilon(float(STUDY.privacy.delta)) < 4


def test_private_training_learns_what_training_without_noise_learns():
    cohorts = [learning.cohort(65, side=SIDE, views=(1, 2), seed=seed) for seed in range(HOSPITALS)]
    untrained = 0.5
    without = shared_noise_run(cohorts, noisy=False).auc
    private = [shared_noise_run(cohorts).auc for _ in range(5)]
    assert min(private) > untrained + 0.25
    assert np.mean(private) > 0.97 * without
