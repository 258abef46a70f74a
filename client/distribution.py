"""A column of patients as a distribution that shows nobody: round edges, no cell below the policy's minimum."""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

CELLS = 10  # about; round edges decide


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """Patients from `lower` (None: from below) up to but not `upper` (None: and above), or of one `level`.

    `patients` is None where there are some, but too few to be counted. `at_least`: the number was rounded down, so that
    what is not shown elsewhere does not follow from it.
    """

    patients: int | None
    at_least: bool = False
    lower: float | None = None
    upper: float | None = None
    level: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Distribution:
    """The cells of one column, and how many patients have no value; None where they are some, but too few to be counted."""

    cells: tuple[Cell, ...]
    missing: int | None


def of(values: NDArray[np.float64], *, cell_min: int, levels: tuple[str, ...] = ()) -> Distribution:
    """Return the distribution of `values`, (patient,), nan where missing; of a factor by `levels`, values being positions.

    Edges are multiples of 1, 2 or 5 times a power of ten, the outer cells are open, and neighbours are put together until each
    cell has `cell_min` patients or none: no edge is a patient's value, and no minimum or maximum is told. A level with fewer
    stays and is not counted. Where anything is not counted, the fullest cell is rounded down to a multiple of `cell_min`. With
    fewer than `cell_min` values there are no cells.
    """
    there = values[~np.isnan(values)]
    missing = len(values) - len(there)
    hidden = 0 < missing < cell_min
    if len(there) < cell_min:
        return Distribution(cells=(), missing=None if len(there) > 0 or hidden else missing)
    cells = _levels(there, levels=levels, cell_min=cell_min) if levels else _merged(there, cell_min=cell_min)
    if hidden or any(cell.patients is None for cell in cells):
        fullest = max(range(len(cells)), key=lambda at: cells[at].patients or 0)
        full = cells[fullest]
        rounded = (full.patients or 0) // cell_min * cell_min
        cells[fullest] = Cell(patients=rounded, at_least=True, lower=full.lower, upper=full.upper, level=full.level)
    return Distribution(cells=tuple(cells), missing=None if hidden else missing)


def _levels(there: NDArray[np.float64], *, levels: tuple[str, ...], cell_min: int) -> list[Cell]:
    counts = [int(np.count_nonzero(there == at)) for at in range(len(levels))]
    return [
        Cell(patients=None if 0 < count < cell_min else count, level=level) for count, level in zip(counts, levels, strict=True)
    ]


def _merged(there: NDArray[np.float64], *, cell_min: int) -> list[Cell]:
    low, high = np.percentile(there, [10, 90]).tolist()
    step = _round_step((high - low) / CELLS) if high > low else _round_step(abs(low) / CELLS or 1.0)
    edges = [step * at for at in range(math.floor(low / step), math.ceil(high / step) + 1)]
    counts = np.histogram(there, [-math.inf, *edges, math.inf])[0].tolist()
    bounds: list[float | None] = [None, *edges, None]
    cells: list[Cell] = []
    waiting, start = 0, bounds[0]
    for at, count in enumerate(counts):
        waiting += count
        if waiting >= cell_min:
            cells.append(Cell(patients=waiting, lower=start, upper=bounds[at + 1]))
            waiting, start = 0, bounds[at + 1]
    if waiting or start is not None:  # what is left over belongs to the last cell, which is open above
        last = cells.pop()
        cells.append(Cell(patients=(last.patients or 0) + waiting, lower=last.lower, upper=None))
    return cells


def _round_step(wanted: float) -> float:
    """Return the least of 1, 2, 5 times a power of ten that is not below `wanted`."""
    power = 10.0 ** math.floor(math.log10(wanted))
    return next(step * power for step in (1.0, 2.0, 5.0, 10.0) if step * power >= wanted * (1 - 1e-9))
