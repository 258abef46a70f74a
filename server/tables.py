"""A table of results twice: cells of short numbers for the page, and every digit as CSV."""

import csv
import io
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

from server.figures import number

Table = dict[str, Any]

P_VALUES: Final = frozenset({"p", "p_bh", "p_holm", "p_tukey", "p_games_howell", "bias_p"})
HEADS: Final = {
    "difference": "second \u2212 first",
    "standard_error": "SE",
    "f": "F",
    "h": "H",
    "p_bh": "q",
    "p_holm": "p (Holm)",
    "p_tukey": "p (Tukey)",
    "p_games_howell": "p (Games-Howell)",
    "vif": "VIF",
    "sd": "SD",
    "eta_squared": "partial \u03b7\u00b2",
    "partial_eta_squared": "partial \u03b7\u00b2",
    "omega_squared": "partial \u03c9\u00b2",
    "i_squared": "I\u00b2",
    "tau_squared": "\u03c4\u00b2",
    "hedges_g": "Hedges\u2019 g",
}
INTERVAL: Final = "95 % interval"
STARS: Final = ((0.001, "***"), (0.01, "**"), (0.05, "*"))
ENDS: Final = ("_low", "_high")
COLUMNS_MOST: Final = 11  # of a table that fits a printed page
COLUMNS_OF_A_PART: Final = 6  # of one that does not, beside the columns that name a row
MARKED: Final = ("n", "missing", "untold_hospitals", "mechanism", "epsilon")  # what every row of a CSV says


def table(
    caption: str, columns: Sequence[str], rows: Sequence[Mapping[str, Any]], *, heads: Mapping[str, str] | None = None
) -> Table:
    """Return {"caption", "columns", "left", "rows", "csv"}: cells as text, and every digit under the columns' own names.

    A column NAME_low with NAME_high after it is one column of the page, "a to b". `heads`: what the page calls a column, where
    not as HEADS. `left`: whether a column is of text.
    """
    shown = [name for name in columns if not _ends(name, columns)[1]]
    return {
        "caption": caption,
        "columns": [_head(name, columns, heads or {}) for name in shown],
        "left": [any(isinstance(row.get(name), str) for row in rows) for name in shown],
        "rows": [[_shown(row, name, columns) for name in shown] for row in rows],
        "csv": _csv(columns, rows),
    }


def marked(made: Table, *, marks: Mapping[str, Any]) -> str:
    """Return a table's CSV with the columns MARKED in every row, unless it has them itself; nothing where it is not known."""
    lines = list(csv.reader(io.StringIO(made["csv"])))
    added = [name for name in MARKED if name not in lines[0]]
    told = [_value(marks.get(name)) for name in added]
    return _written([[*lines[0], *added], *([*line, *told] for line in lines[1:])])


def in_parts(tables: Sequence[Table]) -> list[Table]:
    """Return tables that fit a printed page: a wide one as several, each with the columns that name a row; without `csv`."""
    found = []
    for one in tables:
        columns, left = one["columns"], one["left"]
        if len(columns) <= COLUMNS_MOST:
            found.append(one)
            continue
        named = max(1, left.index(False) if False in left else 0)  # at the left, what names a row
        for at in range(named, len(columns), COLUMNS_OF_A_PART):
            shown = [*range(named), *range(at, min(at + COLUMNS_OF_A_PART, len(columns)))]
            ends = " to ".join(dict.fromkeys(columns[place] for place in (at, shown[-1])))
            part = {name: [one[name][place] for place in shown] for name in ("columns", "left")}
            rows = [[row[place] for place in shown] for row in one["rows"]]
            found.append({"caption": f"{one['caption']}: {ends}", **part, "rows": rows})
    return found


def cell(value: Any, *, p_value: bool = False) -> str:  # noqa: ANN401
    """Write a cell: text as it is, a whole number in full, another with four digits, a p-value with three, none as a dash."""
    if isinstance(value, str):
        return value
    found = number(value)
    if found is None:
        return "\u2013"
    if p_value:
        return "< 1e\u2212300" if found < 1e-300 else f"{found:.3g}".replace("-", "\u2212")  # the former underflowed
    return str(value) if isinstance(value, int) else f"{found:.4g}".replace("-", "\u2212")


def stars(q: Any) -> str:  # noqa: ANN401
    """Write the mark of an adjusted p-value; none where there is none, or it is not below 0.05."""
    found = number(q)
    return "" if found is None else next((mark for level, mark in STARS if found < level), "")


def interval(low: Any, high: Any) -> str:  # noqa: ANN401
    """Write an interval; a dash where it has no end."""
    ends = number(low), number(high)
    return "\u2013" if ends == (None, None) else f"{cell(low)} to {cell(high)}"


def _ends(name: str, columns: Sequence[str]) -> tuple[bool, bool]:
    """Say whether a column is the lower, or the upper end of an interval that the table holds whole."""
    base = re.sub(r"_(low|high)\Z", "", name)
    whole = base != name and all(base + end in columns for end in ENDS)
    return whole and name.endswith(ENDS[0]), whole and name.endswith(ENDS[1])


def _head(name: str, columns: Sequence[str], heads: Mapping[str, str]) -> str:
    if name in heads:
        return heads[name]
    if _ends(name, columns)[0]:
        return "95 % prediction" if name.startswith("prediction") else INTERVAL
    return HEADS.get(name, name.replace("_", " "))


def _shown(row: Mapping[str, Any], name: str, columns: Sequence[str]) -> str:
    if _ends(name, columns)[0]:
        return interval(row.get(name), row.get(f"{name.removesuffix(ENDS[0])}{ENDS[1]}"))
    return cell(row.get(name), p_value=name in P_VALUES)


def _csv(columns: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> str:
    return _written([list(map(_value, columns)), *([_value(row.get(column)) for column in columns] for row in rows)])


def _written(lines: Sequence[Sequence[str]]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(lines)
    return text.getvalue()


def _value(found: Any) -> str:  # noqa: ANN401
    """Write a value of a CSV; text that a spreadsheet would take for a formula gets an apostrophe."""
    if isinstance(found, str):
        return f"'{found}" if found[:1] in {"=", "+", "-", "@"} else found
    if isinstance(found, float):
        return repr(float(found)) if math.isfinite(found) else ""  # numpy's would name its type
    return "" if found is None else repr(found)
