"""Evaluations on real data: what noise leaves of an AUC, and calibration, bands and an unseen hospital held to plain NumPy.

pneumonia28: chest X-rays, of which a hospital is left out. LIDC: lesions as in the demo, drawn by readers, in simulated CT.
"""

import os
from decimal import Decimal
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import stats

from client import score, train
from client.inside import Acquisition, Cohort
from client.kernels.rows import ALONE
from common import model, scores
from common.announcement import mechanism_for
from common.crypto import rng
from common.ledger import accounting
from common.study import Study
from deploy.demo import lidc
from deploy.demo.cohort import POSITIVE_ABOVE
from server import evaluation_measures
from tests import learning
from tests.benchmarks.utility_data import patch_of

DATA = Path(os.environ.get("MOTET_TEST_DATA", Path(__file__).parents[3] / "shared" / "data"))
HOSPITALS, SIDE, DELTA = 4, 28, Decimal("1e-5")
TENTHS = 20  # bins of the scores: two make a tenth, one group of a textbook's reliability curve
GREY_CUT = 145
LESIONS, LESIONS_LEARNT, LESION_SIDE = 72, 28, 32
NOTHING = Acquisition(manufacturer="", kernel="", kvp=float("nan"), slice_thickness_mm=float("nan"))


def real(name):
    path = DATA / name
    if not path.is_file():
        pytest.skip(f"{name} not found in {DATA} (set MOTET_TEST_DATA)")
    return path


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
        grey = images[part].mean(axis=(1, 2))
        yield Cohort(
            patients=tuple(f"p{number:05d}" for number in part),
            columns=("length_mm", "malignancy", "mean_grey"),
            table=np.column_stack([np.full(len(part), 10.0), 1 + 4.0 * labels[part].ravel(), grey]),
            views=(images[part] / 255).astype(np.float32)[:, None],
            bags=tuple((at,) for at in range(len(part))),
        )


def learned(learnt, *, study, steps, rate):
    """The model after gradient descent on the head; its features are the prior's."""
    network = learning.built(study)
    many = sum(len(one.bags) for one in learnt)
    for _ in range(steps):
        blob = model.dump(network)
        total = sum(
            train.clipped_sum(
                blob, study=study, cohort=one, training_rows=np.arange(len(one.bags)), sampled=np.ones(len(one.bags), np.bool_)
            )
            for one in learnt
        )
        model.with_flat(network, model.HEAD, model.flat(network, model.HEAD) - rate * total / many)
    return network


def contributed(network, one, *, study, apart=False):
    """What one hospital adds to an evaluation, all of its patients held out; one model stands for all that the study scores."""
    mechanism = mechanism_for(study, task="evaluate", hospitals=HOSPITALS, dimension=scores.dimension(study))
    return score.contribution(
        [model.dump(network)] * scores.models(study),
        study=study,
        cohort=one,
        held_out_rows=np.arange(len(one.bags)),
        mechanism=mechanism,
        seat=ALONE,
        cell_min=5,
        apart=apart,
    )


def scored(network, dealt):
    """Scores and labels of all patients of these hospitals, by the network alone."""
    with torch.no_grad():
        logits = [network(torch.tensor(one.views)).double().numpy().ravel() for one in dealt]
    return 1 / (1 + np.exp(-np.concatenate(logits))), np.concatenate([one.table[:, 1] > 3 for one in dealt])


def check_calibration(table, chances, yes):
    """Hold reliability, expected calibration error and Brier score to those of the pooled patients' own scores."""
    told = evaluation_measures.calibration(table.astype(float), noise=0.0)
    group = np.minimum((chances * 10).astype(int), 9)
    gaps = np.zeros(10)
    for at, row in enumerate(told["reliability"]):
        here = group == at
        assert (row["from"], row["to"], row["patients"]) == (at / 10, (at + 1) / 10, here.sum())
        assert row["observed"]["value"] == (pytest.approx(yes[here].mean()) if here.any() else None)
        if here.any():
            gaps[at] = abs(yes[here].sum() - chances[here].sum())
            assert abs(row["predicted"] - chances[here].mean()) <= 0.5 / TENTHS
    assert (gaps > 0).sum() >= 4  # scores are spread
    assert abs(told["calibration_error"] - gaps.sum() / len(yes)) <= 0.5 / TENTHS
    centres = (np.minimum(np.floor(chances * TENTHS), TENTHS - 1) + 0.5) / TENTHS
    at_centres = np.bincount(group, weights=yes - centres, minlength=10)
    assert told["calibration_error"] == pytest.approx(np.abs(at_centres).sum() / len(yes), rel=1e-12)
    assert told["brier"] == pytest.approx(np.square(yes - centres).mean(), rel=1e-12)
    print(f"calibration error {told['calibration_error']:.4f}, of the scores themselves {gaps.sum() / len(yes):.4f}")


