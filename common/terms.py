"""How a term becomes columns of the wide Gram: treatment coding of declared levels, products; known from the dictionary alone.

A column is a product of pieces: a variable, a transformed variable, or the indicator of one declared level. No state is
computed from data anywhere, so every hospital builds the same columns.
"""

import decimal
import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from typing_extensions import override

from common.errors import ConfigError
from common.formula import Atom, Formula

COLUMNS_MOST = 512
BOUND_BITS = 20  # a logarithm's bound is rounded outwards to this many binary digits: the same number on every machine
DIGITS = decimal.Context(prec=40)


class Described(Protocol):
    """What the dictionary says of a variable."""

    @property
    def levels(self) -> tuple[str, ...]:
        """Return the declared levels, the reference first; none for a number."""

    @property
    def transforms(self) -> tuple[str, ...]:
        """Return the transformations that the dictionary allows."""


Dictionary = Mapping[str, Described]


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class Piece:
    """One factor of a product."""

    variable: str
    transform: str = ""
    level: str = ""

    @override
    def __str__(self) -> str:
        """Return `age`, `log(age)` or `grade[g2]`."""
        return f"{self.variable}[{self.level}]" if self.level else str(Atom(variable=self.variable, transform=self.transform))


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """A column of the wide Gram: the product of its pieces, which are sorted, so that a:b and b:a are the same column."""

    pieces: tuple[Piece, ...]

    @property
    def name(self) -> str:
        """Return the name under which it travels."""
        return ":".join(map(str, self.pieces))


