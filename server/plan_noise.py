"""The noisy releases that a study would make, with the noise that they would have, or why it cannot be made."""

from common import announcement, noisy_moments, scores
from common.errors import ConfigError
from common.ledger import accounting
from common.mechanism import GaussianShare
from common.study import Study
from server import scorable

__all__ = ["check", "mechanism", "released", "trainable"]

TASKS = ("gram", "train", "evaluate")
HONEST_LEAST = 2  # of a round


def check(study: Study, *, hospitals: int) -> None:
    """Raise ConfigError where a run over so many hospitals could not make its noise, or not score its models."""
    for task in TASKS:
        released(study, task=task, hospitals=hospitals)
    scorable.check(study)


def released(study: Study, *, task: str, hospitals: int, voids: bool = False) -> list[GaussianShare]:
    """Return the noisy releases of a task, all over the same hospitals, unseen ones included; with its void rounds where asked.

    Raises ConfigError where the noise cannot be made.
    """
    if task == "gram":
        privacy = study.statistics.privacy
        if privacy is None:
            return []
        one = mechanism(study, task=task, hospitals=hospitals, dimension=noisy_moments.packed_size(len(study.columns())))
        return [one] * (1 + voids * privacy.rounds_void_allowed)
    if task == "evaluate":
        scored = study.evaluation.privacy
        if scored is None:
            return []
        one = mechanism(study, task=task, hospitals=hospitals, dimension=scores.dimension(study))
        return [one] * (1 + voids * scored.rounds_void_allowed)
    training = hospitals - len(study.evaluation.unseen)
    one = mechanism(study, task=task, hospitals=training, dimension=trainable(study) + (study.training.local is not None))
    return [one] * (study.training.steps + voids * study.privacy.rounds_void_allowed)


def mechanism(study: Study, *, task: str, hospitals: int, dimension: int) -> GaussianShare:
    """Return the mechanism of a noisy task; raises ConfigError where its noise cannot be made."""
    try:
        found = announcement.mechanism_for(study, task=task, hospitals=hospitals, dimension=dimension)
        if not isinstance(found, GaussianShare):
            raise TypeError("this task has no noise")
        if found.honest < HONEST_LEAST:
            raise ValueError("so few hospitals leave fewer than two honest ones")
        if found.rounding_slack >= 1:
            raise ValueError("rounding eats it")
        accounting.effective_noise_multiplier(found)
    except ValueError as error:
        raise ConfigError(
            f"The noise of {task} cannot be made: {error}.",
            action="Choose more noise, fewer patients, fewer colluders or more hospitals.",
        ) from None
    return found


def trainable(study: Study) -> int:
    """Return how many parameters the study trains at most in a step."""
    from common import model  # noqa: PLC0415  (torch takes seconds)

    recipe = study.recipe
    return model.trainable_size(study.training, channels=recipe.channels, patch_voxels=recipe.patch_voxels)
