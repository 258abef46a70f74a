"""What enters an exact sum at a hospital: which patients, what is asked of them, and under which name that counts.

Each question has a name of its own, the hash of all that it is about, so that client/exact.py and client/released.py know it
again in another run or study.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations_with_replacement
from typing import Any

import numpy as np
from numpy.typing import NDArray

from client import columns
from client.disclosure import COUNTS_ONLY
from client.inside import Cohort
from client.kernels.rows import Rows
from common import analyses, canonical, embedding, moments, query
from common.announcement import Announcement
from common.query import Query
from common.study import Study
from common.terms import Column

SOLVED_ALONE = frozenset({"logistic", "firth", "ordinal", "cox_stratified"})  # fits whose sums are over all rows at once


@dataclass(frozen=True, slots=True, kw_only=True)
class Entering:
    """What enters an exact sum: which patients, and per question their data as bytes, to be hashed and nothing else.

    `definitions` say which network makes an embedding. `variables` are those of the dictionary behind the columns, `rows` what
    a query is answered from; a Gram's `rows` are its columns. An evaluation has neither: its sums are of scores, which no
    other sum holds. `grids`: on which edges variables are counted; `functions`: its columns, and the variables in them, plain,
    transformed or a level, of which it holds products.
    """

    patients: tuple[str, ...]
    questions: dict[str, bytes]
    definitions: dict[str, str] = field(default_factory=dict)
    variables: frozenset[str] = frozenset()
    rows: Rows | None = None
    kernel: str = "gram"
    grids: tuple[tuple[str, tuple[float, ...]], ...] = ()
    functions: tuple[str, ...] = ()


def of_gram(study: Study, *, cohort: Cohort) -> Entering:
    """Return what a Gram asks: of its complete patients, every pair of columns as prepared, and who is incomplete."""
    prepared = study.recipe.model_dump(mode="python")
    table = columns.table(cohort, columns=study.design(), study=study)
    complete = columns.complete(table)
    values = moments.fixed_point(table[complete], study=study)
    data = {name: values[:, at].tobytes() for at, name in enumerate(study.columns())}
    asked = {
        column.name: study.question(column.name) | study.harmonisation_of(piece.variable for piece in column.pieces)
        for column in study.design()
    }
    variables = frozenset(piece.variable for column in study.design() for piece in column.pieces)
    incomplete = {"left_out": [study.question(name) for name in sorted(variables)]}
    incomplete |= study.harmonisation_of(variables)  # its patients have a value in every covariate too
    return Entering(
        patients=_patients(cohort, complete),
        questions={
            canonical.digest({"gram": [asked[one], asked[other]], "recipe": prepared}): data[one] + data[other]
            for one, other in combinations_with_replacement(sorted(data), 2)
        }
        | {canonical.digest({**incomplete, "recipe": prepared}): "".join(_patients(cohort, ~complete)).encode()},
        definitions=definitions(study, variables=variables),
        variables=variables,
        rows=_rows(table[complete], design=study.design(), study=study),
        functions=_functions(study.design()),
    )


def of_query(asked: Query, *, index: int, study: Study, cohort: Cohort) -> Entering:
    """Return the rows complete in every column of the analysis, and what is asked of them.

    That is its kernel, columns and grids, without the numbers that change from one query to the next: every query of an
    analysis is bound to the same rows.
    """
    position, _ = analyses.place(index)
    bound = study.asked(position)
    table = columns.table(cohort, columns=bound.columns, study=study)
    complete = columns.complete(table)
    rows = _rows(table[complete], design=bound.columns, study=study)
    dictionary = {one.name: one for one in study.variables}
    through = study.harmonisation_of(bound.variables) if study.harmonises(task="query", index=index) else {}
    variables = [study.question(name) for name in sorted(bound.variables)]
    incomplete = {"left_out": variables, "recipe": study.recipe.model_dump(mode="python"), **through}
    question = {
        "query": asked.kernel,
        "responses": asked.responses,
        "predictors": asked.predictors,
        "variables": variables,
        "bounds": [[low.hex(), high.hex()] for low, high in zip(rows.lower, rows.upper, strict=True)],
        "grids": {key: [edge.hex() for edge in edges] for key, edges in asked.numbers if key.startswith("grid.")},
        "recipe": study.recipe.model_dump(mode="python"),
        **through,
    }
    return Entering(
        patients=_patients(cohort, complete),
        questions={
            canonical.digest(question): rows.complete(asked.variables).tobytes(),
            **_taken_once(asked, question, bounds=dict(zip(rows.names, zip(rows.lower, rows.upper, strict=True), strict=True))),
            canonical.digest(incomplete): "".join(_patients(cohort, ~complete)).encode(),
        },
        definitions=definitions(study, variables=bound.variables),
        variables=frozenset(name for name in bound.variables if name in dictionary),
        rows=rows,
        kernel=asked.kernel,
        grids=_counted(asked),
        functions=() if asked.kernel in COUNTS_ONLY else _functions(bound.columns),
    )


def of_scores(study: Study, *, cohort: Cohort, rows: NDArray[np.int64]) -> Entering:
    """Return what an evaluation asks: of the held-out patients, `rows` of the cohort, their labels, subgroups and views."""
    prepared = study.recipe.model_dump(mode="python")
    label = cohort.columns.index(study.training.label)
    views = [view for row in rows for view in cohort.bags[row][: study.training.views_per_patient_max]]
    apart = [cohort.columns.index(one.variable) for one in study.evaluation.subgroups]
    scored = {"scores": study.training.model_dump(mode="python"), "recipe": prepared, "evaluation": _apart(study)}
    seen = cohort.table[rows, label].tobytes() + cohort.table[rows][:, apart].tobytes() + cohort.views[views].tobytes()
    return Entering(patients=tuple(cohort.patients[row] for row in rows), questions={canonical.digest(scored): seen})


def definitions(study: Study, *, variables: Iterable[str]) -> dict[str, str]:
    """Return, of those variables that a network makes, what a record of sums knows them by, and which network it is.

    A study names its network once: its dictionary, and with it what is asked, can be another study's with another network.
    """
    made = [
        one for one in study.variables if one.name in set(variables) and one.source == "image" and embedding.named(one.name)
    ]
    recipe, network = study.recipe.model_dump(mode="python"), f"{study.training.model}, prior {study.training.prior_sha256[:8]}"
    return {
        canonical.digest({"made by": study.question(one.name), "recipe": recipe}): f"{one.name} of {network}" for one in made
    }


def counting(announcement: Announcement, *, blob: bytes, study: Study, rows: Rows) -> tuple[str, int, str]:
    """Return under what name a query counts, how many different ones of that name are answered, ever, and its form.

    An iterated analysis counts all queries of its kind about its columns together, of whatever study, against this study's cap;
    a fit is told no more numbers than it has values of these `rows`, which would be equations enough to solve for them. Any
    other analysis asks each form once a study, however often the study declares it.
    """
    if announcement.task != "query":
        return "", 0, ""
    asked, (position, _) = query.parse(blob), analyses.place(announcement.index)
    one = study.statistics.analyses[position]
    form = canonical.digest(
        {
            "study": study.hash(),
            "kernel": asked.kernel,
            "responses": sorted(asked.responses),
            "predictors": sorted(asked.predictors),
            "grids": {key: [edge.hex() for edge in edges] for key, edges in asked.numbers if key.startswith("grid.")},
            "sizes": {key: len(values) for key, values in asked.numbers},
        }
    )
    if not analyses.iterated(one):
        return f"{asked.kernel} {form}", 1, form
    columns = " ".join(sorted(column.name for column in study.asked(position).columns))
    most = analyses.queries_most(one)
    if asked.kernel in SOLVED_ALONE:
        most = min(most, max(1, rows.values.size // query.dimension(asked)))
    return f"{one.kind} of {columns}", most, form


def _apart(study: Study) -> list[Any]:
    """Return what an evaluation asks beside the scores: the definition of each subgroup, and whether hospitals stand apart."""
    groups = [[study.question(one.variable), list(one.cuts)] for one in study.evaluation.subgroups]
    return [*groups, study.evaluation.by_hospital, *study.evaluation.unseen]


def _functions(design: Sequence[Column]) -> tuple[str, ...]:
    return tuple(sorted({name for column in design for name in (column.name, *map(str, column.pieces))}))


def _counted(asked: Query) -> tuple[tuple[str, tuple[float, ...]], ...]:
    """Return the edges on which a query counts its responses; none of a kernel that shows no counts of cells."""
    numbers = dict(asked.numbers) if asked.kernel in {"table", "marginals", "cox"} else {}
    found = {name: numbers.get(f"grid.{at}") for at, name in enumerate(asked.responses)}
    return tuple(sorted((name, edges) for name, edges in found.items() if edges))


def _taken_once(asked: Query, question: Mapping[str, Any], *, bounds: Mapping[str, tuple[float, float]]) -> dict[str, bytes]:
    """Return what a query is told of which a hospital takes one, ever: each other one would be more equations.

    The variance between hospitals of one model of a meta-analysis: three more about hospitals' own estimates. Named by the
    columns in any order, without their bounds and the recipe: in other units it is another one as well, and a recipe can be
    another one that changes no value. The scores of ranks of variables on their grids: one more about each table of two.
    """
    if asked.kernel == "rank_gram":
        numbers = dict(asked.numbers)
        of = sorted((name, f"grid.{at}", f"score.{at}") for at, name in enumerate(asked.responses))
        ranked = {"taken once": "scores", "recipe": question["recipe"], "harmonised": question.get("harmonised", {})}
        ranked["of"] = [[name, [edge.hex() for edge in numbers[grid]]] for name, grid, _ in of]
        return {canonical.digest(ranked): canonical.encode([[at.hex() for at in numbers[score]] for _, _, score in of])}
    if asked.kernel != "meta_random":
        return {}
    named = {"responses": asked.responses, "predictors": sorted(asked.predictors)}
    told = {
        "bounds": {name: [low.hex(), high.hex()] for name, (low, high) in bounds.items()},
        "tau": {name: tau.hex() for name, tau in zip(asked.predictors, asked.array("tau").tolist(), strict=True)},
    }
    return {canonical.digest({"taken once": named}): canonical.encode(told)}


def _rows(values: NDArray[np.float64], *, design: Sequence[Column], study: Study) -> Rows:
    bounds = [study.bounds(column) for column in design]
    return Rows(
        names=tuple(column.name for column in design),
        values=values,
        lower=tuple(low for low, _ in bounds),
        upper=tuple(high for _, high in bounds),
    )


def _patients(cohort: Cohort, chosen: NDArray[np.bool_]) -> tuple[str, ...]:
    return tuple(patient for patient, kept in zip(cohort.patients, chosen.tolist(), strict=True) if kept)
