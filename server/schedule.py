"""The learning rate of each step, from the study alone."""

import math

from common.optimisation import WarmUpCosine
from common.training import Training

__all__ = ["learning_rate"]


def learning_rate(training: Training, *, step: int) -> float:
    """Return the learning rate of step number `step`, which counts from 1; raises ValueError where the study has no such step.

    Constant: the study's. Warm-up and cosine, w warm-up steps of T: the study's times step / w up to w, then times
    (1 + cos(pi * (step - w - 1) / (T - w))) / 2.
    """
    if not 1 <= step <= training.steps:
        raise ValueError("the study has no such step")
    full, schedule = float(training.learning_rate), training.schedule
    if not isinstance(schedule, WarmUpCosine):
        return full
    warm = schedule.warm_up_steps
    if step <= warm:
        return full * step / warm
    return full * (1 + math.cos(math.pi * (step - warm - 1) / (training.steps - warm))) / 2
