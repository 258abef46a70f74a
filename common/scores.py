"""The one vector of an evaluation: which tables it holds, where they lie, and how much of it is one patient.

Each hospital fills the same tables, the secure sum adds them, and the coordinator reads them; all of it follows from the study.
First the main tables of every scored model, then the details of the last one:

| part | binary | classes, ordinal | regression |
|---|---|---|---|
| main, a model | scores | scores, confusion | sums |
| details: a subgroup, a hospital | coarse scores | confusion | sums |

scores (question, no or yes, bin): how many patients have which score, for each question: is it positive; is it this class;
ordinal: is it further than this class. confusion (true class, predicted class). sums: SUMS, of values scaled to [0, 1].
A subgroup variable has a row for each level or band, and one more for everybody else.
"""

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

from numpy.typing import NDArray

from common.study import Study

COARSE_BINS: Final = 8  # of the scores in the details
UNIT_BITS: Final = 30  # values of sums are multiples of 2**-30; an exact sum counts these units
SUMS: Final = ("patients", "absolute error", "true", "true squared", "predicted", "predicted squared", "product")
SUMS_SQUARED: Final = 6  # the most that the squares of one patient's SUMS add up to: at true = predicted = 1
HOSPITALS: Final = "by hospital"
UNSEEN: Final = "unseen hospitals"  # those that took no part in training, together
HOSPITALS_MOST: Final = 64  # of a roster: the table by hospital has so many rows, in the order of the round


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """One table: `name` is scores, confusion or sums; in the details, a subgroup's variable, HOSPITALS or UNSEEN."""

    name: str
    shape: tuple[int, ...]

    @property
    def size(self) -> int:
        """Return how many numbers it has."""
        return math.prod(self.shape)


@dataclass(frozen=True, slots=True, kw_only=True)
class Opened:
    """A vector cut into its tables: of each model the main ones by name, and the details of the last model by name."""

    models: tuple[dict[str, NDArray[Any]], ...]
    details: dict[str, NDArray[Any]]


def models(study: Study) -> int:
    """Return how many models are scored: with noise the final one; else the first, one after each step, and the final one."""
    return study.training.steps + 2 if study.evaluation.privacy is None else 1


def questions(study: Study) -> int:
    """Return how many yes-or-no questions a head's scores answer; 0 for regression."""
    return {"binary": 1, "regression": 0, "ordinal": len(study.training.classes) - 1}.get(
        study.training.head, len(study.training.classes)
    )


def main(study: Study) -> tuple[Table, ...]:
    """Return the main tables of one model."""
    training = study.training
    if training.head == "regression":
        return (Table(name="sums", shape=(len(SUMS),)),)
    scores = Table(name="scores", shape=(questions(study), 2, training.score_bins))
    many = len(training.classes)
    return (scores,) if training.head == "binary" else (scores, Table(name="confusion", shape=(many, many)))


def group(study: Study) -> tuple[int, ...]:
    """Return the shape of what the details tell of one subgroup or hospital."""
    many = len(study.training.classes)
    return {"binary": (2, COARSE_BINS), "regression": (len(SUMS),)}.get(study.training.head, (many, many))


def names(study: Study, *, variable: str) -> tuple[str, ...]:
    """Return the names of a subgroup variable's levels or bands, without everybody else; raises KeyError."""
    wanted = {one.variable: one for one in study.evaluation.subgroups}[variable]
    levels = study.variable(variable).levels
    if levels:
        return levels
    cuts = [f"{cut:f}" for cut in wanted.cuts]
    between = [f"{low} to below {high}" for low, high in itertools.pairwise(cuts)]
    return (f"below {cuts[0]}", *between, f"{cuts[-1]} and above")


def details(study: Study) -> tuple[Table, ...]:
    """Return the tables of the details."""
    told = [
        Table(name=one.variable, shape=(len(names(study, variable=one.variable)) + 1, *group(study)))
        for one in study.evaluation.subgroups
    ]
    if study.evaluation.by_hospital:
        told.append(Table(name=HOSPITALS, shape=(HOSPITALS_MOST, *group(study))))
    if study.evaluation.unseen:
        told.append(Table(name=UNSEEN, shape=(1, *group(study))))
    return tuple(told)


def dimension(study: Study) -> int:
    """Return how long the vector is."""
    first = models(study) * sum(table.size for table in main(study))
    return first + sum(table.size for table in details(study))


def entries(study: Study) -> int:
    """Return the most that the squares of what a patient adds for one model sum up to: of counts, how many there are."""
    one = SUMS_SQUARED if study.training.head == "regression" else 1
    first = one if study.training.head in {"binary", "regression"} else questions(study) + 1
    wanted = study.evaluation
    return first + one * (len(wanted.subgroups) + wanted.by_hospital + bool(wanted.unseen))


def split(vector: NDArray[Any], *, study: Study) -> Opened:
    """Return the tables of a vector as views of it; raises ValueError on another length."""
    if vector.shape != (dimension(study),):
        raise ValueError("the vector does not have the study's tables")
    parts = _cut(vector, tables=[*main(study) * models(study), *details(study)])
    scored = tuple({table.name: next(parts) for table in main(study)} for _ in range(models(study)))
    return Opened(models=scored, details={table.name: next(parts) for table in details(study)})


def _cut(vector: NDArray[Any], *, tables: list[Table]) -> Iterator[NDArray[Any]]:
    start = 0
    for table in tables:
        yield vector[start : start + table.size].reshape(table.shape)
        start += table.size
