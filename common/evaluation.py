"""What a model's head is asked, and what a study wants to know of it beside the pooled result: subgroups, hospitals, price."""

import itertools
from collections.abc import Sequence
from decimal import Decimal
from typing import Annotated, Final, Literal, Self

from pydantic import Field, model_validator

from common.part import Name, Number, Part
from common.privacy import ScoresPrivacy

HeadKind = Literal["binary", "classes", "ordinal", "regression"]
# Of a head: which of (positive_above, two classes or more, thresholds) a study may give, and that in words.
_GIVEN: Final = {
    "binary": ({(True, False, False)}, "positive_above, and no classes or thresholds"),
    "classes": ({(False, True, False)}, "two classes or more, and no positive_above or thresholds"),
    "ordinal": (
        {(False, True, False), (False, True, True)},
        "two classes or more, with thresholds where the label has no levels, and no positive_above",
    ),
    "regression": ({(False, False, False)}, "no positive_above, classes or thresholds"),
}


def check_head(
    head: HeadKind, *, positive_above: Decimal | None, classes: Sequence[str], thresholds: Sequence[Decimal]
) -> None:
    """Raise ValueError unless a head is given what it needs, and nothing else."""
    allowed, needs = _GIVEN[head]
    if (positive_above is not None, bool(classes), bool(thresholds)) not in allowed or len(classes) == 1:
        raise ValueError(f"the head {head} needs {needs}")
    if len(set(classes)) != len(classes):
        raise ValueError("a class is named twice")
    if thresholds and len(thresholds) != len(classes) - 1:
        raise ValueError("there is one threshold fewer than classes")
    if any(low >= high for low, high in itertools.pairwise(thresholds)):
        raise ValueError("thresholds must rise")


class Subgroups(Part):
    """Results apart for the levels of a variable, or for the bands between `cuts` of a variable without levels.

    A value on a cut belongs to the band above it.
    """

    variable: Name
    cuts: Annotated[tuple[Number, ...], Field(max_length=15)] = ()

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if any(low >= high for low, high in itertools.pairwise(self.cuts)):
            raise ValueError("cuts must rise")
        return self


class Evaluation(Part):
    """How the model is evaluated on the held-out patients; without this part: the pooled result, exactly.

    `by_hospital`: each hospital's own result too, of the hospitals whose policy shows it (site_aggregates).
    `unseen`: hospitals that take no part in training, so that the result at them, told apart, is that at a hospital which the
    model has never seen. To leave out each hospital once is a study each, with a training each.
    Without `privacy` the sums are exact and every saved model is scored; with it, only the final one is, once, with noise, so
    that there is no curve and no earlier model to go back to.
    """

    subgroups: Annotated[tuple[Subgroups, ...], Field(max_length=8)] = ()
    by_hospital: bool = False
    unseen: Annotated[tuple[Name, ...], Field(max_length=61)] = ()
    privacy: ScoresPrivacy | None = None

    @model_validator(mode="after")
    def _once(self) -> Self:
        if len({one.variable for one in self.subgroups}) != len(self.subgroups):
            raise ValueError("subgroups of a variable are asked for twice")
        if len(set(self.unseen)) != len(self.unseen):
            raise ValueError("an unseen hospital is named twice")
        return self
