"""The training of a study: which network learns what, by which steps."""

from decimal import Decimal
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from common.evaluation import HeadKind, check_head
from common.optimisation import Average, Finetune, Optimiser, Schedule, WarmUpCosine
from common.part import Level, Name, Number, Part, Positive
from common.rhythm import LocalRhythm


class Training(Part):
    """One CNN, one secure sum a step; with `local`, a sum after several steps at each hospital: then `steps` counts sums.

    Recipes: `head` on the prior's frozen features; `full` network; `finetune`: head first, then the whole (common/phases.py).

    A bag holds a patient's views, and of each view its first `augmentations` mirrored or turned copies (client/augment.py).
    The final model is the result unless its held-out AUC is more than `auc_drop_max` below the best that training passed.
    `head` says what is learned of `label` (common/networks/heads.py): binary, whether it is above `positive_above`; classes,
    its level; ordinal, likewise, with levels or between rising `thresholds`; regression, its value.
    """

    model: Literal["cnn2d", "resnet18", "cnn3d"]
    recipe: Literal["head", "finetune", "full"]
    prior_sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    label: Name
    head: HeadKind = "binary"
    positive_above: Number | None = None
    classes: Annotated[tuple[Level, ...], Field(max_length=16)] = ()
    thresholds: Annotated[tuple[Number, ...], Field(max_length=15)] = ()
    steps: Annotated[int, Field(ge=1, le=100_000)]
    learning_rate: Positive
    optimiser: Optimiser
    schedule: Schedule
    average: Average
    views_per_patient_max: Annotated[int, Field(ge=1, le=64)]
    augmentations: Annotated[int, Field(ge=0, le=7)]
    patients_per_step_max: Annotated[int, Field(ge=1, le=1_000_000)]
    patients_declared: Annotated[int, Field(ge=2, le=100_000_000)]
    held_out_fraction: Annotated[Decimal, Field(gt=0, lt=1, max_digits=24)]
    score_bins: Annotated[int, Field(ge=8, le=64)]
    auc_drop_max: Annotated[Decimal, Field(ge=0, le=1, max_digits=24)]
    finetune: Finetune | None = None
    local: LocalRhythm | None = None

    @property
    def patients_all(self) -> int:
        """Return N, how many patients the study declares: those for training and those held out, rounded."""
        return round(self.patients_declared / (1 - self.held_out_fraction))

    @model_validator(mode="after")
    def _warm_up_ends(self) -> Self:
        if (self.recipe == "finetune") != (self.finetune is not None):
            raise ValueError("the recipe finetune needs [training.finetune], and no other recipe has it")
        steps = self.steps - (self.finetune.head_steps if self.finetune else 0)
        if steps < 1:
            raise ValueError("finetune.head_steps must be below steps")
        if isinstance(self.schedule, WarmUpCosine) and self.schedule.warm_up_steps >= steps:
            raise ValueError("the schedule's warm_up_steps must be below steps")
        return self

    @model_validator(mode="after")
    def _head_is_whole(self) -> Self:
        check_head(self.head, positive_above=self.positive_above, classes=self.classes, thresholds=self.thresholds)
        return self
