"""Claims about augmentation: a patient's copies are symmetries of the patient's own views, and the patient stays the unit."""

import numpy as np
import pytest
import torch

from client import augment, train
from common import model
from tests import learning


def picture():
    return np.random.default_rng(0).random((2, 2, 6, 6)).astype(np.float32)


def moved(study):
    network = learning.built(study)
    model.with_flat(network, model.HEAD, 0.5 * np.cos(np.arange(13.0)))
    return model.dump(network)


def clipped(study, cohort, blob, sampled=None):
    everybody = np.arange(len(cohort.patients))
    flags = np.ones(len(everybody), bool) if sampled is None else np.array(sampled)
    return train.clipped_sum(blob, study=study, cohort=cohort, training_rows=everybody, sampled=flags)


def one_by_one(blob, study, cohort):
    """The oracle: autograd in float64 over every copy that numpy's own flips and turns make, one patient at a time."""
    network = learning.built(study)
    model.load(network, blob)
    network = network.double()
    parameters = [dict(network.named_parameters())[name] for name in model.trainable_names(network, study.training)]
    out, norm = 0.0, float(study.privacy.clip_norm)
    for row, bag in enumerate(cohort.bags):
        shown = []
        for view in cohort.views[list(bag[: study.training.views_per_patient_max])].astype(np.float64):
            shown += [view, view[:, :, ::-1], view[:, ::-1], view[:, ::-1, ::-1]][: 1 + study.training.augmentations]
        target = torch.full((len(shown),), float(cohort.table[row, 1] > 3), dtype=torch.float64)
        logits = network(torch.from_numpy(np.stack(shown).copy()))
        loss = torch.nn.functional.binary_cross_entropy_with_logits(logits, target)
        gradient = torch.cat([part.ravel() for part in torch.autograd.grad(loss, parameters)]).numpy()
        out = out + gradient * min(1, norm / np.linalg.norm(gradient))
    return out


def test_the_copies_are_the_other_seven_symmetries_each_once():
    views = picture()
    made, bags = augment.augmented(views, bags=[(1.0, (0,)), (0.0, (1,))], number=7)
    assert made.shape == (16, 2, 6, 6)
    assert bags == [(1.0, tuple(range(0, 16, 2))), (0.0, tuple(range(1, 16, 2)))]
    for _, rows in bags:
        first = made[rows[0]]
        expected = {
            np.rot90(one, quarters, axes=(1, 2)).tobytes() for one in (first, first[:, :, ::-1]) for quarters in range(4)
        }
        assert {made[row].tobytes() for row in rows} == expected
        assert len(expected) == 8


def test_the_edges_of_a_turned_picture_are_the_turned_edges():
    first = picture()[:, :1]
    edges = np.stack([np.hypot(*np.gradient(one[0])) for one in first])[:, None]
    turned, _ = augment.augmented(np.concatenate([first, edges], axis=1), bags=[], number=7)
    for one in turned:
        assert np.allclose(np.hypot(*np.gradient(one[0])), one[1], atol=1e-6)


def test_no_copies_change_nothing_and_nobody_is_no_error():
    views, bags = picture(), [(1.0, (0, 1))]
    made, same = augment.augmented(views, bags=bags, number=0)
    assert made is views
    assert same == bags
    nothing = np.zeros((0, 2, 6, 6), np.float32)
    assert [len(one) for one in augment.augmented(nothing, bags=[], number=3)] == [0, 0]
    assert [len(one) for one in augment.gathered(views, bags=[])] == [0, 0]


def test_only_the_views_of_the_bags_are_gathered():
    views = np.arange(5, dtype=np.float32).reshape(5, 1, 1, 1)
    few, bags = augment.gathered(views, bags=[(1.0, (4, 1)), (0.0, (1,))])
    assert few.ravel().tolist() == [1, 4]
    assert bags == [(1.0, (1, 0)), (0.0, (0,))]


@pytest.mark.parametrize("number", [-1, 8])
def test_a_square_has_no_other_symmetries(number):
    with pytest.raises(ValueError, match="seven"):
        augment.augmented(picture(), bags=[], number=number)
    with pytest.raises(ValueError, match="augmentations"):
        learning.study(augmentations=number)


def test_views_that_are_not_square_are_refused():
    with pytest.raises(ValueError, match="square"):
        augment.augmented(np.zeros((1, 1, 4, 5), np.float32), bags=[], number=1)


@pytest.mark.parametrize("recipe", ["head", "full"])
@pytest.mark.parametrize("number", [1, 3])
def test_a_clipped_sum_with_copies_equals_one_patient_at_a_time(recipe, number):
    study = learning.study(recipe=recipe, augmentations=number, views_per_patient_max=2, clip_norm="0.3")
    cohort = learning.cohort(7)
    blob = moved(study)
    assert np.allclose(clipped(study, cohort, blob), one_by_one(blob, study, cohort), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("recipe", ["head", "full"])
def test_with_copies_one_patient_still_moves_the_sum_by_the_clip_norm_at_most(recipe):
    study, cohort = learning.study(recipe=recipe, augmentations=7, clip_norm="0.05"), learning.cohort(5, views=(3,))
    blob = moved(study)
    everybody = clipped(study, cohort, blob)
    for left_out in range(5):
        others = clipped(study, cohort, blob, sampled=[at != left_out for at in range(5)])
        assert np.linalg.norm(everybody - others) <= 0.05 * (1 + 1e-6)
        assert np.linalg.norm(everybody - others) > 0.049


def test_an_empty_sample_with_copies_is_a_vector_of_zeros():
    for recipe in ("head", "full"):
        study, cohort = learning.study(recipe=recipe, augmentations=3), learning.cohort(4)
        assert not clipped(study, cohort, moved(study), sampled=[False] * 4).any()
