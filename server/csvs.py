"""The report's tables as CSV files beside it: every digit, for whoever goes on computing."""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from common import files
from server import evaluation_sections, private_sections, tables
from server.sections import first_sections, sections
from server.told import told


def write(result: Mapping[str, Any], *, folder: Path) -> tuple[str, ...]:
    """Write all tables of `result` as folder/NN-title-caption.csv; return their names.

    The correlation, the regression, the models, the Gram with noise, the declared analyses, the evaluation. UTF-8, commas, one
    header row, numbers with all their digits, nothing where there is no number; each row ends with how many patients it is
    about and how many are left out, with the mechanism and its epsilon. The folder is made.
    """
    folder.mkdir(exist_ok=True)
    names: list[str] = []
    for section, marks in _all(result):
        for table in section["tables"]:
            name = f"{len(names) + 1:02d}-{_plain(section['title'], 40)}-{_plain(table['caption'], 40)}.csv"
            files.write(folder / name, tables.marked(table, marks=marks).encode())
            names.append(name)
    return tuple(names)


def _all(result: Mapping[str, Any]) -> Iterator[tuple[Mapping[str, Any], Mapping[str, Any]]]:
    """Return every section with tables, and what each of its rows says."""
    private, out = result.get("private_gram") or {}, result.get("left_out") or {}
    left = {"missing": out.get("patients"), "untold_hospitals": out.get("untold")}
    exact = {"n": result.get("patients"), **left, "mechanism": "none", "epsilon": "infinite"}
    for section in (*first_sections(result), *sections(result.get("linear"))):
        yield section, exact
    noise = private.get("noise") or {}
    for section in private_sections.sections(private):
        yield section, {"n": private.get("patients"), "mechanism": noise.get("mechanism"), "epsilon": noise.get("epsilon")}
    for section in told(result.get("analyses") or ()):
        yield section, section["marks"]
    for section in evaluation_sections.sections(result.get("training")):
        yield section, evaluation_sections.marks(result["training"])


def _plain(text: str, most: int) -> str:
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")[:most].strip("-")
