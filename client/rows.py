"""The rows of a kept cohort in a new file of the hospital's own, as CSV or Parquet: pseudonyms, never identifiers."""

import csv
import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from common import files
from common.codes import PARAMETERS
from common.errors import ConfigError

if TYPE_CHECKING:
    from client.inside import Cohort


def refuse_other_names(path: Path) -> None:
    """Raise ConfigError where the name says neither CSV nor Parquet."""
    if path.suffix not in {".csv", ".parquet"}:
        raise ConfigError(
            f"{path.name} ends neither in .csv nor in .parquet.",
            action="Name the file for the format that you want, as in table.csv.",
        )


def write(path: Path, cohort: "Cohort", *, provenance: Mapping[str, Any]) -> None:
    """Write one row a patient, 0600, in the format that the name says: float64 as measured, factors as positions of levels.

    The first column is `patient`, or `_patient` where the study has a variable of that name. What is missing is empty in CSV
    and null in Parquet. CSV has the provenance in its first line; Parquet has it as JSON in the schema's metadata under
    `provenance`, and under `units` each column's unit.
    Raises AlreadyExists, and changes nothing, where anything is there; ConfigError for another name.
    """
    refuse_other_names(path)
    made = _parquet(cohort, provenance=provenance) if path.suffix == ".parquet" else _csv(cohort, provenance=provenance)
    files.write_new(path, made, private=True)


def units(columns: tuple[str, ...], *, provenance: Mapping[str, Any]) -> dict[str, str]:
    """Return the unit of each column that has one: as the study declares it, else as the reference does."""
    declared = provenance.get("units", {})
    of_reference = {name: PARAMETERS[name].unit for name in columns if name in PARAMETERS}
    return {**of_reference, **{name: declared[name] for name in columns if name in declared}}


def _names(cohort: "Cohort") -> list[str]:
    """Return the columns' names, each once: no variable's begins with an underscore."""
    return ["_patient" if "patient" in cohort.columns else "patient", *cohort.columns]


def _csv(cohort: "Cohort", *, provenance: Mapping[str, Any]) -> bytes:
    text = io.StringIO()
    text.write(f"# {json.dumps(provenance, sort_keys=True)}\n")
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow(_names(cohort))
    for patient, values in zip(cohort.patients, cohort.table.tolist(), strict=True):
        rows.writerow([patient, *("" if value != value else repr(value) for value in values)])  # noqa: PLR0124  (nan)
    return text.getvalue().encode()


def _parquet(cohort: "Cohort", *, provenance: Mapping[str, Any]) -> bytes:
    import pyarrow as pa  # noqa: PLC0415  (heavy, and only here)
    from pyarrow import parquet  # noqa: PLC0415

    about = {"provenance": provenance, "units": units(cohort.columns, provenance=provenance)}
    columns = [pa.array(cohort.patients, pa.string())]
    columns += [pa.array(column, pa.float64(), from_pandas=True) for column in cohort.table.T]  # from_pandas: nan is null
    table = pa.Table.from_arrays(
        columns,
        names=_names(cohort),
        metadata={name: json.dumps(said, sort_keys=True) for name, said in about.items()},
    )
    buffer = io.BytesIO()
    parquet.write_table(table, buffer)
    return buffer.getvalue()
