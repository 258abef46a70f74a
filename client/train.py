"""One training step at one hospital: every patient's gradient, clipped once, summed. No noise here; that is the mask's work.

The unit is the patient: a patient's views are one bag with one gradient. Source: reference training.md 1.2 and 2.5.
"""

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray
from torch import nn

from client import augment, features, most_patients, resident
from client.engine import device, independence, split
from client.engine.batch import Bag, Batch, packed
from client.inside import Cohort
from client.label import labelled_rows, labels
from common import model as network
from common.contribution import Contribution
from common.crypto import rng
from common.errors import InternalError, OutsidePolicy
from common.mechanism import SampledStep
from common.networks import heads
from common.networks.network import Network
from common.study import Study

__all__ = ["clipped_sum", "contribution", "labelled_rows"]

Vector = NDArray[np.float64]


def contribution(
    blob: bytes, *, study: Study, cohort: Cohort, training_rows: NDArray[np.int64], mechanism: SampledStep
) -> Contribution:
    """Draw the Poisson sample, which never leaves this function, and return its clipped sum with its mechanism.

    Guarantee: each patient of `training_rows` is in with probability sampling_rate, independently, from secret randomness; the
    L2 sensitivity to one patient is clip_norm times (1 + numerical slack). An empty sample is a vector of zeros, never skipped.
    Raises OutsidePolicy when the mechanism is not the study's, TooManyPatients above patients_per_step_max, ProtocolError or
    BadEnvelope when `blob` is not this study's model.
    """
    declared = (study.privacy.noise_multiplier, study.privacy.clip_norm, study.privacy.sampling_rate)
    size = network.trainable_size(study.training, channels=study.recipe.channels, patch_voxels=study.recipe.patch_voxels)
    if (mechanism.noise_multiplier, mechanism.clip_norm, mechanism.sampling_rate) != declared or mechanism.dimension != size:
        raise OutsidePolicy("The step's mechanism is not the study's.", action="Announce the round with the study's values.")
    most_patients.check(len(training_rows), mechanism=mechanism)
    sampled = rng.poisson_sample(len(training_rows), rate=mechanism.sampling_rate)
    total = clipped_sum(blob, study=study, cohort=cohort, training_rows=training_rows, sampled=sampled)
    return Contribution(values=total, mechanism=mechanism)


def clipped_sum(
    blob: bytes, *, study: Study, cohort: Cohort, training_rows: NDArray[np.int64], sampled: NDArray[np.bool_]
) -> Vector:
    """Return the sum of the sampled patients' clipped gradients, shape (d,), float64.

    A patient's gradient is that of the mean loss (common/networks/heads.py) of the first views_per_patient_max views and their
    augmentations; its L2 norm is clipped to clip_norm once. `sampled` has one flag per training row. Patients without label or
    views contribute zero; so does a patient whose gradient is not finite, and an empty sample. Raises ProtocolError or
    BadEnvelope when `blob` is not this study's model, InternalError when the arguments do not belong together.
    """
    if sampled.shape != training_rows.shape or len(np.unique(training_rows)) != len(training_rows):
        raise InternalError("The sample does not belong to the training rows.", action="Report this.")
    model = network.build(study.training, channels=study.recipe.channels, patch_voxels=study.recipe.patch_voxels)
    network.load(model, blob)
    names = network.trainable_names(model, study.training)
    patients = _bags(cohort, study=study, rows=training_rows[sampled])
    if study.training.recipe == "head":
        network.refuse_other_features(
            model, study.training, channels=study.recipe.channels, patch_voxels=study.recipe.patch_voxels
        )
        gradients = _head_gradients(model, bags=[bag for _, bag in patients], cohort=cohort, study=study)
        total: Vector = clip(gradients, norm=float(study.privacy.clip_norm)).sum(axis=0)
        return total
    if not patients:
        return np.zeros(len(network.flat(model, names)))
    return _full_sum(model, names=names, cohort=cohort, patients=patients, study=study)


