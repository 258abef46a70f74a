"""Claims about the clipped sum: one gradient per patient, clipped once, and nothing that a seed or a hostile model can move."""

from dataclasses import replace
from decimal import Decimal

import numpy as np
import pytest
import torch
from safetensors.torch import load as read_tensors
from safetensors.torch import save

from client import refusals, train
from common import model
from common.errors import ClinicalTableWrong, InternalError, OutsidePolicy, ProtocolError, TooManyPatients
from common.mechanism import SampledStep
from common.wire import Envelope
from tests import learning


def everybody(cohort):
    return np.arange(len(cohort.patients)), np.ones(len(cohort.patients), bool)


def total(blob, study, cohort, rows=None, sampled=None):
    all_rows, all_sampled = everybody(cohort)
    return train.clipped_sum(
        blob,
        study=study,
        cohort=cohort,
        training_rows=all_rows if rows is None else np.array(rows, np.int64),
        sampled=all_sampled if sampled is None else np.array(sampled, bool),
    )


def moved(study, scale=0.5):
    """A model whose head is not zero, so that every layer has a gradient."""
    network = learning.built(study)
    model.with_flat(network, model.HEAD, scale * np.cos(np.arange(13.0)))
    return model.dump(network)


def one_by_one(blob, study, cohort, rows):
    """The oracle: autograd in float64, one patient at a time, no batching and no Opacus."""
    network = learning.built(study)
    model.load(network, blob)
    network = network.double()
    names = model.trainable_names(network, study.training)
    parameters = [dict(network.named_parameters())[name] for name in names]
    out, norm = 0.0, float(study.privacy.clip_norm)
    for row in rows:
        views = torch.from_numpy(
            cohort.views[list(cohort.bags[row][: study.training.views_per_patient_max])].astype(np.float64)
        )
        target = torch.full((len(views),), float(cohort.table[row, 1] > 3), dtype=torch.float64)
        loss = torch.nn.functional.binary_cross_entropy_with_logits(network(views), target)
        gradient = torch.cat([part.ravel() for part in torch.autograd.grad(loss, parameters)]).numpy()
        out = out + gradient * min(1, norm / np.linalg.norm(gradient))
    return out


@pytest.mark.parametrize("recipe", ["head", "full"])
@pytest.mark.parametrize("clip_norm", ["0.05", "0.5", "100"])
def test_sum_equals_one_patient_at_a_time(recipe, clip_norm):
    study, cohort = learning.study(recipe=recipe, clip_norm=clip_norm), learning.cohort(30)
    blob = moved(study)
    expected = one_by_one(blob, study, cohort, range(30))
    assert np.linalg.norm(total(blob, study, cohort) - expected) < 3e-6 * np.linalg.norm(expected)


@pytest.mark.parametrize("recipe", ["head", "full"])
def test_no_patient_moves_the_sum_by_more_than_the_clip_norm(recipe):
    study, cohort = learning.study(recipe=recipe, clip_norm="0.01"), learning.cohort(12)
    blob = moved(study, scale=5.0)
    full = total(blob, study, cohort)
    for row in range(12):
        without = total(blob, study, cohort, sampled=np.arange(12) != row)
        assert np.linalg.norm(full - without) <= 0.01 * (1 + 1e-3)


def crafted(study, one, other):
    """Return a model whose one logit separates two embeddings that differ in their last bits only."""
    network_ = learning.built(study)
    difference, middle = (one - other).double(), ((one + other) / 2).double()
    weight = difference - (difference @ middle) / (middle @ middle) * middle
    with torch.no_grad():
        network_.head.weight.copy_((weight / weight.norm() * 1e12).float()[None])
        network_.head.bias.fill_(float(-(network_.head.weight.double()[0] @ middle)))
    return model.dump(network_)


@pytest.mark.parametrize("recipe", ["head", "full"])
def test_no_patients_gradient_depends_on_who_else_is_there_even_for_chosen_weights(recipe):
    study = learning.study(recipe=recipe, clip_norm="1", side=32)
    cohort = learning.cohort(2, views=(1,), side=32)
    views, net = torch.from_numpy(np.array(cohort.views)), learning.built(study)
    with torch.no_grad():
        both, alone = net.embed(views)[0], net.embed(views[:1])[0]
    blob = crafted(study, both, alone if not torch.equal(both, alone) else torch.nextafter(alone, alone + 1))
    rows = np.arange(2)
    together = train.clipped_sum(blob, study=study, cohort=cohort, training_rows=rows, sampled=np.array([True, True]))
    first = train.clipped_sum(blob, study=study, cohort=cohort, training_rows=rows, sampled=np.array([True, False]))
    fewer = replace(
        cohort,
        patients=cohort.patients[:1],
        table=np.array(cohort.table[:1]),
        views=np.array(cohort.views[:1]),
        bags=cohort.bags[:1],
    )
    only = train.clipped_sum(blob, study=study, cohort=fewer, training_rows=rows[:1], sampled=np.array([True]))
    assert np.array_equal(first, only)
    assert np.linalg.norm(together - only) <= 1 + 1e-9


@pytest.mark.parametrize("recipe", ["head", "full"])
def test_repeated_views_do_not_weigh_more(recipe):
    study, single = learning.study(recipe=recipe), learning.cohort(6, views=(1,))
    triple = replace(single, bags=tuple(bag * 3 for bag in single.bags))
    blob = moved(study)
    once = total(blob, study, single)
    assert np.linalg.norm(once - total(blob, study, triple)) < 3e-6 * np.linalg.norm(once)


