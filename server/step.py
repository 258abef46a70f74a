"""One optimiser step on a decoded sum: momentum, and the average of the second half of the steps as the final model.

Everything here is post-processing of sums that are private already; it costs no privacy.
"""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load as read_arrays
from safetensors.numpy import save as write_arrays

from common.errors import InternalError, RecordDamaged
from common.privacy import Privacy
from common.study import Training

Vector = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class OptimiserState:
    """Where training stands after `steps_done` steps; arrays are read-only, shape (d,), float64."""

    steps_done: int
    position: Vector  # the trainable parameters now
    velocity: Vector
    second_half_sum: Vector  # sum of the positions after the steps of the second half

    def __post_init__(self) -> None:
        for array in (self.position, self.velocity, self.second_half_sum):
            if array.shape != self.position.shape or array.ndim != 1 or array.dtype != np.float64:
                raise InternalError("The optimiser's vectors do not belong together.", action="Report this.")
            array.setflags(write=False)

    def to_bytes(self) -> bytes:
        """Return the state as safetensors bytes, for the journal; the same state gives the same bytes."""
        blob: bytes = write_arrays(
            {
                "position": self.position,
                "second_half_sum": self.second_half_sum,
                "steps_done": np.array([self.steps_done], np.int64),
                "velocity": self.velocity,
            }
        )
        return blob


def start(position: Vector) -> OptimiserState:
    """Return the state before the first step, at `position`."""
    zeros = np.zeros(len(position))
    return OptimiserState(steps_done=0, position=position.astype(np.float64), velocity=zeros, second_half_sum=zeros.copy())


def from_bytes(blob: bytes) -> OptimiserState:
    """Read a state back; raises RecordDamaged on anything that `to_bytes` did not write."""
    try:
        arrays = read_arrays(blob)
        state = OptimiserState(
            steps_done=int(arrays["steps_done"].item()),
            position=arrays["position"],
            velocity=arrays["velocity"],
            second_half_sum=arrays["second_half_sum"],
        )
    except (SafetensorError, InternalError, KeyError, TypeError, ValueError, OverflowError):
        raise RecordDamaged("The optimiser's state cannot be read.", action="Restore the journal from a backup.") from None
    if state.to_bytes() != blob:
        raise RecordDamaged("The optimiser's state was changed.", action="Restore the journal from a backup.")
    return state


def step(state: OptimiserState, total: Vector, *, training: Training, privacy: Privacy) -> OptimiserState:
    """Return the state after one step of gradient descent with momentum on `total`, the decoded sum over all hospitals.

    The gradient is total / (sampling_rate * patients_declared): the realised batch is known to nobody.
    Raises InternalError when `total` is not finite, has another length, or every step of the study was made already.
    """
    if total.shape != state.position.shape or not np.isfinite(total).all():
        raise InternalError("The decoded sum does not fit the model.", action="Report this.")
    if state.steps_done >= training.steps:
        raise InternalError("All steps of the study were made already.", action="Report this.")
    gradient = total / (float(privacy.sampling_rate) * training.patients_declared)
    velocity = float(training.momentum) * state.velocity + gradient
    position = state.position - float(training.learning_rate) * velocity
    done = state.steps_done + 1
    averaged = state.second_half_sum + position if done > training.steps // 2 else state.second_half_sum
    return replace(state, steps_done=done, position=position, velocity=velocity, second_half_sum=averaged)


def final(state: OptimiserState, *, training: Training) -> Vector:
    """Return the final parameters: the average over the second half of the steps, or where training stands before that.

    Source: reference training.md 10; Polyak and Juditsky 1992.
    """
    averaged = state.steps_done - training.steps // 2
    return state.second_half_sum / averaged if averaged > 0 else state.position
