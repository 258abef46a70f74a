"""Claims about the rows that a hospital writes for itself: CSV and Parquet hold the same, private, never over anything."""

import csv
import json
import math
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

from client import rows, shelf
from client.config import Home
from client.inside import Cohort
from common.audit.show import printable
from common.errors import AlreadyExists, ConfigError
from tests.unit.test_hospital_cli import CHOICES, motet

ORIGIN = {
    "study": "ef" * 32,
    "recipe": "ab" * 32,
    "code": "cd" * 32,
    "version": "1",
    "levels": {"sex": ["f", "m"]},
    "units": {"mass_mg": "mg", "sex": "1", "albumin": "g/L"},
}
AWKWARD = (0.1 + 0.2, 5e-324, -0.0, 1.7976931348623157e308, math.pi, 123456789.123456789, math.nan, 1e-17)


def made() -> Cohort:
    table = np.array([AWKWARD, [0, 1] * 4, AWKWARD[::-1]], np.float64).T
    return Cohort(
        patients=tuple(f"pseudonym{at}" for at in range(8)),
        columns=("mass_mg", "sex", "albumin"),
        table=table,
        views=np.zeros((0, 1, 8, 8), np.float32),
        bags=((),) * 8,
    )


@pytest.fixture
def home(tmp_path: Path) -> Path:
    folder = tmp_path / "hosp"
    assert motet("init", "--home", folder, *CHOICES)[0] == 0
    return folder


def of_csv(path: Path) -> tuple[dict, list[str], list[list[str]]]:
    first, *rest = path.read_text().splitlines()
    header, *lines = csv.reader(rest)
    return json.loads(first.removeprefix("# ")), header, lines


def test_parquet_and_csv_hold_the_same_bits_and_the_same_provenance(tmp_path: Path) -> None:
    for name in ("table.csv", "table.parquet"):
        rows.write(tmp_path / name, made(), provenance=ORIGIN)
        assert (tmp_path / name).stat().st_mode & 0o777 == 0o600
    origin, header, lines = of_csv(tmp_path / "table.csv")
    read = parquet.read_table(tmp_path / "table.parquet")
    about = {name.decode(): json.loads(text) for name, text in read.schema.metadata.items()}
    assert about["provenance"] == origin == ORIGIN
    assert about["units"] == ORIGIN["units"]
    assert read.column_names == header == ["patient", "mass_mg", "sex", "albumin"]
    assert read.schema.types == [pa.string(), pa.float64(), pa.float64(), pa.float64()]
    assert read["patient"].to_pylist() == [line[0] for line in lines] == list(made().patients)
    for at, name in enumerate(header[1:]):
        told = [float(line[at + 1]).hex() if line[at + 1] else None for line in lines]
        wanted = [None if math.isnan(value) else value.hex() for value in made().table[:, at].tolist()]
        assert [None if value is None else value.hex() for value in read[name].to_pylist()] == told == wanted


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_a_variable_that_is_called_patient_does_not_hide_the_patients(tmp_path: Path, suffix: str) -> None:
    cohort = replace(made(), columns=("mass_mg", "patient", "albumin"))
    rows.write(tmp_path / f"table{suffix}", cohort, provenance=ORIGIN)
    header = (
        of_csv(tmp_path / "table.csv")[1] if suffix == ".csv" else parquet.read_table(tmp_path / "table.parquet").column_names
    )
    assert header == ["_patient", "mass_mg", "patient", "albumin"]


def test_a_cohort_that_an_older_version_kept_has_the_units_of_the_reference_alone(tmp_path: Path) -> None:
    rows.write(tmp_path / "table.parquet", made(), provenance={})
    metadata = parquet.read_schema(tmp_path / "table.parquet").metadata
    assert json.loads(metadata[b"units"]) == {"mass_mg": "mg"}
    assert json.loads(metadata[b"provenance"]) == {}


def test_the_command_writes_parquet_and_prints_no_row(home: Path, tmp_path: Path) -> None:
    Home(home).cohorts.mkdir(exist_ok=True)
    shelf.save(Home(home).cohorts / "0123456789abcdef.npz", made(), provenance=ORIGIN)
    target = tmp_path / "table.parquet"
    code, said = motet("parameters", "--home", home, "--table-to", target)
    assert code == 0
    assert "pseudonym" not in said
    assert target.stat().st_mode & 0o777 == 0o600
    assert parquet.read_table(target).num_rows == 8


@pytest.mark.parametrize("unit", ["\x1b[31mred\x1b]0;title\x07", "\\[/x]", "[bold]x", "[/]", "\\"])
def test_a_unit_that_a_study_declares_steers_no_terminal(home: Path, unit: str) -> None:
    Home(home).cohorts.mkdir(exist_ok=True)
    shelf.save(Home(home).cohorts / "0123456789abcdef.npz", made(), provenance={**ORIGIN, "units": {"albumin": unit}})
    code, said = motet("parameters", "--home", home)
    assert code == 0
    assert "\x1b" not in said
    assert "[" + printable(unit) + "]" in said


@pytest.mark.parametrize("name", ["table.xlsx", "table", ".parquet", "table.parquet.gz", "table.csv "])
def test_a_name_for_another_format_is_refused_before_anything_is_read(home: Path, tmp_path: Path, name: str) -> None:
    code, said = motet("parameters", "--home", home, "--table-to", tmp_path / name)
    assert code == ConfigError.exit_code
    assert "table.csv" in said
    assert not (tmp_path / name).exists()


def test_no_cohort_writes_no_file(home: Path, tmp_path: Path) -> None:
    code, said = motet("parameters", "--home", home, "--table-to", tmp_path / "table.parquet")
    assert code != 0
    assert "Nothing is measured yet" in said
    assert not (tmp_path / "table.parquet").exists()


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_nothing_that_is_there_is_written_over_or_followed(tmp_path: Path, suffix: str) -> None:
    file, folder, link, nowhere = (tmp_path / f"{name}{suffix}" for name in ("file", "folder", "link", "nowhere"))
    file.write_bytes(b"mine")
    folder.mkdir()
    link.symlink_to(file)
    nowhere.symlink_to(tmp_path / "absent")
    for path in (file, folder, link, nowhere):
        with pytest.raises(AlreadyExists):
            rows.write(path, made(), provenance=ORIGIN)
    assert file.read_bytes() == b"mine"
    assert not list(folder.iterdir())
    assert not (tmp_path / "absent").exists()


def test_a_folder_that_is_not_there_is_told(home: Path, tmp_path: Path) -> None:
    Home(home).cohorts.mkdir(exist_ok=True)
    shelf.save(Home(home).cohorts / "0123456789abcdef.npz", made(), provenance=ORIGIN)
    code, said = motet("parameters", "--home", home, "--table-to", tmp_path / "absent" / "table.parquet")
    assert code != 0
    assert "Traceback" not in said


def test_neither_the_vault_nor_the_relay_loads_the_writer_of_parquet() -> None:
    code = "import sys, client.serve, client.app, client.cli\nprint(*({'pyarrow', 'pandas'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == ""
