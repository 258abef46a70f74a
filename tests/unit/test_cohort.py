"""One row per patient: means over series, the clinical join by pseudonym, and every way in which a table can be wrong."""

import hashlib
from decimal import Decimal
from pathlib import Path

import numpy as np
import pytest

from client import cohort
from client.inside import Cohort, Measured, SetAside, View
from common.errors import ClinicalTableWrong, DataError
from common.recipe import Recipe
from common.study import Study
from common.training import Training
from common.variable import Variable

VARIABLES = (
    ("volume_mm3", "image", "0", "1000"),
    ("age", "clinical", "0", "120"),
    ("angle_deg", "image", "-90", "90"),
    ("sex", "clinical", "0", "1"),
)
STUDY = Study.model_construct(
    variables=tuple(
        Variable(name=n, source=s, unit="mm3" if n == "volume_mm3" else "1", lower=Decimal(low), upper=Decimal(high))  # type: ignore[arg-type]
        for n, s, low, high in VARIABLES
    ),
    recipe=Recipe.model_construct(patch_voxels=8, edge_channel=True),
    training=Training.model_construct(views_per_patient_max=2),
)
SECRET = "Doe^John^4711"


def pseudonym(kind: str, raw: str) -> str:
    return hashlib.sha256(f"{kind}/{raw}".encode()).hexdigest()


def measured(raw: str, series: str, **values: float) -> Measured:
    return Measured(patient=pseudonym("patient", raw), series=pseudonym("series", series), values=values)


def view(raw: str, level: float, *, side: int = 8) -> View:
    return View(patient=pseudonym("patient", raw), pixels=np.full((2, side, side), level, dtype=np.float32))


def join(tmp_path: Path, text: str | bytes, items: list[Measured], *, views: list[View] | None = None) -> Cohort:
    path = tmp_path / "clinical.csv"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    earlier = [SetAside(name="a/b.dcm", reason="NOT_DICOM")]
    return cohort.join(items, views or [], clinical=path, study=STUDY, pseudonym=pseudonym, set_aside=earlier)


def row(result: Cohort, raw: str) -> list[float]:
    return [float(v) for v in result.table[result.patients.index(pseudonym("patient", raw))]]


TABLE = "patient_id,age,sex,city\nP1,63,1,Ulm\nP2,51.5,0,Bonn\n"


def test_columns_are_all_variables_in_the_order_of_the_study(tmp_path: Path) -> None:
    result = join(tmp_path, TABLE, [measured("P1", "s", volume_mm3=10, angle_deg=-5)])
    assert result.columns == ("volume_mm3", "age", "angle_deg", "sex")
    assert row(result, "P1") == [10, 63, -5, 1]


def test_image_value_is_the_mean_over_the_patients_series(tmp_path: Path) -> None:
    items = [measured("P1", "s1", volume_mm3=10), measured("P1", "s2", volume_mm3=20), measured("P2", "s3", volume_mm3=7)]
    result = join(tmp_path, TABLE, items)
    assert row(result, "P1")[0] == 15
    assert row(result, "P2")[0] == 7


def test_series_given_twice_counts_once(tmp_path: Path) -> None:
    once = [measured("P1", "s1", volume_mm3=10), measured("P1", "s2", volume_mm3=20)]
    assert row(join(tmp_path, TABLE, [*once, once[1], once[1]]), "P1")[0] == 15


