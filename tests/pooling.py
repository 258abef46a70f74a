"""Drives an analysis as the coordinator would: a query's bytes to each hospital, integers back, added in the ring."""

from collections.abc import Sequence

import numpy as np

from client.kernels.answer import answer
from client.kernels.rows import Rows, Seat
from common import query
from common.crypto import ring
from common.query import Analysis, Column, Query, Result


def rows_of(table: dict[str, np.ndarray], *, margin: float = 0.25) -> Rows:
    """A table whose declared bounds are wider than its values."""
    values = np.column_stack([np.asarray(v, dtype=np.float64) for v in table.values()])
    low, high = np.nanmin(values, axis=0), np.nanmax(values, axis=0)
    reach = margin * (high - low) + 1e-3
    return Rows(names=tuple(table), values=values, lower=tuple((low - reach).tolist()), upper=tuple((high + reach).tolist()))


def table_of(table: dict[str, np.ndarray]) -> np.ndarray:
    """The columns side by side."""
    return np.column_stack(list(table.values()))


def column(rows: Rows, name: str) -> Column:
    at = rows.names.index(name)
    return Column(name=name, lower=rows.lower[at], upper=rows.upper[at])


def columns(rows: Rows, *names: str) -> tuple[Column, ...]:
    return tuple(column(rows, name) for name in names)


def split(rows: Rows, *, hospitals: int = 4, seed: int = 0) -> list[Rows]:
    """Patients dealt at random to hospitals of uneven size; one of them has none."""
    shares = np.append(np.random.default_rng(seed).dirichlet(np.ones(hospitals - 1)), 0.0)
    of = np.random.default_rng(seed + 1).choice(hospitals, size=len(rows.values), p=shares)
    return [rows.part(of == h) for h in range(hospitals)]


def drive(
    analysis: Analysis[Result],
    hospitals: Sequence[Rows],
    *,
    shows: Sequence[int] = (),
    counted: list[tuple[Query, int]] | None = None,
) -> Result:
    """Run `analysis` to its result; the hospitals at the positions `shows` show their own estimates.

    `counted` gets every query with the coefficients that the first hospital counts for it.
    """
    of = len(hospitals)
    seats = [Seat(at=at, of=of, honest=of, shows=at in shows) for at in range(of)]
    sums: list[int] | None = None
    while True:
        try:
            asked = next(analysis) if sums is None else analysis.send(sums)
        except StopIteration as end:
            return end.value
        received = query.parse(asked.bytes())
        assert received == asked
        given = [answer(rows, query=received, seat=seat) for rows, seat in zip(hospitals, seats, strict=True)]
        if counted is not None:
            counted.append((received, given[0].parameters))
        vectors = [ring.encode(one.values, bits=128) for one in given]
        total = ring.total(vectors, dimension=query.dimension(received), bits=128)
        sums = ring.decode(total, bits=128).tolist()
