"""The noisy releases that a study would make, with the noise that they would have, or why it cannot be made."""

from common import announcement, noisy_moments, scores
from common.errors import ConfigError
from common.ledger import accounting
from common.mechanism import ROUNDING_SLACK_MOST, SHARE_BITS_MOST, GaussianShare
from common.privacy import GramPrivacy, Privacy, ScoresPrivacy
from common.study import Study
from server import exchange, scorable

__all__ = ["check", "mechanism", "released", "trainable"]

TASKS = ("gram", "train", "evaluate")
HONEST_LEAST = 2  # of a round
SMALLER = {
    "gram": "Ask for fewer columns",
    "train": 'Choose recipe = "head", a smaller network',
    "evaluate": "Ask for fewer score_bins and subgroups",
}
FEWER = {
    "gram": "a smaller patients_max",
    "train": "a smaller patients_per_step_max",
    "evaluate": "a smaller patients_max",
}


def check(study: Study, *, hospitals: int) -> None:
    """Raise ConfigError where a run over so many hospitals could not make its noise, or not score its models.

    Rounds without those that may be missing are checked too: with fewer hospitals rounding may cost more.
    """
    for task in TASKS:
        size, most = _size(study, task=task), hospitals - (len(study.evaluation.unseen) if task == "train" else 0)
        for present in range(most, min(most, exchange.fewest(study)) - 1, -1):
            if size is not None:
                mechanism(study, task=task, hospitals=present, dimension=size)
    scorable.check(study)


def released(study: Study, *, task: str, hospitals: int, voids: bool = False) -> list[GaussianShare]:
    """Return the noisy releases of a task, all over the same hospitals, unseen ones included; with its void rounds where asked.

    Raises ConfigError where the noise cannot be made.
    """
    privacy, size = _privacy(study, task=task), _size(study, task=task)
    if privacy is None or size is None:
        return []
    rounds, apart = (study.training.steps, len(study.evaluation.unseen)) if task == "train" else (1, 0)
    one = mechanism(study, task=task, hospitals=hospitals - apart, dimension=size)
    return [one] * (rounds + voids * privacy.rounds_void_allowed)


def _privacy(study: Study, *, task: str) -> Privacy | GramPrivacy | ScoresPrivacy | None:
    """Return the privacy parameters of a task; none where its sum is exact."""
    return {"gram": study.statistics.privacy, "train": study.privacy, "evaluate": study.evaluation.privacy}[task]


def _size(study: Study, *, task: str) -> int | None:
    """Return how many numbers a round of a noisy task announces; none where its sum is exact."""
    if _privacy(study, task=task) is None:
        return None
    if task == "gram":
        return noisy_moments.packed_size(len(study.columns()))
    if task == "evaluate":
        return scores.dimension(study)
    return trainable(study) + (study.training.local is not None)


def mechanism(study: Study, *, task: str, hospitals: int, dimension: int) -> GaussianShare:
    """Return the mechanism of a noisy task; raises ConfigError where its noise cannot be made, or hospitals would refuse it."""
    try:
        found = announcement.mechanism_for(study, task=task, hospitals=hospitals, dimension=dimension)
        if not isinstance(found, GaussianShare):
            raise TypeError("this task has no noise")
        if found.honest < HONEST_LEAST:
            raise ValueError("so few hospitals leave fewer than two honest ones")
        _check_rounding(found, task=task)
        accounting.effective_noise_multiplier(found)
    except ValueError as error:
        raise ConfigError(
            f"The noise of {task} cannot be made: {error}.",
            action="Choose more noise, fewer patients, fewer colluders or more hospitals.",
        ) from None
    return found


def _check_rounding(found: GaussianShare, *, task: str) -> None:
    """Raise ConfigError where hospitals would refuse the noise, because the ring holds it in steps that are too coarse."""
    if found.rounding_slack > ROUNDING_SLACK_MOST:
        less = "a smaller noise_multiplier" if found.share_bits == SHARE_BITS_MOST else FEWER[task]
        raise ConfigError(
            f"The noise of {task} cannot be made fine enough for {found.dimension} numbers from {found.hospitals} hospitals: "
            f"rounding would add {100 * found.rounding_slack:.3g} % to the sensitivity, hospitals refuse more than "
            f"{100 * ROUNDING_SLACK_MOST:g} %.",
            action=f"{SMALLER[task]}, or {less}.",
        )


def trainable(study: Study) -> int:
    """Return how many parameters the study trains at most in a step."""
    from common import model  # noqa: PLC0415  (torch takes seconds)

    recipe = study.recipe
    return model.trainable_size(study.training, channels=recipe.channels, patch_voxels=recipe.patch_voxels)
