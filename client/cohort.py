"""Measured images, views and the clinical table become one row per patient, joined by pseudonym."""

import csv
import io
import itertools
import math
import re
import statistics
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from client import fhir
from client.inside import Cohort, Float32, Measured, SetAside, View
from common.errors import ClinicalTableWrong, DataError
from common.study import Study
from common.variable import Variable

PATIENT = "patient_id"
BYTES_MOST = 64 * 2**20
NUMBER = re.compile(r"[+-]?([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]{1,4})?", re.ASCII)
NO_CLINICAL_ROW, NO_SCANS = "NO_CLINICAL_ROW", "NO_SCANS"
UNKNOWN_LEVEL, NOT_A_NUMBER, OUT_OF_BOUNDS = "UNKNOWN_LEVEL", "NOT_A_NUMBER", "OUT_OF_BOUNDS"  # of a clinical cell

Row = Mapping[str, str]


def join(
    measured: Sequence[Measured],
    views: Sequence[View],
    *,
    clinical: Path,
    study: Study,
    pseudonym: Callable[[str, str], str],
    set_aside: Sequence[SetAside],
) -> Cohort:
    """Return the hospital's patients of `study`: who has a scan and a row in the clinical table.

    `pseudonym("patient", raw)` is the one that the images went through. Patients are sorted by pseudonym; columns are all
    the study's variables in its order. An image variable is the mean over the patient's series of the mean within each
    series. A bag holds a patient's first `views_per_patient_max` views, in the order given.

    | input | result |
    |---|---|
    | value missing, not a plain decimal number, or outside its declared bounds | nan (a series outside is left out) |
    | clinical variable with levels: a level's name, spelled as declared; anything else | its position; nan |
    | a clinical cell that is not empty and still nan | set aside under its variable's name, the patient stays |
    | `clinical` ends in .json | a FHIR bundle (client/fhir.py), what is doubtful in it set aside as well |
    | patient without a clinical row | set aside, NO_CLINICAL_ROW |
    | clinical row without a scan | set aside, NO_SCANS |
    | nobody has both | an empty cohort |
    | table missing, empty, over 64 MiB, not UTF-8, not CSV; a row too long or short | ClinicalTableWrong |
    | column missing or named twice; patient twice or without id | ClinicalTableWrong |
    | views of different shapes | DataError |

    No message holds a value: rows are named by their number in the file, the header being row 1.
    """
    images: dict[str, dict[str, list[Measured]]] = defaultdict(lambda: defaultdict(list))
    for item in measured:
        images[item.patient][item.series].append(item)
    bags: dict[str, list[View]] = defaultdict(list)
    for view in views:
        bags[view.patient].append(view)
    rows, doubtful = _clinical_rows(clinical, study=study, pseudonym=pseudonym)
    scanned = set(images) | set(bags)
    patients = tuple(sorted(scanned & set(rows)))

    table = np.full((len(patients), len(study.variables)), math.nan)
    for i, patient in enumerate(patients):
        for j, variable in enumerate(study.variables):
            if variable.source == "clinical":
                table[i, j] = _clinical_value(rows[patient][variable.name], variable)
            else:
                table[i, j] = _image_value(images[patient].values() if patient in images else (), variable)
    pixels, indices = _stack(
        [bags[p][: study.training.views_per_patient_max] if p in bags else [] for p in patients], study=study
    )
    return Cohort(
        patients=patients,
        columns=tuple(variable.name for variable in study.variables),
        table=table,
        views=pixels,
        bags=indices,
        set_aside=(
            *set_aside,
            *(SetAside(name=patient[:12], reason=NO_CLINICAL_ROW) for patient in sorted(scanned - set(rows))),
            *(SetAside(name=patient[:12], reason=NO_SCANS) for patient in sorted(set(rows) - scanned)),
            *doubtful,
            *_doubtful_cells([rows[patient] for patient in patients], study=study),
        ),
    )


def check_clinical(path: Path, *, study: Study) -> None:
    """Raise ClinicalTableWrong, as `join` would, when the table cannot be used."""
    _clinical_rows(path, study=study, pseudonym=lambda _kind, raw: raw)