@dataclass(frozen=True, slots=True, kw_only=True)
class Term:
    """One term of a model: its columns are the products of non-reference levels and covariates."""

    name: str
    atoms: tuple[Atom, ...]
    factors: frozenset[str]  # which of its variables have levels
    columns: tuple[Column, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """A formula bound to a dictionary."""

    formula: str
    outcome: Column
    terms: tuple[Term, ...]
    levels: Mapping[str, tuple[str, ...]]  # of the factors in it

    @property
    def predictors(self) -> tuple[str, ...]:
        """Return the names of the columns of all terms, in the terms' order."""
        return tuple(column.name for term in self.terms for column in term.columns)

    @property
    def columns(self) -> tuple[Column, ...]:
        """Return the outcome's column and those of all terms."""
        return (self.outcome, *(column for term in self.terms for column in term.columns))


def column(*pieces: Piece) -> Column:
    """Return the product of `pieces`, in the one order of names."""
    return Column(pieces=tuple(sorted(pieces)))


def indicators(variable: str, *, levels: Sequence[str]) -> tuple[Column, ...]:
    """Return the indicator columns of a factor: all declared levels but the first, the reference."""
    return tuple(column(Piece(variable=variable, level=level)) for level in levels[1:])


def expand(formula: Formula, *, dictionary: Dictionary) -> Model:
    """Bind a formula to the dictionary.

    Raises ConfigError when a variable is not declared, a factor is the outcome or is transformed, a transformation is not
    declared, an interaction comes without its margins (a model must be hierarchical: the meaning of its other terms would
    depend on the coding), or more than 512 columns result.
    """
    for atom in {formula.outcome, *(atom for term in formula.terms for atom in term)}:
        _check(atom, dictionary=dictionary)
    if dictionary[formula.outcome.variable].levels:
        raise _wrong(f"the outcome {formula.outcome.variable} has levels", "Ask for an outcome that is a number.")
    present = {frozenset(term) for term in formula.terms}
    for term in formula.terms:
        for size in range(1, len(term)):
            for margin in itertools.combinations(term, size):
                if frozenset(margin) not in present:
                    name = ":".join(map(str, margin))
                    raise _wrong(f"it has an interaction without {name}", f"Add {name}, or write * in place of ':'.")
    terms = tuple(_term(term, dictionary=dictionary) for term in formula.terms)
    if sum(len(term.columns) for term in terms) > COLUMNS_MOST:
        raise _wrong(f"it needs more than {COLUMNS_MOST} columns", "Leave interactions of factors with many levels out.")
    return Model(
        formula=str(formula),
        outcome=column(_piece(formula.outcome)),
        terms=terms,
        levels={name: dictionary[name].levels for term in terms for name in term.factors},
    )


def bounds(wanted: Column, *, of: Callable[[str], tuple[float, float]]) -> tuple[float, float]:
    """Return the least and greatest value that a column can take, from the declared bounds `of` its variables.

    Guarantee: the same numbers on every machine; no value that `values` returns is outside.
    Raises ConfigError where a transformation is not defined on the whole of the declared bounds.
    """
    lower, upper = 1.0, 1.0
    for piece in wanted.pieces:
        low, high = (0.0, 1.0) if piece.level else _transformed_bounds(piece, bounds=of(piece.variable))
        ends = [a * b for a in (lower, upper) for b in (low, high)]
        lower, upper = min(ends), max(ends)
    return lower, upper


def values(
    wanted: Column,
    *,
    of: Callable[[str], NDArray[np.float64]],
    bounds_of: Callable[[str], tuple[float, float]],
    dictionary: Dictionary,
) -> NDArray[np.float64]:
    """Return the column over rows, shape (rows,); a missing value of any of its variables gives nan.

    `of` returns a variable's values; a factor's value is the position of its level, anything else in it is missing.
    Products are formed in the pieces' order, one rounding each; indicators multiply exactly. The last bit of a logarithm is
    that of the hospital's mathematical library; all else is the same on every machine.
    """
    result: NDArray[np.float64] | None = None
    for piece in wanted.pieces:
        raw = of(piece.variable)
        if piece.level:
            levels = dictionary[piece.variable].levels
            known = np.isin(raw, np.arange(len(levels)))
            made = np.where(known, (raw == levels.index(piece.level)).astype(np.float64), np.nan)
        else:
            made = _transformed(
                raw, transform=piece.transform, bounds=_transformed_bounds(piece, bounds=bounds_of(piece.variable))
            )
        result = made if result is None else result * made
    if result is None:
        raise TypeError("a column has at least one piece")
    return result


def _check(atom: Atom, *, dictionary: Dictionary) -> None:
    if atom.variable not in dictionary:
        raise _wrong(f"{atom.variable} is not among the variables", "Name variables of the dictionary only.")
    variable = dictionary[atom.variable]
    if atom.transform and variable.levels:
        raise _wrong(f"{atom.variable} has levels and cannot be transformed", "Name it as it is.")
    if atom.transform and atom.transform not in variable.transforms:
        raise _wrong(f"{atom} is not declared", f"Declare it in the transforms of {atom.variable}.")


def _term(atoms: tuple[Atom, ...], *, dictionary: Dictionary) -> Term:
    choices = [
        [Piece(variable=atom.variable, level=level) for level in levels[1:]]
        if (levels := dictionary[atom.variable].levels)
        else [_piece(atom)]
        for atom in atoms
    ]
    if math.prod(len(choice) for choice in choices) > COLUMNS_MOST:
        raise _wrong(f"a term needs more than {COLUMNS_MOST} columns", "Leave interactions of factors with many levels out.")
    return Term(
        name=":".join(map(str, atoms)),
        atoms=atoms,
        factors=frozenset(atom.variable for atom in atoms if dictionary[atom.variable].levels),
        columns=tuple(column(*pieces) for pieces in itertools.product(*choices)),
    )


def _piece(atom: Atom) -> Piece:
    return Piece(variable=atom.variable, transform=atom.transform)


def _transformed(raw: NDArray[np.float64], *, transform: str, bounds: tuple[float, float]) -> NDArray[np.float64]:
    match transform:
        case "":
            return raw
        case "log":
            made = np.log(raw, where=raw > 0, out=np.full(raw.shape, np.nan))
        case "log1p":
            made = np.log1p(raw, where=raw > -1, out=np.full(raw.shape, np.nan))
        case "sqrt":
            made = np.sqrt(raw, where=raw >= 0, out=np.full(raw.shape, np.nan))
        case "square":
            made = raw * raw
        case _:
            raise TypeError("not one of the transformations")
    outside = (made < bounds[0]) | (made > bounds[1])
    return np.where(outside, np.nan, made)


def _transformed_bounds(piece: Piece, *, bounds: tuple[float, float]) -> tuple[float, float]:
    low, high = bounds
    match piece.transform:
        case "":
            return low, high
        case "square":
            ends = low * low, high * high
            return (0.0 if low <= 0 <= high else min(ends)), max(ends)
        case "sqrt" if low >= 0:
            return math.sqrt(low), math.sqrt(high)
        case "log" if low > 0:
            return _logarithm(decimal.Decimal(low), up=False), _logarithm(decimal.Decimal(high), up=True)
        case "log1p" if low > -1:
            return _logarithm(DIGITS.add(1, decimal.Decimal(low)), up=False), _logarithm(
                DIGITS.add(1, decimal.Decimal(high)), up=True
            )
    raise _wrong(f"{piece} is not defined on the declared bounds", f"Declare narrower bounds of {piece.variable}.")


def _logarithm(value: decimal.Decimal, *, up: bool) -> float:
    """Return ln(value) rounded outwards, from correctly rounded decimal arithmetic: no machine's library enters."""
    steps = DIGITS.multiply(DIGITS.ln(value), decimal.Decimal(2**BOUND_BITS))
    whole = steps.to_integral_value(decimal.ROUND_FLOOR)
    return math.ldexp(int(whole) + (2 if up else -1), -BOUND_BITS)


def _wrong(why: str, action: str) -> ConfigError:
    return ConfigError(f"The model cannot be made: {why}.", action=action)
