"""Points or boxes that somebody marked in lesions, by series: where a study lets a region be found from one."""

import csv
import io
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

import numpy as np

from common import files
from common.errors import DataError

SERIES: Final = ("study_uid", "series_uid")
CORNER: Final = ("left_mm", "posterior_mm", "superior_mm")
OPPOSITE: Final = tuple(f"to_{name}" for name in CORNER)
COLUMNS: Final = (*SERIES, *CORNER)
BYTES_MOST: Final = 16 << 20

Point = tuple[float, ...]  # LPS mm: three numbers; of a box six, two opposite corners


def read(path: Path, *, pseudonym: Callable[[str, str], str]) -> dict[str, Point]:
    """Return the points and boxes by the pseudonym of their series, as scan.py makes it.

    CSV, UTF-8, with the header of `COLUMNS` in any order, one row a series. A box has the opposite corner in the columns of
    `OPPOSITE` too, which a table of points alone does without, and a point leaves empty. Raises DataError, which names a row by
    its number and never by what it holds; ConfigError where it cannot be read or is larger than 16 MiB.
    """
    data = files.read(path, most_bytes=BYTES_MOST)
    try:
        rows = list(csv.DictReader(io.StringIO(data.decode("utf-8-sig"), newline=""), strict=True))
    except (UnicodeDecodeError, csv.Error):
        raise _wrong("it is not CSV in UTF-8") from None
    found: dict[str, Point] = {}
    for number, row in enumerate(rows, start=2):
        if set(row) not in ({*COLUMNS}, {*COLUMNS, *OPPOSITE}) or any(not isinstance(cell, str) for cell in row.values()):
            raise _wrong(f"the header is not {', '.join(COLUMNS)}, or row {number} has other cells than it")
        series = pseudonym("series", f"{row['study_uid'].strip()}/{row['series_uid'].strip()}")
        if series in found:
            raise _wrong(f"row {number} is of a series that has a mark already")
        found[series] = _mark(row, number=number)
    return found


def _mark(row: Mapping[str, str], *, number: int) -> Point:
    box = any(row.get(name, "").strip() for name in OPPOSITE)
    try:
        mark = tuple(float(row[name]) for name in (*CORNER, *OPPOSITE)[: 6 if box else 3])
    except ValueError:
        raise _wrong(f"row {number} has a position that is no number") from None
    if not np.isfinite(mark).all():
        raise _wrong(f"row {number} has a position that is no number")
    return mark


def _wrong(what: str) -> DataError:
    return DataError(f"The table of points cannot be used: {what}.", action="Mend it, or take `points` out of site.toml.")
