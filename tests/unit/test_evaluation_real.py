"""A charged evaluation on real chest X-rays: what noise of epsilon 1 leaves of the AUC and of its interval."""

import os
from decimal import Decimal
from pathlib import Path

import numpy as np
import pytest

from client import score, train
from client.inside import Cohort
from client.kernels.rows import ALONE
from common import model, scores
from common.announcement import mechanism_for
from common.crypto import rng
from common.ledger import accounting
from common.study import Study
from server import evaluation_measures
from tests import learning

DATA = Path(os.environ.get("MOTET_TEST_DATA", Path(__file__).parents[3] / "shared" / "data"))
HOSPITALS, SIDE, DELTA = 4, 28, Decimal("1e-5")


def studies():
    """The same study with an exact and with a charged evaluation, at epsilon 1."""
    noise = accounting.noise_multiplier_for(epsilon=Decimal(1), delta=DELTA, sampling_rate=Decimal(1), steps=1)
    privacy = {"noise_multiplier": noise, "delta": DELTA, "patients_max": 1000, "colluders": 1, "rounds_void_allowed": 0}
    plain = learning.study(side=SIDE, score_bins=16, clip_norm="1", views_per_patient_max=1).model_dump()
    return Study.model_validate(plain), Study.model_validate({**plain, "evaluation": {"privacy": privacy}})


def cohorts(images, labels):
    """Pictures dealt to hospitals after a shuffle; each is a patient of its own."""
    order = np.random.default_rng(0).permutation(len(images))
    for part in np.array_split(order, HOSPITALS):
        yield Cohort(
            patients=tuple(f"p{number:05d}" for number in part),
            columns=("length_mm", "malignancy"),
            table=np.column_stack([np.full(len(part), 10.0), 1 + 4.0 * labels[part].ravel()]),
            views=(images[part] / 255).astype(np.float32)[:, None],
            bags=tuple((at,) for at in range(len(part))),
        )


def test_a_charged_auc_on_chest_x_rays_is_the_exact_one_within_its_interval():
    path = DATA / "pneumonia28.npz"
    if not path.is_file():
        pytest.skip(f"pneumonia28.npz not found in {DATA} (set MOTET_TEST_DATA)")
    with np.load(path, allow_pickle=False) as held:
        learnt = list(cohorts(held["val_images"], held["val_labels"]))
        tested = list(cohorts(held["test_images"], held["test_labels"]))
    exact, charged = studies()
    network = learning.built(exact)
    for _ in range(60):  # gradient descent on the head; its features are the prior's
        blob = model.dump(network)
        total = sum(
            train.clipped_sum(
                blob, study=exact, cohort=one, training_rows=np.arange(len(one.bags)), sampled=np.ones(len(one.bags), np.bool_)
            )
            for one in learnt
        )
        model.with_flat(network, model.HEAD, model.flat(network, model.HEAD) - 8 * total / 270)
    found = {}
    for wanted in (exact, charged):
        mechanism = mechanism_for(wanted, task="evaluate", hospitals=HOSPITALS, dimension=scores.dimension(wanted))
        table, noise = np.zeros((2, 16)), 0.0
        for one in tested:
            values = score.contribution(
                [model.dump(network)],
                study=wanted,
                cohort=one,
                held_out_rows=np.arange(len(one.bags)),
                mechanism=mechanism,
                seat=ALONE,
                cell_min=5,
            ).values.reshape(2, 16)
            if wanted is charged:  # as client/mask.py adds it
                noise, step = mechanism.noise_deviation, mechanism.grid_step
                drawn = rng.discrete_gaussian(32, share_bits=mechanism.share_bits).reshape(2, 16)
                values = (np.rint(values / step) + drawn) * step
            table += values
        found[wanted is charged] = evaluation_measures.auc(table, noise=noise)
    assert accounting.epsilon_pld([mechanism], delta=DELTA) <= 1
    assert found[False].value > 0.8
    widths = [one.high - one.low for one in (found[False], found[True])]
    print(found[False], found[True])
    assert widths[0] < widths[1] < 4 * widths[0]
    assert abs(found[True].value - found[False].value) < 3 * widths[1] / 2  # six standard errors and more
