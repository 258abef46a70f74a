"""Several private steps at one hospital, each with the whole noise: a change of the model, private before it is masked."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from client import most_patients
from common import model as network
from common.contribution import Contribution
from common.crypto import noise, rng
from common.errors import OutsidePolicy
from common.mechanism import LocalSteps
from common.study import Study

__all__ = ["ClippedSum", "contribution", "shortened"]

Vector = NDArray[np.float64]
FARTHEST = 1e30  # a weight beyond it is put there: a refusal instead would say something that is not charged
ClippedSum = Callable[[bytes, NDArray[np.bool_]], Vector]  # a model and who was drawn, to the sum of their clipped gradients


def contribution(blob: bytes, *, study: Study, patients: int, mechanism: LocalSteps, clipped_sum: ClippedSum) -> Contribution:
    """Return how `local_steps` steps from the model `blob` change it, (d,) float64, shortened to `update_norm`.

    Guarantee: in each step each of `patients` is in with probability mechanism.sampling_rate, independently, from secret
    randomness, and meets the result only through the clipped sum, rounded to the grid with exact noise of deviation
    noise_multiplier * sensitivity; an empty draw is a step of noise. All that follows is computed from these integers and
    public numbers: sums are divided by the expected batch, the same at all hospitals, never by the one drawn.
    `study` is that of the phase (common/phases.py). Raises OutsidePolicy when the mechanism is not the study's, and
    TooManyPatients; nothing is raised that depends on a patient's data: what runs away is clipped to FARTHEST.
    """
    training, privacy, local = study.training, study.privacy, study.training.local
    channels = study.recipe.channels
    size = network.trainable_size(training, channels=channels, patch_voxels=study.recipe.patch_voxels)
    declared = (privacy.noise_multiplier, privacy.clip_norm, local and local.local_steps, size)
    if local is None or declared != (
        mechanism.noise_multiplier,
        mechanism.clip_norm,
        mechanism.local_steps,
        mechanism.dimension,
    ):
        raise OutsidePolicy("The local steps' mechanism is not the study's.", action="Announce the study's values.")
    most_patients.check(patients, mechanism=mechanism)
    model = network.build(training, channels=channels, patch_voxels=study.recipe.patch_voxels)
    network.load(model, blob)
    names = network.trainable_names(model, training)
    start = network.flat(model, names)
    position, batch = start, float(privacy.sampling_rate) * training.patients_declared / mechanism.hospitals
    for _ in range(mechanism.local_steps):
        drawn = rng.poisson_sample(patients, rate=mechanism.sampling_rate)
        clipped = clipped_sum(network.dump(model), drawn)
        total = noise.noised(clipped, mechanism=mechanism) * mechanism.grid_step
        position = np.clip(position - float(local.learning_rate) * total / batch, -FARTHEST, FARTHEST)
        network.with_flat(model, names, position)
    return Contribution(values=shortened(position - start, norm=float(local.update_norm)), mechanism=mechanism)


def shortened(change: Vector, *, norm: float) -> Vector:
    """Return `change`, scaled to L2 norm at most `norm`: post-processing, and a bound on what one hospital moves."""
    length = float(np.sqrt(np.square(change).sum()))
    return change if length <= norm else change * (norm / length)
