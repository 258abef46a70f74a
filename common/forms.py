"""What a declared analysis may ask: its kernels, columns and grids, derived by both sides from the study alone.

A form has fixed numbers (grids) that a query must repeat, and free ones (coefficients, centres) that change between queries.
"""

import itertools
from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from fractions import Fraction
from typing import Protocol

from common import analyses, formula, query, terms
from common.analyses import Declared
from common.errors import ConfigError
from common.query import Query

EVENT = (-0.5, 0.5, 1.5)


class Variable(Protocol):
    """What the dictionary says of a variable."""

    @property
    def levels(self) -> tuple[str, ...]:
        """Return the declared levels; none for a number."""

    @property
    def transforms(self) -> tuple[str, ...]:
        """Return the transformations that the dictionary allows."""

    @property
    def lower(self) -> Decimal:
        """Return the lower bound."""

    @property
    def upper(self) -> Decimal:
        """Return the upper bound."""


Dictionary = Mapping[str, Variable]
Grids = Mapping[str, tuple[float, ...]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Form:
    """One kernel of an analysis: its columns, the numbers that are fixed, and how many there are of the free ones."""

    kernel: str
    responses: tuple[str, ...]
    predictors: tuple[str, ...] = ()
    fixed: Grids = field(default_factory=dict)
    free: Mapping[str, int] = field(default_factory=dict)

    def admits(self, asked: Query) -> bool:
        """Say whether a query is of this form: the same kernel, columns and grids, and so many free numbers."""
        numbers = dict(asked.numbers)
        return (
            (asked.kernel, asked.responses, asked.predictors) == (self.kernel, self.responses, self.predictors)
            and {key: numbers.get(key) for key in self.fixed} == dict(self.fixed)
            and {key: len(values) for key, values in numbers.items() if key not in self.fixed} == dict(self.free)
        )

    def example(self) -> Query:
        """Return a query of this form; raises BadQuery when no query can be: too many columns, bins or numbers."""
        rising = {key: tuple(float(at) for at in range(1, size + 1)) for key, size in self.free.items()}
        return query.ask(self.kernel, responses=self.responses, predictors=self.predictors, numbers={**self.fixed, **rising})


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """A declared analysis bound to the dictionary: every column that it reads, by role, and the forms of its queries.

    Only patients with a value in every column of the analysis enter any of its sums.
    """

    responses: tuple[terms.Column, ...]
    predictors: tuple[terms.Column, ...]
    forms: tuple[Form, ...]

    @property
    def columns(self) -> tuple[terms.Column, ...]:
        """Return all columns, each once."""
        return tuple(dict.fromkeys((*self.responses, *self.predictors)))

    @property
    def variables(self) -> frozenset[str]:
        """Return the variables of the dictionary behind the columns."""
        return frozenset(piece.variable for column in self.columns for piece in column.pieces)


def bind(one: Declared, *, dictionary: Dictionary) -> Asked:
    """Bind an analysis to the dictionary.

    Raises ConfigError: a variable that is not declared or named twice, levels where a number is needed or the reverse, an
    outcome or event that is not 0 or 1, a formula that does not fit; BadQuery when its queries would be too large.
    """
    asked = _bind(one, dictionary)
    for form in asked.forms:
        form.example()
    return asked


def bounds(column: terms.Column, *, dictionary: Dictionary) -> tuple[float, float]:
    """Return a column's least and greatest value by the dictionary."""
    return terms.bounds(column, of=lambda name: (float(dictionary[name].lower), float(dictionary[name].upper)))


def described(column: terms.Column, *, dictionary: Dictionary) -> query.Column:
    """Return a column with its bounds, as analyses take it."""
    low, high = bounds(column, dictionary=dictionary)
    return query.Column(name=column.name, lower=low, upper=high)


def edges(name: str, *, bins: int, dictionary: Dictionary) -> tuple[float, ...]:
    """Return the edges of equal bins over the declared bounds, each rounded once: the same on every machine."""
    low, high = Fraction(dictionary[name].lower), Fraction(dictionary[name].upper)
    found = tuple(float(low + (high - low) * at / bins) for at in range(bins + 1))
    if any(after <= before for before, after in itertools.pairwise(found)):
        raise _wrong(f"{name} has narrower bounds than {bins} bins need", "Ask for fewer bins.")
    return found


def level_edges(count: int) -> tuple[float, ...]:
    """Return the bins of the positions of `count` levels."""
    return tuple(at - 0.5 for at in range(count + 1))


def _bind(one: Declared, dictionary: Dictionary) -> Asked:  # noqa: PLR0911  (one branch a kind)
    if isinstance(one, analyses.Logistic):
        y, x = _model(one.formula, dictionary, outcome="binary")
        q = len(x) + 1
        free = {"coefficients": q}
        return _asked([y], x, [("logistic", free), ("firth", {**free, "inverse": query.triangle(q)})])
    if isinstance(one, analyses.Ordinal):
        y, x = _model(one.formula, dictionary, outcome="levels")
        levels = len(dictionary[y.name].levels)
        table = Form(kernel="table", responses=(y.name,), predictors=_names(x), fixed={"grid.0": level_edges(levels)})
        made = _asked([y], x, [("ordinal", {"coefficients": len(x), "thresholds": levels - 1})])
        return Asked(responses=made.responses, predictors=made.predictors, forms=(table, *made.forms))
    if isinstance(one, analyses.Mixed):
        y, x = _model(one.formula, dictionary, outcome="number")
        return _asked([y], x, [("mixed", {"ratio": 1})])
    if isinstance(one, analyses.Robust | analyses.Absorbed | analyses.Meta):
        return _linear(one, dictionary)
    if isinstance(one, analyses.Cox):
        return _cox(one, dictionary)
    if isinstance(one, analyses.KMeans):
        return _groups(one.variables, one.sizes, dictionary, mixture=False)
    if isinstance(one, analyses.Mixture):
        return _groups(one.variables, (one.components,), dictionary, mixture=True)
    if isinstance(one, analyses.Agreement):
        return _asked(_numbers(one.readers, dictionary), [], [("gram", {})])
    if isinstance(one, analyses.Combat):
        return _asked(_numbers(one.features, dictionary), _numbers(one.covariates, dictionary), [("within", {})])
    return _counted(one, dictionary)


def _counted(
    one: analyses.KaplanMeier | analyses.Roc | analyses.Ranks | analyses.Spearman | analyses.Quantiles, dictionary: Dictionary
) -> Asked:
    if isinstance(one, analyses.KaplanMeier):
        names = [*_number(one.time, dictionary), *_binary(one.event, dictionary)]
        fixed = {"grid.0": edges(one.time, bins=one.bins, dictionary=dictionary), "grid.1": EVENT}
        if one.group is not None:
            names += _factor(one.group, dictionary)
            fixed["grid.2"] = level_edges(len(dictionary[one.group].levels))
        return _table("table", names, fixed)
    if isinstance(one, analyses.Roc):
        names = [*_binary(one.outcome, dictionary), *_number(one.score, dictionary)]
        return _table("table", names, {"grid.0": EVENT, "grid.1": edges(one.score, bins=one.bins, dictionary=dictionary)})
    if isinstance(one, analyses.Ranks):
        names = [*_factor(one.group, dictionary), *_number(one.response, dictionary)]
        levels = level_edges(len(dictionary[one.group].levels))
        return _table("table", names, {"grid.0": levels, "grid.1": edges(one.response, bins=one.bins, dictionary=dictionary)})
    if isinstance(one, analyses.Quantiles):
        grid = edges(one.variable, bins=one.bins, dictionary=dictionary)
        return _table("marginals", _number(one.variable, dictionary), {"grid.0": grid})
    columns = _numbers(one.variables, dictionary)
    grids = {f"grid.{at}": edges(name, bins=one.bins, dictionary=dictionary) for at, name in enumerate(one.variables)}
    scores = {f"score.{at}": one.bins for at in range(len(columns))}
    names_ = _names(columns)
    return Asked(
        responses=tuple(columns),
        predictors=(),
        forms=(
            Form(kernel="marginals", responses=names_, fixed=grids),
            Form(kernel="rank_gram", responses=names_, fixed=grids, free=scores),
        ),
    )


def _linear(one: analyses.Robust | analyses.Absorbed | analyses.Meta, dictionary: Dictionary) -> Asked:
    y, x = _model(one.formula, dictionary, outcome="number")
    p = len(x)
    if isinstance(one, analyses.Absorbed):
        return _asked([y], x, [("absorbed", {})])
    if isinstance(one, analyses.Meta):
        shown = [("meta_rows", dict[str, int]())] if one.kind == "forest" else []
        return _asked([y], x, [("meta", {}), ("meta_random", {"tau": p}), *shown])
    fit = {"rows": 1, "mean": p, "scale": p, "basis": query.triangle(p), "slope": p, "outcome": 2}
    return _asked([y], x, [("exact_gram", {}), ("residuals", fit)])


def _cox(one: analyses.Cox, dictionary: Dictionary) -> Asked:
    time, x = _model(one.formula, dictionary, outcome="number")
    event = _binary(one.event, dictionary)
    if len(time.pieces) != 1 or time.pieces[0].transform:
        raise _wrong("the time of a Cox model is transformed", "Name it as it is.")
    if any(piece.variable in {one.event, time.name} for column in x for piece in column.pieces) or one.event == time.name:
        raise _wrong("the event or the time is among the terms", "Leave it out.")
    first = Form(kernel="gram", responses=_names(x))
    fixed: Grids = {}
    free = {"coefficients": len(x)}
    if one.bins is not None:
        fixed, free = {"grid.0": edges(time.name, bins=one.bins, dictionary=dictionary)}, {**free, "offset": 1}
    second = Form(
        kernel="cox" if fixed else "cox_stratified",
        responses=(time.name, one.event),
        predictors=_names(x),
        fixed=fixed,
        free=free,
    )
    return Asked(responses=(time, *event), predictors=tuple(x), forms=(first, second))


def _groups(names: tuple[str, ...], sizes: tuple[int, ...], dictionary: Dictionary, *, mixture: bool) -> Asked:
    columns = _numbers(names, dictionary)
    p = len(columns)
    scale = {"centre": p, "scale": p}
    kernels: list[tuple[str, dict[str, int]]] = [("gram", {})]
    kernels += [("lloyd", {**scale, "centres": k * p}) for k in dict.fromkeys(sizes)]
    if mixture:
        k = sizes[0]
        kernels.append(("mixture", {**scale, "weights": k, "means": k * p, "variances": k * p}))
    return _asked(columns, [], kernels)


def _asked(y: list[terms.Column], x: list[terms.Column], kernels: list[tuple[str, dict[str, int]]]) -> Asked:
    return Asked(
        responses=tuple(y),
        predictors=tuple(x),
        forms=tuple(Form(kernel=kernel, responses=_names(y), predictors=_names(x), free=free) for kernel, free in kernels),
    )


def _table(kernel: str, columns: list[terms.Column], fixed: Grids) -> Asked:
    names = _names(columns)
    if len(set(names)) != len(names):
        raise _wrong("a variable is named twice", "Name each once.")
    return Asked(responses=tuple(columns), predictors=(), forms=(Form(kernel=kernel, responses=names, fixed=fixed),))


def _model(text: str, dictionary: Dictionary, *, outcome: str) -> tuple[terms.Column, list[terms.Column]]:
    parsed = formula.parse(text)
    name = parsed.outcome.variable
    described: dict[str, terms.Described] = dict(dictionary)
    if outcome != "number":
        if parsed.outcome.transform:
            raise _wrong(f"the outcome {name} is transformed", "Name it as it is.")
        (_binary if outcome == "binary" else _factor)(name, dictionary)
        described[name] = _Plain()
    model = terms.expand(parsed, dictionary=described)
    return model.outcome, [column for term in model.terms for column in term.columns]


@dataclass(frozen=True, slots=True)
class _Plain:
    """A factor read as the positions of its levels."""

    levels: tuple[str, ...] = ()
    transforms: tuple[str, ...] = ()


def _known(name: str, dictionary: Dictionary) -> Variable:
    if name not in dictionary:
        raise _wrong(f"{name} is not among the variables", "Name variables of the dictionary only.")
    return dictionary[name]


def _column(name: str) -> list[terms.Column]:
    return [terms.column(terms.Piece(variable=name))]


def _number(name: str, dictionary: Dictionary) -> list[terms.Column]:
    if _known(name, dictionary).levels:
        raise _wrong(f"{name} has levels", "Name a number.")
    return _column(name)


def _numbers(names: tuple[str, ...], dictionary: Dictionary) -> list[terms.Column]:
    if len(set(names)) != len(names):
        raise _wrong("a variable is named twice", "Name each once.")
    return [column for name in names for column in _number(name, dictionary)]


def _factor(name: str, dictionary: Dictionary) -> list[terms.Column]:
    if not _known(name, dictionary).levels:
        raise _wrong(f"{name} has no levels", "Declare its levels in the dictionary.")
    return _column(name)


def _binary(name: str, dictionary: Dictionary) -> list[terms.Column]:
    known = _known(name, dictionary)
    if not (known.lower == 0 and known.upper == 1):
        raise _wrong(f"{name} is not 0 or 1", "Declare it with the bounds 0 and 1, or with two levels.")
    return _column(name)


def _names(columns: list[terms.Column]) -> tuple[str, ...]:
    return tuple(column.name for column in columns)


def _wrong(why: str, action: str) -> ConfigError:
    return ConfigError(f"An analysis cannot be made: {why}.", action=action)
