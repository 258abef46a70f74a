"""Claims about features of frozen layers: a step costs what its sampled patients cost, each once, whoever came before."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from client import augment, features, train
from client.inside import Cohort
from common import model
from tests import learning


@pytest.fixture(autouse=True)
def _nothing_remembered():
    features._kept.clear()
    yield
    features._kept.clear()


@pytest.fixture
def turned(monkeypatch):
    """How many views each call to augment.augmented is given."""
    seen, right = [], augment.augmented

    def counted(views, *, bags, number):
        seen.append(len(views))
        return right(views, bags=bags, number=number)

    monkeypatch.setattr(augment, "augmented", counted)
    return seen


def moved(study):
    network = learning.built(study)
    names = model.trainable_size(study.training, channels=1, patch_voxels=study.recipe.patch_voxels)
    model.with_flat(network, model.HEAD, 0.5 * np.cos(np.arange(float(names))))
    return model.dump(network)


def cubes(count, *, side=16):
    random = np.random.default_rng(4)
    return Cohort(
        patients=tuple(f"p{at}" for at in range(count)),
        columns=("length_mm", "malignancy"),
        table=np.stack([np.full(count, 9.0), 1.0 + np.arange(count) % 5], axis=1),
        views=random.random((count, 1, side, side, side), dtype=np.float32),
        bags=tuple((at,) for at in range(count)),
    )


def of_cubes():
    prior = model.prior_sha256("cnn3d")
    return learning.study(model="cnn3d", prior_sha256=prior, patch="volume", augmentations=7, views_per_patient_max=1)


def step(study, cohort, sampled, *, blob=None):
    flags = np.isin(np.arange(len(cohort.patients)), list(sampled))
    rows = np.arange(len(cohort.patients))
    return train.clipped_sum(blob or moved(study), study=study, cohort=cohort, training_rows=rows, sampled=flags)


def test_a_step_turns_and_embeds_the_views_of_its_sampled_patients_each_once(turned):
    study, cohort = of_cubes(), cubes(8)
    first = step(study, cohort, {1, 5})
    assert sum(turned) == 2
    step(study, cohort, {5, 6})
    assert sum(turned) == 3, "the patient of before costs nothing"
    assert np.array_equal(first, step(study, cohort, {1, 5}))
    assert sum(turned) == 3
    assert not step(study, cohort, set()).any()
    assert len(features._kept) == 3


def test_views_beyond_what_the_study_takes_of_a_patient_are_not_embedded(turned):
    study, cohort = learning.study(views_per_patient_max=2, augmentations=3), learning.cohort(4, views=(1, 4, 3, 2))
    step(study, cohort, {0, 1})
    assert sum(turned) == 3


@pytest.mark.parametrize("number", [0, 3])
def test_no_bit_of_a_patients_features_depends_on_who_was_sampled_before(number):
    study, cohort = learning.study(augmentations=number, clip_norm="1000"), learning.cohort(6)
    alone = {}
    for at in range(6):
        features._kept.clear()
        alone[at] = step(study, cohort, {at})
    step(study, cohort, range(6))
    assert all(np.array_equal(alone[at], step(study, cohort, {at})) for at in range(6))


def test_features_are_not_confused_between_views_copies_or_networks():
    study = learning.study()
    one, other = learning.built(study), learning.built(study)
    with torch.no_grad():
        other.conv1.bias.add_(0.1)
    for name, network in (("one", one), ("other", other), ("one", one)):
        for number in (0, 2):
            for seed in (1, 2):
                views = learning.cohort(3, seed=seed, views=(1,)).views
                found = features.embedded(network, frozen=name, views=views, rows=[2, 0], augmentations=number)
                wide, bags = augment.augmented(views, bags=[(0.0, (2, 0))], number=number)
                expected = [network.embed(torch.from_numpy(wide[[row]].copy())) for row in bags[0][1]]
                assert np.array_equal(found, np.concatenate([one.detach().numpy() for one in expected]).astype(np.float64))


def test_an_edited_view_is_another_view():
    study, cohort = learning.study(), learning.cohort(3, views=(1,))
    before = step(study, cohort, {0})
    edited = replace(cohort, views=cohort.views[:, :, ::-1].copy())
    assert not np.array_equal(before, step(study, edited, {0}))
    assert np.array_equal(before, step(study, cohort, {0}))


def test_no_more_views_are_remembered_than_the_limit(monkeypatch):
    monkeypatch.setattr(features, "REMEMBERED", 4)
    study, cohort = learning.study(), learning.cohort(6, views=(1,))
    whole = step(study, cohort, range(6))
    assert len(features._kept) == 4
    assert np.array_equal(whole, step(study, cohort, range(6)))
