"""motet-hospital parameters: how the measured parameters and clinical columns are distributed here; no row, no small cell."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from client.config import Home, read_site
from client.options import AsJson, Folder
from common.audit.show import printable
from common.codes import PARAMETERS
from common.errors import NotSetUp

if TYPE_CHECKING:
    from client.distribution import Cell, Distribution
    from client.inside import Cohort

_BAR = 16  # of a table that fits 80 columns
out = Console(highlight=False)


def parameters(
    home: Folder,
    table_to: Annotated[
        Path | None,
        typer.Option(
            "--table-to", help="Also write the newest table, one row a patient, to this new .csv or .parquet file, 0600."
        ),
    ] = None,
    as_json: AsJson = False,  # noqa: FBT002  (a flag)
) -> None:
    """Show the distribution of each measured column: no row, no patient's value, no cell below the policy's minimum.

    Edges of cells are round numbers, outer cells are open, and neighbours are put together until each has enough patients.
    """
    from client import rows, shelf  # noqa: PLC0415  (pulls numpy and the steps in)

    if table_to is not None:
        rows.refuse_other_names(table_to)
    made = Home(home)
    cell_min = read_site(made).policy.cell_min
    kept = sorted(made.cohorts.glob("*.npz"), key=lambda path: path.stat().st_mtime)
    if not kept:
        raise NotSetUp("Nothing is measured yet.", action="Approve a study and start `motet-hospital vault`.")
    if table_to is not None:
        rows.write(table_to, shelf.load(kept[-1]), provenance=shelf.provenance(kept[-1]))
    found = [(path.stem[:8], shelf.provenance(path), shelf.load(path)) for path in kept]
    if as_json:
        shown = [
            {"cohort": name, "provenance": origin, "columns": _columns(cohort, origin=origin, cell_min=cell_min)}
            for name, origin, cohort in found
        ]
        out.print_json(json.dumps({"cell_min": cell_min, "cohorts": shown}))
        return
    for name, origin, cohort in found:
        _show(name, origin, _columns(cohort, origin=origin, cell_min=cell_min))


def _columns(cohort: "Cohort", *, origin: dict[str, Any], cell_min: int) -> list[dict[str, Any]]:
    from client import distribution, rows  # noqa: PLC0415

    levels, units = origin.get("levels", {}), rows.units(cohort.columns, provenance=origin)
    made = []
    for at, name in enumerate(cohort.columns):
        column = distribution.of(cohort.table[:, at], cell_min=cell_min, levels=tuple(levels.get(name, ())))
        made.append(_typed(name, column, unit=units.get(name)))
    return made


def _typed(name: str, column: "Distribution", *, unit: str | None) -> dict[str, Any]:
    known = PARAMETERS.get(name)
    return {
        "name": name,
        "code": f"{known.scheme} {known.code}" if known else None,
        "unit": unit,
        "missing": column.missing,
        "cells": [
            {"patients": cell.patients, "at_least": cell.at_least, "cell": _said(cell), "from": cell.lower, "below": cell.upper}
            for cell in column.cells
        ],
    }


def _said(cell: "Cell") -> str:
    if cell.level is not None:
        return cell.level
    if cell.lower is None and cell.upper is None:
        return "all"
    if cell.lower is None:
        return f"< {cell.upper:g}"
    return f">= {cell.lower:g}" if cell.upper is None else f"{cell.lower:g} to < {cell.upper:g}"


def _show(name: str, origin: dict[str, Any], columns: list[dict[str, Any]]) -> None:
    said = ", ".join(f"{key} {str(origin[key])[:12]}" for key in ("study", "recipe", "code", "version") if key in origin)
    table = Table("column", "cell", "patients", "", title=f"cohort {name} ({said or 'of an older version'})", show_lines=False)
    for column in columns:
        first = escape(printable(column["name"] + (f" [{column['unit']}]" if column["unit"] not in {None, "1"} else "")))
        most = max((cell["patients"] or 0 for cell in column["cells"]), default=0)
        for cell in column["cells"]:
            count = "too few" if cell["patients"] is None else f"{'>= ' if cell['at_least'] else ''}{cell['patients']}"
            table.add_row(first, cell["cell"], count, "#" * round(_BAR * (cell["patients"] or 0) / max(1, most)))
            first = ""
        missing = "some, too few" if column["missing"] is None else str(column["missing"])
        if missing != "0" or not column["cells"]:
            table.add_row(first, "missing", missing if column["cells"] else "nearly all or all", "")
    out.print(table)