@pytest.mark.parametrize("recipe", ["head", "full"])
def test_only_the_sampled_patients_count(recipe):
    study, cohort = learning.study(recipe=recipe), learning.cohort(9)
    blob = moved(study)
    part = total(blob, study, cohort, rows=[1, 4, 6, 8], sampled=[True, False, True, False])
    assert np.allclose(part, one_by_one(blob, study, cohort, [1, 6]), rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("recipe", ["head", "full"])
def test_nobody_sampled_gives_zeros_not_an_error(recipe):
    study = learning.study(recipe=recipe)
    size = model.trainable_size(study.training, channels=1, patch_voxels=16)
    for cohort in (learning.cohort(3), learning.cohort(0)):
        nobody = total(moved(study), study, cohort, sampled=np.zeros(len(cohort.patients), bool))
        assert nobody.shape == (size,)
        assert nobody.dtype == np.float64
        assert not nobody.any()


@pytest.mark.parametrize("recipe", ["head", "full"])
def test_a_patient_without_a_finite_gradient_contributes_exactly_zero(recipe):
    study, cohort = learning.study(recipe=recipe), learning.cohort(5, views=(1,))
    views = cohort.views.copy()
    views[2] = np.nan
    broken = replace(cohort, views=views)
    blob = moved(study)
    assert np.allclose(total(blob, study, broken), one_by_one(blob, study, cohort, [0, 1, 3, 4]), rtol=1e-5, atol=1e-7)


def test_an_exploding_model_still_gives_a_bounded_sum():
    study, cohort = learning.study(recipe="full", clip_norm="0.5"), learning.cohort(4, views=(1,))
    tensors = read_tensors(moved(study))
    tensors["conv3.weight"] *= 1e30
    tensors["head.weight"] = torch.full((1, 12), 3e38)
    exploded = total(save(tensors), study, cohort)
    assert np.isfinite(exploded).all()
    assert np.linalg.norm(exploded) <= 4 * 0.5 * (1 + 1e-3)


def test_patients_without_label_or_views_contribute_nothing_and_are_not_training_rows():
    study, cohort = learning.study(), learning.cohort(6, views=(1,))
    table = cohort.table.copy()
    table[1, 1] = np.nan
    bags = (*cohort.bags[:4], (), *cohort.bags[5:])
    part = replace(cohort, table=table, bags=bags)
    blob = moved(study)
    assert train.labelled_rows(part, study=study).tolist() == [0, 2, 3, 5]
    assert np.allclose(total(blob, study, part), one_by_one(blob, study, cohort, [0, 2, 3, 5]), rtol=1e-5, atol=1e-7)


def test_a_cohort_without_the_label_is_refused():
    cohort = replace(learning.cohort(3), columns=("length_mm", "other"))
    with pytest.raises(ClinicalTableWrong, match="malignancy"):
        train.labelled_rows(cohort, study=learning.study())


def test_frozen_layers_other_than_the_approved_prior_are_refused():
    study, cohort = learning.study(), learning.cohort(3)
    tensors = read_tensors(moved(study))
    tensors["conv1.bias"] += 1e-3
    with pytest.raises(ProtocolError, match="prior"):
        total(save(tensors), study, cohort)


def test_arguments_that_do_not_belong_together_are_refused():
    study, cohort = learning.study(), learning.cohort(3)
    blob = learning.initial(study)
    with pytest.raises(InternalError):
        total(blob, study, cohort, rows=[0, 1], sampled=[True])
    with pytest.raises(InternalError):
        total(blob, study, cohort, rows=[1, 1], sampled=[True, True])
    with pytest.raises(InternalError):
        total(blob, study, learning.cohort(3, side=20))


def mechanism(study, **changes):
    values = {
        "noise_multiplier": study.privacy.noise_multiplier,
        "clip_norm": study.privacy.clip_norm,
        "sampling_rate": study.privacy.sampling_rate,
        "hospitals": 4,
        "colluders": 1,
        "dimension": 13,
        "patients_per_step_max": study.training.patients_per_step_max,
        "share_bits": 16,
        "ring_bits": 32,
    }
    return SampledStep(**values | changes)


def contribute(study, cohort, **changes):
    rows = everybody(cohort)[0]
    return train.contribution(
        moved(study), study=study, cohort=cohort, training_rows=rows, mechanism=mechanism(study, **changes)
    )


def test_contribution_draws_a_fresh_sample_whatever_the_seed():
    study, cohort = learning.study(), learning.cohort(40)
    seen = set()
    for _ in range(4):
        torch.manual_seed(0)
        np.random.seed(0)  # noqa: NPY002
        seen.add(contribute(study, cohort).values.tobytes())
    assert len(seen) == 4


def test_contribution_at_rate_one_is_the_whole_clipped_sum_with_its_mechanism():
    study, cohort = learning.study(sampling_rate="1"), learning.cohort(10)
    given = contribute(study, cohort)
    assert given.mechanism == mechanism(study)
    assert np.array_equal(given.values, total(moved(study), study, cohort))


@pytest.mark.parametrize(
    "changes",
    [
        {"noise_multiplier": Decimal("1.9")},
        {"clip_norm": Decimal("0.6")},
        {"sampling_rate": Decimal("0.4")},
        {"dimension": 12},
    ],
)
def test_a_mechanism_that_is_not_the_studys_is_refused(changes):
    with pytest.raises(OutsidePolicy):
        contribute(learning.study(), learning.cohort(10), **changes)


def test_more_patients_than_a_step_may_have_are_refused_as_of_data():
    with pytest.raises(TooManyPatients) as caught:
        contribute(learning.study(), learning.cohort(10), patients_per_step_max=9)
    request = Envelope(kind="announce", sender="c", recipient="h", run="r", body={"announcement": {"task": "train"}}, blob=b"")
    assert refusals.outside(request, caught.value) == "E-REFUSED"  # the code says no bit about how many there are
