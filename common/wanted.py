"""What statistics a study wants: what is read from its one wide Gram, and the analyses beyond it."""

from typing import Annotated, Literal

from pydantic import Field

from common.analyses import ANALYSES_MOST, Declared
from common.part import Name, Part, Text
from common.privacy import GramPrivacy


class Regression(Part):
    """Ordinary least squares of `outcome` on `predictors`, with an intercept."""

    outcome: Name
    predictors: Annotated[tuple[Name, ...], Field(min_length=1, max_length=64)]


class Grouping(Part):
    """A comparison of the means of `outcome` between the levels of `factor`, each group with its own variance."""

    outcome: Name
    factor: Name


class Ancova(Part):
    """A comparison of `outcome` between the levels of `factor`, adjusted for numeric `covariates`, with their slopes."""

    outcome: Name
    factor: Name
    covariates: Annotated[tuple[Name, ...], Field(min_length=1, max_length=16)]

    @property
    def formula(self) -> str:
        """Return the model with common slopes."""
        return f"{self.outcome} ~ {' + '.join((self.factor, *self.covariates))}"

    @property
    def formula_of_slopes(self) -> str:
        """Return the model in which each group has its own slopes."""
        return f"{self.outcome} ~ {self.factor} * ({' + '.join(self.covariates)})"


class Statistics(Part):
    """Which variables enter the one wide Gram of the study, and what is read from it.

    `models` are formulas (common/formula.py), `descriptive` names the variables of Table 1. All of it is read from the one
    Gram: a wish here costs columns, never another release. `analyses` go beyond the Gram: each is asked for in secure sums
    of its own (common/analyses.py), exact ones. Without `privacy` the Gram is exact; with it, it leaves once, with noise.
    `complete_cases` says which patients enter a sum: those with a value in every column of that "analysis", or of the whole
    "study", where no two sums can then differ by a few patients and be refused for it.
    """

    correlation: Annotated[tuple[Name, ...], Field(min_length=2, max_length=128)]
    regression: Regression
    models: Annotated[tuple[Text, ...], Field(max_length=32)] = ()
    groups: Annotated[tuple[Grouping, ...], Field(max_length=32)] = ()
    ancova: Annotated[tuple[Ancova, ...], Field(max_length=32)] = ()
    descriptive: Annotated[tuple[Name, ...], Field(max_length=128)] = ()
    analyses: Annotated[tuple[Declared, ...], Field(max_length=ANALYSES_MOST)] = ()
    privacy: GramPrivacy | None = None
    complete_cases: Literal["analysis", "study"] = "analysis"
