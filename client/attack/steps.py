"""Checks of the training step, through client/train.py: a patient's pull is the clip norm, views are no patients, batches vary.

All patients are the same, so the length of a step's sum counts who was drawn, although the sample never leaves the step.
"""

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Final

import numpy as np

from client import train
from client.attack import synthetic
from common import model
from common.audit.attack.check import Check, dispersion, smallest_deficit
from common.mechanism import SampledStep
from common.study import Study

PATIENTS: Final = 200
STEPS: Final = 400
VIEWS: Final = (1, 4)
SLACK: Final = 1e-5  # of a patient's pull; float32 gradients stay below, and far below the mechanism's numerical slack

Progress = Callable[[], None]


def checks(*, steps: int, progress: Progress = lambda: None) -> Iterator[Check]:
    """Yield the checks of both recipes; `progress` is called after each of `steps` steps."""
    for recipe in ("head", "full"):
        held = synthetic.study(recipe, patients=PATIENTS)
        pulls = [_pull(held, views=views) for views in VIEWS]
        seen = ", ".join(f"{pull:.7f} with {views}" for pull, views in zip(pulls, VIEWS, strict=True))
        holds = all(abs(pull - 1) <= SLACK for pull in pulls)
        name = f"one patient, {recipe}"
        yield Check(name=name, claim="1 clip norm, whatever the views", seen=seen, p=float(holds))
    yield _batches(steps, progress)


def _pull(held: Study, *, views: int) -> float:
    """Return the length of the sum of one patient, whose gradient is far longer, in clip norms."""
    cohort = synthetic.cohort(1, views=views)
    total = train.clipped_sum(
        synthetic.first_model(held), study=held, cohort=cohort, training_rows=np.arange(1), sampled=np.ones(1, np.bool_)
    )
    return float(np.linalg.norm(total) / float(held.privacy.clip_norm))


def _batches(steps: int, progress: Progress) -> Check:
    """Check that the number of patients in a step is binomial: counted as the length of its sum."""
    held = synthetic.study("head", patients=PATIENTS)
    cohort, blob = synthetic.cohort(PATIENTS, views=1), synthetic.first_model(held)
    rows, mechanism = train.labelled_rows(cohort, study=held), _mechanism(held)
    sizes = []
    for _ in range(steps):
        given = train.contribution(blob, study=held, cohort=cohort, training_rows=rows, mechanism=mechanism)
        sizes.append(float(np.linalg.norm(given.values)) / float(held.privacy.clip_norm))
        progress()
    rate = float(synthetic.RATE)
    variance = PATIENTS * rate * (1 - rate)
    found = dispersion(
        "batches of a step",
        claim=f"binomial of {PATIENTS} patients at {synthetic.RATE}",
        squares=float(np.square(np.array(sizes) - PATIENTS * rate).sum() / variance),
        freedom=steps,
        power=f"finds sizes that spread {100 * smallest_deficit(steps):.0f} % too little",
    )
    return replace(found, seen=f"{np.mean(sizes):.2f} a step, {found.seen}")


def _mechanism(held: Study) -> SampledStep:
    return SampledStep(
        noise_multiplier=held.privacy.noise_multiplier,
        clip_norm=held.privacy.clip_norm,
        sampling_rate=held.privacy.sampling_rate,
        hospitals=4,
        colluders=1,
        dimension=model.trainable_size(held.training, channels=1, patch_voxels=synthetic.SIDE),
        share_bits=16,
        ring_bits=32,
        patients_per_step_max=PATIENTS,
    )