def clip(gradients: Vector, *, norm: float) -> Vector:
    """Scale each row, shape (patient, d), to L2 norm at most `norm`; a row that is not finite becomes zero.

    Source: Abadi et al. 2016, Algorithm 1, line 5.
    """
    finite = np.isfinite(gradients).all(axis=1, keepdims=True)
    gradients = np.where(finite, gradients, 0.0)
    norms = np.sqrt(np.square(gradients).sum(axis=1, keepdims=True))
    clipped: Vector = gradients * (norm / np.maximum(norms, norm))
    return clipped


def _bags(cohort: Cohort, *, study: Study, rows: NDArray[np.int64]) -> list[tuple[str, Bag]]:
    """Return the pseudonyms and bags of those that have a label and a view."""
    if len(cohort.views) and cohort.views.shape[1:] != study.recipe.view_shape:
        raise InternalError("The views do not have the study's shape.", action="Report this.")
    classes, most = labels(cohort, study=study), study.training.views_per_patient_max
    bags = ((cohort.patients[row], (float(classes[row]), cohort.bags[row][:most])) for row in rows)
    return [(patient, (label, bag)) for patient, (label, bag) in bags if bag and not np.isnan(label)]


def _head_gradients(model: Network, *, bags: Sequence[Bag], cohort: Cohort, study: Study) -> Vector:
    """Return the gradients of the head for all bags, (patient, d): exact in closed form, float64.

    The layers below are the study's prior, which the caller has checked: it names them.
    """
    head, weights = heads.of(study.training), network.flat(model, network.HEAD)
    frozen = f"{study.training.model} {study.training.prior_sha256} {study.recipe.channels}"
    if not bags:
        return np.zeros((0, len(weights)))
    size = len(weights) - head.outputs  # weights of all outputs, then biases, as in network.HEAD
    both = np.concatenate([weights[:size].reshape(head.outputs, -1), weights[size:, None]], axis=1)
    gradients = np.empty((len(bags), len(weights)))
    with np.errstate(over="ignore", invalid="ignore"):  # a row that is not finite becomes zero in clip
        for row, (label, bag) in enumerate(bags):
            seen = features.embedded(
                model, frozen=frozen, views=cohort.views, rows=bag, augmentations=study.training.augmentations
            )
            seen = np.concatenate([seen, np.ones((len(seen), 1))], axis=1)
            slopes = head.residuals(seen @ both.T, target=label).T @ seen / len(seen)
            gradients[row] = np.concatenate([slopes[:, :-1].ravel(), slopes[:, -1]])
    return gradients


def _full_sum(
    model: Network, *, names: tuple[str, ...], cohort: Cohort, patients: Sequence[tuple[str, Bag]], study: Study
) -> Vector:
    """Return the clipped sum over every layer, (d,), float64, by the engine, on the devices that were picked.

    Patients share micro-batches of one shape, where no bit of a patient's gradient depends on the others; where this machine's
    kernels do not keep to that, they go one at a time. See client/engine/independence.py, clipped.py and split.py.
    """
    number = study.training.augmentations
    most = study.training.views_per_patient_max * (1 + number)
    sizes = [1 << power for power in range((most - 1).bit_length() + 1)]
    loss = heads.of(study.training).loss

    def packing(replica: nn.Module, where: str, bags: list[Bag]) -> Iterator[Batch]:
        wanted, shape = model.rows_at_once, cohort.views.shape[1:]
        rows = independence.rows_at_once(replica, shape=shape, sizes=sizes, wanted=wanted, loss=loss)
        there = resident.kept(cohort.views, augmentations=number, device=where)
        if there is not None:
            return packed(there, bags=augment.widened(bags, views=len(cohort.views), number=number), rows_at_once=rows)
        views, bags = augment.gathered(cohort.views, bags=bags)
        views, bags = augment.augmented(views, bags=bags, number=number)
        return (batch.to(where) for batch in packed(views, bags=bags, rows_at_once=rows))

    total = split.clipped_sum_by(model, patients, packing=packing, loss=loss, clip_norm=float(study.privacy.clip_norm))
    resident.release(beside=[one.name for one in device.picked()])
    return np.concatenate([total[name].numpy().ravel() for name in names])
