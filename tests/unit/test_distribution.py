"""Claims about shown distributions: they count everybody, show no small cell, no patient's value and no row."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from client import distribution, shelf
from client.config import Home
from client.inside import Cohort
from tests.commands import HOSPITAL as CHOICES
from tests.commands import hospital as motet


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.one_of(st.just(math.nan), st.floats(-1e6, 1e6), st.integers(0, 3).map(float)), max_size=60),
    st.integers(2, 8),
)
def test_no_cell_is_small_and_nothing_that_is_hidden_follows_from_the_rest(values: list[float], cell_min: int) -> None:
    column = distribution.of(np.array(values, np.float64), cell_min=cell_min)
    there = [value for value in values if not math.isnan(value)]
    missing = len(values) - len(there)
    assert column.missing in {None, 0} or column.missing >= cell_min or column.missing == missing == len(values)
    if len(there) < cell_min:
        assert not column.cells
        return
    assert all(cell.patients is not None and cell.patients >= cell_min for cell in column.cells)
    assert column.cells[0].lower is None
    assert column.cells[-1].upper is None
    assert all(one.upper == other.lower for one, other in zip(column.cells, column.cells[1:], strict=False))
    assert any(cell.at_least for cell in column.cells) == (0 < missing < cell_min)
    for cell in column.cells:
        low = -math.inf if cell.lower is None else cell.lower
        high = math.inf if cell.upper is None else cell.upper
        inside = sum(low <= value < high for value in there)
        assert cell.patients == (inside // cell_min * cell_min if cell.at_least else inside)


def test_a_normal_column_looks_like_one() -> None:
    column = distribution.of(np.random.default_rng(0).normal(50, 10, 400), cell_min=5)
    counts = [cell.patients or 0 for cell in column.cells]
    assert 8 <= len(counts) <= 14
    assert sum(counts) == 400
    assert max(counts) in counts[3:-3]
    assert all(cell.upper is None or cell.upper % 5 == 0 for cell in column.cells)


def test_a_small_level_is_not_counted_and_does_not_follow() -> None:
    values = np.array([0.0] * 20 + [1.0] * 3 + [2.0] * 9)
    column = distribution.of(values, cell_min=5, levels=("no", "maybe", "yes", "unseen"))
    assert [(cell.level, cell.patients, cell.at_least) for cell in column.cells] == [
        ("no", 20, True),
        ("maybe", None, False),
        ("yes", 9, False),
        ("unseen", 0, False),
    ]


@pytest.fixture
def home(tmp_path: Path) -> Path:
    folder = tmp_path / "hosp"
    assert motet("init", "--home", folder, *CHOICES)[0] == 0
    return folder


def keep(folder: Path) -> Cohort:
    made = np.random.default_rng(1)
    table = np.stack([made.normal(20.123456, 4, 40), made.integers(0, 2, 40).astype(float)], axis=1)
    table[0, 0], table[1, 0] = math.nan, 987.654321
    cohort = Cohort(
        patients=tuple(f"pseudonym{at:02d}" for at in range(40)),
        columns=("mass_mg", "sex"),
        table=table,
        views=np.zeros((0, 1, 8, 8), np.float32),
        bags=((),) * 40,
    )
    Home(folder).cohorts.mkdir(exist_ok=True)
    origin = {"recipe": "ab" * 32, "code": "cd" * 32, "version": "1", "levels": {"sex": ["f", "m"]}}
    shelf.save(Home(folder).cohorts / "0123456789abcdef.npz", cohort, provenance=origin)
    return cohort


def test_the_command_shows_distributions_and_no_row(home: Path, tmp_path: Path) -> None:
    assert motet("parameters", "--home", home)[0] != 0  # nothing is measured yet
    cohort = keep(home)
    code, said = motet("parameters", "--home", home)
    assert code == 0
    assert "mass_mg" in said
    assert "too few" in said  # one missing value
    for hidden in ("pseudonym", "987", *(f"{value:.4f}" for value in cohort.table[2:, 0])):
        assert hidden not in said
    code, text = motet("parameters", "--home", home, "--json")
    (shown,) = json.loads(text)["cohorts"]
    assert shown["provenance"]["recipe"] == "ab" * 32
    mass, sex = shown["columns"]
    assert (mass["code"], mass["unit"], mass["missing"]) == ("99MOTET P26", "mg", None)
    assert sum(cell["patients"] for cell in sex["cells"]) == 40
    assert "pseudonym" not in text


def test_rows_are_written_only_where_they_are_asked_for_private_and_with_their_origin(home: Path, tmp_path: Path) -> None:
    cohort = keep(home)
    target = tmp_path / "table.csv"
    code, said = motet("parameters", "--home", home, "--table-to", target)
    assert code == 0
    assert "pseudonym" not in said
    assert target.stat().st_mode & 0o777 == 0o600
    first, header, *rows = target.read_text().splitlines()
    assert json.loads(first.removeprefix("# "))["code"] == "cd" * 32
    assert header == "patient,mass_mg,sex"
    assert len(rows) == 40
    assert rows[0].split(",")[1] == ""
    assert float(rows[1].split(",")[1]) == cohort.table[1, 0]