def _clinical_rows(
    path: Path, *, study: Study, pseudonym: Callable[[str, str], str]
) -> tuple[dict[str, Row], tuple[SetAside, ...]]:
    """Return the clinical rows by pseudonym, only the study's columns, and what was doubtful before there were cells."""
    if path.suffix == ".json":
        bundle = fhir.read(_text(path), study=study, pseudonym=pseudonym)
        return dict(bundle.rows), bundle.doubtful
    wanted = [variable.name for variable in study.variables if variable.source == "clinical"]
    reader = csv.reader(io.StringIO(_text(path), newline=""), strict=True)
    try:
        header = [name.strip() for name in next(reader, [])]
        position = {name: _position(header, name) for name in (PATIENT, *wanted)}
        rows: dict[str, Row] = {}
        seen: dict[str, int] = {}
        for number, cells in enumerate(reader, start=2):
            if not cells:
                continue
            if len(cells) != len(header):
                raise _wrong(f"row {number} has {len(cells)} cells, the header has {len(header)}", "Mend that row.")
            raw = cells[position[PATIENT]].strip()
            if not raw:
                raise _wrong(f"row {number} has no {PATIENT}", "Fill it in, or remove the row.")
            patient = pseudonym("patient", raw)
            if patient in rows:
                raise _wrong(f"rows {seen[patient]} and {number} are the same patient", "Keep one row per patient.")
            rows[patient], seen[patient] = {name: cells[position[name]] for name in wanted}, number
    except csv.Error:
        raise _wrong(f"it is not CSV near line {reader.line_num}", "Export it again: commas, quotes doubled.") from None
    if not rows:
        raise _wrong("it has no rows", "Put one row per patient under the header.")
    return rows, ()


def _text(path: Path) -> str:
    """Return the table's text; a byte-order mark is dropped."""
    try:
        if not path.is_file():
            raise _wrong("it is not there, or not a file", "Check the path of the clinical table in site.toml.")
        with path.open("rb") as file:
            data = file.read(BYTES_MOST + 1)
    except OSError as error:
        raise _wrong(f"it cannot be read ({error.strerror})", "Check its path and permissions.") from None
    if len(data) > BYTES_MOST:
        raise _wrong(f"it is larger than {BYTES_MOST // 2**20} MiB", "Keep the columns that the study names.")
    if not data.strip():
        raise _wrong("it is empty", f"Export it with a header that has {PATIENT} and the study's columns.")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise _wrong("it is not UTF-8", "Save it as UTF-8.") from None


def _position(header: Sequence[str], name: str) -> int:
    if header.count(name) != 1:
        how = "no column" if name not in header else "more than one column"
        raise _wrong(f"it has {how} {name}", "The header names each column once, separated by commas.")
    return header.index(name)


def _number(text: str) -> float:
    """Return a plain decimal number; nan for anything else (also '1,5', '1_000', 'nan', other scripts' digits)."""
    text = text.strip()
    return float(text) if len(text) <= 64 and NUMBER.fullmatch(text) else math.nan


def _clinical_value(text: str, variable: Variable) -> float:
    """Return a cell's number within its bounds, or the position of its level, spelled as declared; nan for anything else."""
    if variable.levels:
        level = text.strip()
        return float(variable.levels.index(level)) if level in variable.levels else math.nan
    return _within(_number(text), variable)


def _doubtful_cells(rows: Sequence[Row], *, study: Study) -> Iterator[SetAside]:
    """Yield, under its variable's name, each cell that says something and still counts as missing."""
    for variable in (one for one in study.variables if one.source == "clinical"):
        for row in rows:
            text = row[variable.name].strip()
            if text and math.isnan(_clinical_value(text, variable)):
                outside = NOT_A_NUMBER if math.isnan(_number(text)) else OUT_OF_BOUNDS
                yield SetAside(name=variable.name, reason=UNKNOWN_LEVEL if variable.levels else outside)


def _within(value: float, variable: Variable) -> float:
    """Return `value`, or nan when it is outside its declared bounds: missing, never clipped."""
    return value if float(variable.lower) <= value <= float(variable.upper) else math.nan


def _image_value(series: Iterable[Sequence[Measured]], variable: Variable) -> float:
    """Return the mean over series of the mean within each series, of values within bounds; each mean exact, rounded once.

    Of a factor, the level that all series have.
    """
    if variable.levels:
        said = {item.values.get(variable.name, math.nan) for items in series for item in items}
        return _within(said.pop(), variable) if len(said) == 1 else math.nan
    means = []
    for items in series:
        kept = [v for v in (_within(item.values.get(variable.name, math.nan), variable) for item in items) if not math.isnan(v)]
        if kept:
            means.append(statistics.mean(kept))
    return statistics.mean(means) if means else math.nan


def _stack(bags: Sequence[Sequence[View]], *, study: Study) -> tuple[Float32, tuple[tuple[int, ...], ...]]:
    """Return the views one after another, (view, *view_shape) float32, and each patient's indices into them."""
    chosen = [view.pixels for bag in bags for view in bag]
    if len({pixels.shape for pixels in chosen}) > 1:
        raise DataError("The views have different shapes.", action="Prepare all of them with the study's recipe.")
    ends = np.cumsum([0, *(len(bag) for bag in bags)]).tolist()
    indices = tuple(tuple(range(start, end)) for start, end in itertools.pairwise(ends))
    empty = np.zeros((0, *study.recipe.view_shape), dtype=np.float32)
    return (np.stack(chosen).astype(np.float32, copy=False) if chosen else empty), indices


def _wrong(what: str, action: str) -> ClinicalTableWrong:
    return ClinicalTableWrong(f"The clinical table cannot be used: {what}.", action=action)
