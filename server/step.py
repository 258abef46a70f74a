"""One optimiser step on a decoded sum, and the average that becomes the final model; which ones, the study says.

Everything here is post-processing of sums that are private already; it costs no privacy.
"""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save as write_arrays

from common.errors import InternalError
from common.optimisation import Adam, MovingAverage
from common.privacy import Privacy
from common.training import Training
from server.schedule import learning_rate

Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class OptimiserState:
    """Where training stands after `steps_done` steps; arrays are read-only, float64."""

    steps_done: int
    position: Array  # (d,): the trainable parameters now
    moments: Array  # momentum (1, d): the velocity; Adam (2, d): its two moments, before bias correction
    average: Array  # (d,): second half: the sum of its positions; moving average: before its weights are made to sum to one

    def __post_init__(self) -> None:
        shapes = self.position.ndim, self.moments.shape[1:], self.average.shape
        if shapes != (1, self.position.shape, self.position.shape) or self.steps_done < 0:
            raise InternalError("The optimiser's vectors do not belong together.", action="Report this.")
        for array in (self.position, self.moments, self.average):
            if array.dtype != np.float64:
                raise InternalError("The optimiser's vectors do not belong together.", action="Report this.")
            array.setflags(write=False)

    def to_bytes(self) -> bytes:
        """Return the state as safetensors bytes, for the run's folder; the same state gives the same bytes."""
        blob: bytes = write_arrays(
            {
                "average": self.average,
                "moments": self.moments,
                "position": self.position,
                "steps_done": np.array([self.steps_done], np.int64),
            }
        )
        return blob


def start(position: Array, *, training: Training) -> OptimiserState:
    """Return the state before the first step, at `position`, shape (d,)."""
    moments = np.zeros((2 if isinstance(training.optimiser, Adam) else 1, len(position)))
    return OptimiserState(steps_done=0, position=position.astype(np.float64), moments=moments, average=np.zeros(len(position)))


def step(state: OptimiserState, total: Array, *, training: Training, privacy: Privacy) -> OptimiserState:
    """Return the state after one step of the study's optimiser on `total`, the decoded sum over all hospitals, shape (d,).

    The gradient is total / (sampling_rate * patients_declared): the realised batch is known to nobody.
    Raises InternalError when `total` is not finite, has another length, the state is another optimiser's, or every step of the
    study was made already.
    """
    _check(state, total, training=training)
    return _stepped(state, total / (float(privacy.sampling_rate) * training.patients_declared), training=training)


def step_of_changes(state: OptimiserState, total: Array, *, hospitals: int, training: Training) -> OptimiserState:
    """Return the state after one step of the study's optimiser on `total`, the decoded sum of hospitals' changes, shape (d,).

    The gradient is minus the mean change: every hospital weighs the same, because how many patients it has is not known. With
    momentum 0 and learning rate 1 the models are averaged (FedAvg, McMahan et al. 2017); with Adam it is FedAdam (Reddi et al.
    2021, Algorithm 2). Raises as `step`.
    """
    _check(state, total, training=training)
    return _stepped(state, total / -hospitals, training=training)


def _stepped(state: OptimiserState, gradient: Array, *, training: Training) -> OptimiserState:
    done = state.steps_done + 1
    moments, direction = _direction(state.moments, gradient, training=training, done=done)
    position = state.position - learning_rate(training, step=done) * direction
    return replace(
        state,
        steps_done=done,
        position=position,
        moments=moments,
        average=_averaged(state.average, position, training=training, done=done),
    )


def _check(state: OptimiserState, total: Array, *, training: Training) -> None:
    if total.shape != state.position.shape or not np.isfinite(total).all():
        raise InternalError("The decoded sum does not fit the model.", action="Report this.")
    if state.steps_done >= training.steps:
        raise InternalError("All steps of the study were made already.", action="Report this.")
    if len(state.moments) != (2 if isinstance(training.optimiser, Adam) else 1):
        raise InternalError("The state is that of another optimiser.", action="Report this.")


def final(state: OptimiserState, *, training: Training) -> Array:
    """Return the final parameters, shape (d,): the study's average, or where training stands while there is nothing to average.

    Source: reference training.md 10; Polyak and Juditsky 1992.
    """
    if isinstance(training.average, MovingAverage):
        weight = 1 - float(training.average.decay) ** state.steps_done
    else:
        weight = float(max(0, state.steps_done - training.steps // 2))
    return state.average / weight if weight > 0 else state.position


def _direction(moments: Array, gradient: Array, *, training: Training, done: int) -> tuple[Array, Array]:
    """Return the moments after step number `done`, and what the learning rate multiplies."""
    optimiser = training.optimiser
    if not isinstance(optimiser, Adam):
        velocity = float(optimiser.momentum) * moments[0] + gradient
        return velocity[None], velocity
    beta_1, beta_2 = float(optimiser.beta_1), float(optimiser.beta_2)
    first = beta_1 * moments[0] + (1 - beta_1) * gradient
    second = beta_2 * moments[1] + (1 - beta_2) * np.square(gradient)
    spread = np.sqrt(second / (1 - beta_2**done)) + float(optimiser.damping)
    return np.stack([first, second]), first / (1 - beta_1**done) / spread


def _averaged(average: Array, position: Array, *, training: Training, done: int) -> Array:
    if isinstance(training.average, MovingAverage):
        decay = float(training.average.decay)
        return decay * average + (1 - decay) * position
    return average + position if done > training.steps // 2 else average
