"""Which part of a network each step of training trains, and how: one phase, or two where a head is trained first."""

from dataclasses import dataclass

from common.errors import OutsidePolicy
from common.optimisation import Constant
from common.study import Study
from common.training import Training

__all__ = ["Phase", "of_step", "phases"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Phase:
    """Steps `before` + 1 to `before` + training.steps of the study, trained as `training` says: recipe `head` or `full`."""

    training: Training
    before: int


def phases(training: Training) -> tuple[Phase, ...]:
    """Return the phases of a training in order.

    `finetune` is `head` for its head_steps, on frozen features of the prior, at its own constant learning rate; then `full`,
    from the head's average, by the study's optimiser and schedule, begun anew.
    """
    first = training.finetune
    if first is None:
        return (Phase(training=training, before=0),)
    head = {"recipe": "head", "steps": first.head_steps, "learning_rate": first.head_learning_rate}
    rest = {"recipe": "full", "steps": training.steps - first.head_steps, "finetune": None}
    return (
        Phase(training=training.model_copy(update={**head, "schedule": Constant(kind="constant"), "finetune": None}), before=0),
        Phase(training=training.model_copy(update=rest), before=first.head_steps),
    )


def of_step(study: Study, step: int) -> Study:
    """Return the study as the phase of step number `step` trains it; raises OutsidePolicy where the study has no such step.

    What is returned has another hash: it is for the trainer, not for records.
    """
    for phase in phases(study.training):
        if phase.before < step <= phase.before + phase.training.steps:
            return study.model_copy(update={"training": phase.training})
    raise OutsidePolicy("The study has no such step.", action="Check the coordinator's version.")