def check_group(table, chances, yes):
    """Hold a subgroup's or a hospital's coarse table to its patients' own scores."""
    told = evaluation_measures.binary(table.astype(float), noise=0.0)
    assert (told["patients"], told["positive"]) == (len(yes), yes.sum())
    assert told["accuracy"]["value"] == pytest.approx(((chances >= 0.5) == yes).mean())
    assert told["sensitivity"]["value"] == pytest.approx((chances[yes] >= 0.5).mean())
    assert told["specificity"]["value"] == pytest.approx((chances[~yes] < 0.5).mean())
    exact = stats.mannwhitneyu(chances[yes], chances[~yes]).statistic / yes.sum() / (~yes).sum()
    assert told["auc"]["value"] == pytest.approx(exact, abs=0.03)  # of 8 bins
    return exact


def test_calibration_bands_and_an_unseen_hospital_on_chest_x_rays_are_numpys():
    plain = learning.study(side=SIDE, score_bins=TENTHS, clip_norm="1", views_per_patient_max=1, steps=1).model_dump()
    grey = {"name": "mean_grey", "source": "clinical", "unit": "1", "lower": 0, "upper": 255}
    plain["variables"] = [*plain["variables"], grey]
    plain["evaluation"] = {"subgroups": [{"variable": "mean_grey", "cuts": [GREY_CUT]}], "unseen": ["hosp-d"]}
    wanted = Study.model_validate(plain)
    with np.load(real("pneumonia28.npz"), allow_pickle=False) as held:
        *learnt, _ = cohorts(held["val_images"], held["val_labels"])  # hosp-d learns nothing
        tested = list(cohorts(held["test_images"], held["test_labels"]))
    network = learned(learnt, study=wanted, steps=60, rate=8)
    total = sum(contributed(network, one, study=wanted, apart=at == HOSPITALS - 1).values for at, one in enumerate(tested))
    opened = scores.split(total, study=wanted)
    chances, yes = scored(network, tested)
    check_calibration(opened.models[-1]["scores"][0], chances, yes)
    bright = np.concatenate([one.table[:, 2] for one in tested]) >= GREY_CUT
    below, above, others = opened.details["mean_grey"]
    assert not others.any()
    areas = [check_group(table, chances[here], yes[here]) for table, here in ((below, ~bright), (above, bright))]
    (unseen,) = opened.details[scores.UNSEEN]
    areas.append(check_group(unseen, *scored(network, tested[-1:])))
    print("AUC below, above the cut, at the unseen hospital", areas)
    assert min(areas) > 0.7


def test_calibration_on_lidc_lesions_is_numpys():
    wanted = learning.study(side=LESION_SIDE, score_bins=TENTHS, clip_norm="1", views_per_patient_max=1, steps=1)
    found = lidc.lesions(real("lidc-nodules.sqlite"))
    chosen = [found[at] for at in np.random.default_rng(5).permutation(len(found))[:LESIONS]]
    views = np.stack([patch_of(one, number, number % HOSPITALS, wanted.recipe) for number, one in enumerate(chosen)]).astype(
        np.float32
    )
    rated = np.array([5.0 if one.malignancy > POSITIVE_ABOVE else 1.0 for one in chosen])

    def dealt(rows):
        for part in np.array_split(rows, HOSPITALS):
            yield Cohort(
                patients=tuple(f"p{at:03d}" for at in part),
                columns=("length_mm", "malignancy"),
                table=np.column_stack([np.full(len(part), 10.0), rated[part]]),
                views=views[part],
                bags=tuple((at,) for at in range(len(part))),
            )

    network = learned(list(dealt(np.arange(LESIONS_LEARNT))), study=wanted, steps=60, rate=8)
    tested = list(dealt(np.arange(LESIONS_LEARNT, LESIONS)))
    total = sum(contributed(network, one, study=wanted).values for one in tested)
    table = scores.split(total, study=wanted).models[-1]["scores"][0]
    chances, yes = scored(network, tested)
    check_calibration(table, chances, yes)
    assert evaluation_measures.auc(table.astype(float), noise=0.0).value > 0.7


def test_a_charged_auc_on_chest_x_rays_is_the_exact_one_within_its_interval():
    with np.load(real("pneumonia28.npz"), allow_pickle=False) as held:
        learnt = list(cohorts(held["val_images"], held["val_labels"]))
        tested = list(cohorts(held["test_images"], held["test_labels"]))
    exact, charged = studies()
    network = learned(learnt, study=exact, steps=60, rate=8)
    found = {}
    for wanted in (exact, charged):
        mechanism = mechanism_for(wanted, task="evaluate", hospitals=HOSPITALS, dimension=scores.dimension(wanted))
        table, noise = np.zeros((2, 16)), 0.0
        for one in tested:
            values = contributed(network, one, study=wanted).values.reshape(-1, 2, 16)[-1]
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
