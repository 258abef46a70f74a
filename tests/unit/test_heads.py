"""What is claimed of the heads: their slopes, their predictions, their per-patient clipping, and that they learn."""

import numpy as np
import pytest
import torch

from client import train
from client.label import labels
from common import model
from common.errors import ProtocolError
from common.networks import heads
from common.networks.heads import Head
from common.study import Study
from tests import learning
from tests.heads import CLASSES, cohort, study

HEADS = {
    "binary": Head(kind="binary", classes=2),
    "classes": Head(kind="classes", classes=3),
    "ordinal": Head(kind="ordinal", classes=4),
    "regression": Head(kind="regression", classes=0),
}


@pytest.mark.parametrize("head", HEADS)
def test_the_slopes_are_those_of_the_loss(head):
    one, random = HEADS[head], np.random.default_rng(1)
    outputs = random.normal(0, 3, (5, one.outputs))
    for target in range(one.classes) if one.classes else (0.0, 0.3, 1.0):
        given = torch.tensor(outputs, requires_grad=True)
        rows = given[:, 0] if one.outputs == 1 else given
        one.loss(rows, torch.full((5,), float(target), dtype=torch.float64)).sum().backward()
        assert np.allclose(one.residuals(outputs, target=float(target)), given.grad.numpy(), atol=1e-12)


@pytest.mark.parametrize("head", ["binary", "classes", "ordinal"])
def test_predictions_are_probabilities_and_their_logarithm_is_the_loss(head):
    one = HEADS[head]
    outputs = np.random.default_rng(2).normal(0, 4, (50, one.outputs))
    found = one.predictions(outputs)
    assert found.shape == (50, one.classes)
    assert np.allclose(found.sum(axis=1), 1)
    assert (found >= 0).all()
    rows = torch.tensor(outputs[:, 0] if one.outputs == 1 else outputs)
    for target in range(one.classes):
        loss = one.loss(rows, torch.full((50,), float(target), dtype=torch.float64)).numpy()
        assert np.allclose(-np.log(found[:, target]), loss)


def test_predicted_values_stay_within_their_bounds():
    assert HEADS["regression"].predictions(np.array([[-3.0], [0.25], [7.0]])).ravel().tolist() == [0.0, 0.25, 1.0]


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("recipe", ["head", "full"])
def test_the_clipped_sum_is_that_of_the_patients_one_by_one(head, recipe):
    wanted, patients = study(head, recipe=recipe, clip_norm="0.02"), cohort(head, 7)
    network = learning.built(wanted)
    names = network_names(network, wanted)
    vector = model.flat(network, names)
    model.with_flat(network, names, vector + 0.1 * np.random.default_rng(3).normal(size=len(vector)))
    rows = np.arange(7)
    total = train.clipped_sum(
        model.dump(network), study=wanted, cohort=patients, training_rows=rows, sampled=np.ones(7, np.bool_)
    )
    expected, clipped = np.zeros(len(vector)), 0
    loss, targets = heads.of(wanted.training).loss, labels(patients, study=wanted)
    for row in rows:
        bag = list(patients.bags[row][:3])
        network.zero_grad()
        views = torch.from_numpy(patients.views[bag].copy())
        loss(network(views), torch.full((len(bag),), float(targets[row]))).mean().backward()
        found = dict(network.named_parameters())
        gradient = np.concatenate([found[name].grad.numpy().astype(np.float64).ravel() for name in names])
        clipped += np.linalg.norm(gradient) > 0.02
        expected += gradient * min(1, 0.02 / np.linalg.norm(gradient))
    assert clipped > 3
    assert np.linalg.norm(total - expected) < 1e-5 * np.linalg.norm(expected)


def network_names(network, wanted):
    return model.trainable_names(network, wanted.training)


@pytest.mark.parametrize("head", HEADS)
def test_one_patient_moves_the_sum_by_at_most_the_clipping_norm(head):
    wanted, patients = study(head, clip_norm="0.02"), cohort(head, 5)
    blob = learning.initial(wanted)
    every = np.ones(5, np.bool_)
    total = train.clipped_sum(blob, study=wanted, cohort=patients, training_rows=np.arange(5), sampled=every)
    for row in range(5):
        without = train.clipped_sum(
            blob, study=wanted, cohort=patients, training_rows=np.arange(5), sampled=every & (np.arange(5) != row)
        )
        assert np.linalg.norm(total - without) <= 0.02 * (1 + 1e-9)


def test_classes_are_the_labels_levels_or_lie_between_thresholds():
    made = learning.cohort(30)
    ordinal = labels(made, study=study("ordinal"))
    assert set(ordinal) == {0.0, 1.0, 2.0}
    assert np.array_equal(ordinal, (made.table[:, 1] > 2).astype(int) + (made.table[:, 1] > 4))  # on a threshold: below it
    assert np.array_equal(labels(cohort("classes", 30), study=study("classes")), cohort("classes", 30).table[:, 1])
    assert np.array_equal(labels(made, study=study("regression")), (made.table[:, 1] - 1) / 4)


@pytest.mark.parametrize("head", HEADS)
def test_the_head_learns_the_size_of_a_blob(head):
    wanted, patients = study(head, clip_norm="1000"), cohort(head, 40, views=(1,))
    network, one = learning.built(wanted), heads.of(wanted.training)
    names, targets = model.HEAD, labels(patients, study=wanted)
    losses = []
    for _ in range(30):
        with torch.no_grad():
            given = network(torch.from_numpy(patients.views.copy()))
            losses.append(one.loss(given, torch.from_numpy(targets).float()).mean().item())
        total = train.clipped_sum(
            model.dump(network), study=wanted, cohort=patients, training_rows=np.arange(40), sampled=np.ones(40, np.bool_)
        )
        model.with_flat(network, names, model.flat(network, names) - 0.5 * total / 40)
    assert losses[-1] < 0.9 * losses[0]


@pytest.mark.parametrize(
    ("head", "change", "said"),
    [
        ("binary", {"positive_above": None}, "needs positive_above"),
        ("binary", {"classes": CLASSES}, "needs positive_above"),
        ("classes", {"classes": ("small",)}, "needs two classes"),
        ("classes", {"classes": ("small", "small", "large")}, "twice"),
        ("classes", {"classes": ("small", "large")}, "other levels"),
        ("ordinal", {"thresholds": ["4", "2"]}, "rise"),
        ("ordinal", {"thresholds": ["2"]}, "one threshold fewer"),
        ("ordinal", {"thresholds": []}, "other levels"),
        ("regression", {"positive_above": "3"}, "needs no positive_above"),
        ("regression", {"auc_drop_max": "0.1"}, "auc_drop_max"),
    ],
)
def test_a_head_that_does_not_fit_its_label_is_refused(head, change, said):
    plain = study(head).model_dump()
    plain["training"] |= change
    with pytest.raises(ValueError, match=said):
        Study.model_validate(plain)


def test_a_model_of_another_head_is_refused():
    network = learning.built(study("classes"))
    with pytest.raises(ProtocolError, match="another shape"):
        model.load(learning.built(study("ordinal")), model.dump(network))