def test_result_does_not_depend_on_the_order_of_series_and_rows(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    items = [measured("P1", f"s{i}", volume_mm3=float(v)) for i, v in enumerate(rng.uniform(0, 1000, 50))]
    first = join(tmp_path, TABLE, items)
    second = join(tmp_path, "patient_id,age,sex\nP2,51.5,0\nP1,63,1\n", items[::-1])
    assert first.patients == second.patients
    assert np.array_equal(first.table, second.table, equal_nan=True)


def test_mean_of_values_at_a_bound_stays_within_it(tmp_path: Path) -> None:
    items = [measured("P1", f"s{i}", volume_mm3=1000.0) for i in range(49)]
    assert row(join(tmp_path, TABLE, items), "P1")[0] == 1000.0


def test_series_outside_the_bounds_is_left_out_and_not_clipped(tmp_path: Path) -> None:
    items = [measured("P1", "s1", volume_mm3=10), measured("P1", "s2", volume_mm3=1000.5)]
    assert row(join(tmp_path, TABLE, items), "P1")[0] == 10
    assert np.isnan(row(join(tmp_path, TABLE, items[1:]), "P1")[0])


@pytest.mark.parametrize(
    "text", ["", " ", "nan", "inf", "-1", "120.01", "1e9999", "1,5", "1_0", "sixty", "٦٣", "0x10", "=1+1", "9" * 5000, "6 3"]
)
def test_clinical_value_that_is_no_number_within_bounds_is_missing(tmp_path: Path, text: str) -> None:
    result = join(tmp_path, f'patient_id,age,sex\nP1,"{text}",1\n', [measured("P1", "s")])
    assert np.isnan(row(result, "P1")[1])
    assert row(result, "P1")[3] == 1


@pytest.mark.parametrize(
    ("text", "value"), [("63", 63), (" 63.50 ", 63.5), ("+6.3e1", 63), (".5", 0.5), ("120", 120), ("0", 0)]
)
def test_plain_decimal_numbers_are_read(tmp_path: Path, text: str, value: float) -> None:
    assert row(join(tmp_path, f"patient_id,age,sex\nP1,{text},1\n", [measured("P1", "s")]), "P1")[1] == value


def test_byte_order_mark_quotes_blank_lines_and_windows_ends_are_read(tmp_path: Path) -> None:
    text = b'\xef\xbb\xbf"patient_id", age ,sex\r\n\r\n" P1 ","63","1"\r\n'
    assert row(join(tmp_path, text, [measured("P1", "s")]), "P1")[1] == 63


def test_who_lacks_one_side_is_set_aside_with_a_reason_after_the_earlier_ones(tmp_path: Path) -> None:
    result = join(tmp_path, TABLE, [measured("P1", "s"), measured(SECRET, "t")])
    assert result.patients == (pseudonym("patient", "P1"),)
    assert [item.reason for item in result.set_aside] == ["NOT_DICOM", "NO_CLINICAL_ROW", "NO_SCANS"]
    assert [item.name for item in result.set_aside[1:]] == [pseudonym("patient", p)[:12] for p in (SECRET, "P2")]


def test_nobody_in_both_gives_an_empty_cohort(tmp_path: Path) -> None:
    result = join(tmp_path, TABLE, [])
    assert (result.patients, result.bags) == ((), ())
    assert result.table.shape == (0, 4)
    assert result.views.shape == (0, 2, 8, 8)


def test_bag_holds_the_first_views_of_its_patient_up_to_the_cap(tmp_path: Path) -> None:
    views = [view("P2", 1), view("P1", 2), view("P1", 3), view("P1", 4), view("nobody", 5)]
    result = join(tmp_path, TABLE, [measured("P1", "s")], views=views)
    levels = {p: [float(result.views[i].mean()) for i in bag] for p, bag in zip(result.patients, result.bags, strict=True)}
    assert levels == {pseudonym("patient", "P1"): [2, 3], pseudonym("patient", "P2"): [1]}
    assert result.views.shape == (3, 2, 8, 8)
    assert result.views.dtype == np.float32


def test_patient_with_measures_and_no_view_has_an_empty_bag(tmp_path: Path) -> None:
    assert join(tmp_path, TABLE, [measured("P1", "s", volume_mm3=1)]).bags == ((),)


def test_views_of_different_shapes_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="shapes"):
        join(tmp_path, TABLE, [], views=[view("P1", 1), view("P2", 1, side=9)])


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (b"", "empty"),
        (b" \n\n", "empty"),
        (b"patient_id,age,sex\n", "no rows"),
        (f"patient_id,age\n{SECRET},63\n", "no column sex"),
        (f"id,age,sex\n{SECRET},63,1\n", "no column patient_id"),
        (f"patient_id;age;sex\n{SECRET};63;1\n", "no column patient_id"),
        (f"patient_id,age,sex,age\n{SECRET},63,1,64\n", "more than one column age"),
        (f"patient_id,age,sex\nP1,63,1\n{SECRET},63\n", "row 3 has 2 cells"),
        (f"patient_id,age,sex\nP1,63,1\n,63,{SECRET}\n", "row 3 has no patient_id"),
        (f"patient_id,age,sex\n{SECRET},63,1\nP1,1,1\n {SECRET} ,63,1\n", "rows 2 and 4 are the same patient"),
        (f"patient_id,age,sex\n{SECRET},63,1\n".encode("utf-16"), "not UTF-8"),
        (f"patient_id,age,sex\nP\xe4,63,{SECRET}\n".encode("latin-1"), "not UTF-8"),
        (f'patient_id,age,sex\n"{SECRET}"x,63,1\n', "not CSV"),
        (f'patient_id,age,sex\n"{SECRET},63,1\n', "not CSV"),
        (f"patient_id,age,sex\n{SECRET},{'9' * 200_000},1\n", "not CSV"),
    ],
)
def test_wrong_table_is_refused_without_showing_a_value(tmp_path: Path, text: str | bytes, says: str) -> None:
    with pytest.raises(ClinicalTableWrong, match=says) as refused:
        join(tmp_path, text, [measured("P1", "s")])
    assert SECRET not in str(refused.value)
    assert refused.value.__cause__ is None


def test_missing_table_folder_and_huge_table_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for path in (tmp_path / "none.csv", tmp_path):
        with pytest.raises(ClinicalTableWrong, match="not a file"):
            cohort.join([], [], clinical=path, study=STUDY, pseudonym=pseudonym, set_aside=[])
    monkeypatch.setattr(cohort, "BYTES_MOST", 2**20)
    with pytest.raises(ClinicalTableWrong, match="larger than 1 MiB"):
        join(tmp_path, TABLE + "x" * 2**20, [])
