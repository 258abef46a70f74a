"""What two exact sums over shared variables tell together: of the patients in one of them only, and between two grids.

Subtract them: what is left is a sum over the patients who are in one only, or, of counts on two grids over the same patients, a
count of those between two edges; or, of products with a column that both have, its product with a combination of others. Each
is held to what a sum by itself is held to.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from client import columns, disclosure, released
from client.config import Policy
from client.inside import Cohort, Float, Mask
from client.kernels.histogram import bins_of
from client.released import Released
from client.weights import few
from common import terms
from common.study import Study

Pair = tuple[tuple[float, ...], tuple[float, ...]]

FULL = 10  # patients for each column, of which all combinations of several sums are judged: of fewer, many have leverage
SEPARATE = frozenset({"marginals"})  # counts variables one by one; others count them together


@dataclass(frozen=True, slots=True, kw_only=True)
class Judge:
    """What judges sums of `study`, for client/released.py: `cohort` as the sum of now sees it, `whole` as it was measured.

    `others` are further studies that this hospital keeps, as measured: of them are columns that only earlier sums had.
    Raises TooFewPatients where the sums may not be had together.
    """

    policy: Policy
    study: Study
    cohort: Cohort
    whole: Cohort
    secret: bytes
    others: tuple[tuple[Study, Cohort], ...] = ()

    def pair(self, earlier: Released, now: Released, apart: frozenset[str]) -> None:
        """Refuse a sum beside an earlier one that shares variables; `apart`: tags of the patients who are in one only.

        Refused: patients apart of whom a shared variable is not known here; products of shared variables over them that
        check_group refuses, or where one sum only counts, small cells of two-valued ones; small cells of the grid of all
        edges: of those apart, and of all patients where the grids are two.
        """
        tags = [released.tag(patient, self.secret) for patient in self.cohort.patients] if apart else []
        if not apart <= set(tags):
            raise few("patients of an earlier sum over shared variables are not in the cohort any more")
        values = {name: self._values(name) for name in sorted(earlier.variables & now.variables)}
        grids = {name: (dict(earlier.grids)[name], edges) for name, edges in now.grids if name in dict(earlier.grids)}
        together = not SEPARATE & {earlier.kernel, now.kernel}
        if apart:
            one_only = np.array([tag in apart for tag in tags], dtype=bool)
            apart_values = {name: value[one_only] for name, value in values.items()}
            shared = _named(frozenset(earlier.functions) & frozenset(now.functions), study=self.study)
            made = columns.table(self.whole, columns=shared, study=self.study)[one_only]
            more = {one.name: made[:, at] for at, one in enumerate(shared) if len(one.pieces) > 1 or one.pieces[0].transform}
            self._check_group(apart_values, {earlier.kernel, now.kernel}, more=more)
            self._check_cells(values, grids, of=one_only, together=together)
        if any(first != second for first, second in grids.values()):
            self._check_cells(values, grids, of=self._complete(now.variables), together=together)

    def span(self, now: Released, functions: frozenset[str]) -> None:
        """Refuse products of `functions` of variables, had in several sums, whose combination is a few patients' indicator.

        Two sums that share a column give its products with any combination of the columns beside it. Judged together are the
        functions of few values, those of one variable, every two, and where there are FULL times as many patients all of them,
        over the patients who have them all; functions that no study makes which this hospital keeps are not known here.
        """
        named, table = self._known(functions)
        table = table[self._complete(now.variables)]
        table = table[columns.complete(table)]
        rare = [len(np.unique(column)) <= disclosure.LEVELS_MOST for column in table.T]
        full = [len(table) >= FULL * (len(named) + 1)] * len(named)
        sets = [[{piece.variable for piece in column.pieces} == {variable} for column in named] for variable in now.variables]
        for chosen in (rare, full, *sets):
            if sum(chosen) > 1 and len(table):
                disclosure.check_span(self.policy, values=table[:, np.array(chosen)])
        for chosen in (one for one in sets if sum(one) > 1 and len(table)):
            names = tuple(column.name for column, kept in zip(named, chosen, strict=True) if kept)
            disclosure.check_counts(self.policy, values=table[:, np.array(chosen)], names=names)
        disclosure.check_alike(self.policy, values=table)

    def _known(self, functions: frozenset[str]) -> tuple[list[terms.Column], Float]:
        """Return the columns that this study or another one here makes, and their values for the patients of `whole`."""
        place = {patient: at for at, patient in enumerate(self.whole.patients)}
        named: list[terms.Column] = []
        tables: list[Float] = []
        for study, held in ((self.study, self.whole), *self.others):
            found = _named(functions - {column.name for column in named}, study=study)
            there = [at for at, patient in enumerate(held.patients) if patient in place] if found else []
            table = np.full((len(place), len(found)), np.nan)
            if there:
                here = [place[held.patients[at]] for at in there]
                table[here] = columns.table(held, columns=found, study=study)[there]
            named += found
            tables.append(table)
        return named, np.concatenate(tables, axis=1)

    def _complete(self, variables: frozenset[str]) -> Mask:
        held = self.cohort.table[:, [self.cohort.columns.index(name) for name in sorted(variables)]]
        return columns.complete(held)

    def _values(self, name: str) -> Float:
        """Return a variable of all patients, as it is summed now where it has a value there, else as it was measured."""
        now, measured = (held.table[:, held.columns.index(name)] for held in (self.cohort, self.whole))
        return np.where(np.isnan(now), measured, now)

    def _check_group(self, values: Mapping[str, Float], kernels: set[str], *, more: Mapping[str, Float]) -> None:
        dictionary = self.study.dictionary()
        made = dict(more)
        for name, value in values.items():
            levels = dictionary[name].levels
            made |= {f"{name}[{level}]": np.where(value == at, 1.0, value * 0) for at, level in enumerate(levels) if at}
            made |= {} if levels else {name: value}
        group = np.column_stack(list(made.values()))
        if np.isnan(group).any():
            raise few("of patients in one of two sums a shared variable is not known")
        check = disclosure.check_cells if kernels & disclosure.COUNTS_ONLY else disclosure.check_group
        check(self.policy, values=group, names=tuple(made))

    def _check_cells(self, values: Mapping[str, Float], grids: Mapping[str, Pair], *, of: Mask, together: bool) -> None:
        bins = [bins_of(values[name][of], edges=_merged(*pair)) for name, pair in grids.items()]
        for cells in [np.stack(bins, axis=1)] if together and bins else [one[:, None] for one in bins]:
            if bool(np.any(np.unique(cells, axis=0, return_counts=True)[1] < self.policy.cell_min)):
                raise few("between the cells of two sums there is a small one")


def _named(functions: frozenset[str], *, study: Study) -> list[terms.Column]:
    """Return those of the columns that `study` can make; a name is that of a column, its pieces between colons."""
    known = {str(piece): piece for piece in _pieces(study)}
    pieces = {name: [known.get(piece) for piece in name.split(":")] for name in sorted(functions)}
    return [terms.column(*(piece for piece in made if piece)) for made in pieces.values() if all(made)]


def _pieces(study: Study) -> Iterator[terms.Piece]:
    for one in study.variables:
        yield terms.Piece(variable=one.name)
        yield from (terms.Piece(variable=one.name, transform=transform) for transform in one.transforms)
        yield from (terms.Piece(variable=one.name, level=level) for level in one.levels)


def _merged(first: tuple[float, ...], second: tuple[float, ...]) -> NDArray[np.float64]:
    """Return all edges of two grids, rising; the last of each is closed, so the cell ends behind it."""
    ends = [np.nextafter(edges[-1], np.inf) for edges in (first, second)]
    result: NDArray[np.float64] = np.unique(np.array([*first[:-1], *second[:-1], *ends]))
    return result
