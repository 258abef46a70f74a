"""Points that somebody marked in lesions, by series: where a study lets a region be found from one."""

import csv
import io
from collections.abc import Callable
from pathlib import Path
from typing import Final

import numpy as np

from common import files
from common.errors import DataError

COLUMNS: Final = ("study_uid", "series_uid", "left_mm", "posterior_mm", "superior_mm")
BYTES_MOST: Final = 16 << 20

Point = tuple[float, float, float]


def read(path: Path, *, pseudonym: Callable[[str, str], str]) -> dict[str, Point]:
    """Return the points, LPS mm, by the pseudonym of their series, as scan.py makes it.

    CSV, UTF-8, with the header of `COLUMNS` in any order, one point a series. Raises DataError, which names a row by its number
    and never by what it holds.
    """
    try:
        data = files.read(path)
        rows = list(csv.DictReader(io.StringIO(data[: BYTES_MOST + 1].decode("utf-8-sig"), newline=""), strict=True))
    except (UnicodeDecodeError, csv.Error):
        raise _wrong("it is not CSV in UTF-8") from None
    if len(data) > BYTES_MOST:
        raise _wrong("it is larger than 16 MiB")
    found: dict[str, Point] = {}
    for number, row in enumerate(rows, start=2):
        if set(row) != set(COLUMNS) or any(not isinstance(cell, str) for cell in row.values()):
            raise _wrong(f"the header is not {', '.join(COLUMNS)}, or row {number} has other cells than it")
        series = pseudonym("series", f"{row['study_uid'].strip()}/{row['series_uid'].strip()}")
        if series in found:
            raise _wrong(f"row {number} is of a series that has a point already")
        try:
            left, posterior, superior = (float(row[name]) for name in COLUMNS[2:])
        except ValueError:
            raise _wrong(f"row {number} has a position that is no number") from None
        if not np.isfinite([left, posterior, superior]).all():
            raise _wrong(f"row {number} has a position that is no number")
        found[series] = (left, posterior, superior)
    return found


def _wrong(what: str) -> DataError:
    return DataError(f"The table of points cannot be used: {what}.", action="Mend it, or take `points` out of site.toml.")
