"""Claims about marked points: where the study lets them, a lesion is found from one, or its series is set aside by reason."""

from decimal import Decimal
from pathlib import Path

import pydicom
import pytest

from client import pipeline, points
from client.inside import Cohort
from common.errors import DataError
from common.recipe import Points
from common.study import Study
from tests import federation, phantoms

AT = (4.0, -3.0, 1.0)
HEADER = ",".join(points.COLUMNS)


def wanting(*, agreement_min: str = "0.8", reach_mm: int = 14) -> Study:
    plain = federation.study()
    how = Points(method="watershed", reach_mm=Decimal(reach_mm), agreement_min=Decimal(agreement_min))
    return plain.model_copy(update={"recipe": plain.recipe.model_copy(update={"points": how})})


@pytest.fixture(scope="module")
def scans(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder: Path = tmp_path_factory.mktemp("points")
    lesion = phantoms.Ellipsoid(semi_axes_mm=(9, 8, 7), centre_mm=AT)
    for patient, hu in (("P-1", 150.0), ("P-2", 0.0)):  # the second has nothing to be found
        image = phantoms.volume(lesion, shape=(36, 56, 56), body_radius_mm=26, noise_hu=10, lesion_hu=hu)
        phantoms.write_series(folder / "scans", patient_id=patient, voxels_hu=image.voxels, spacing_mm=image.spacing_mm)
    (folder / "clinical.csv").write_text("patient_id,malignancy\nP-1,3\nP-2,3\n")
    slices = [pydicom.dcmread(path, stop_before_pixels=True) for path in (folder / "scans").iterdir()]
    uids = {str(ds.PatientID): (ds.StudyInstanceUID, ds.SeriesInstanceUID) for ds in slices}
    rows = "".join(f"{study},{series},{AT[0]},{AT[1]},{AT[2]}\n" for study, series in uids.values())
    (folder / "points.csv").write_text(f"{HEADER}\n{rows}")
    return folder


def cohort(folder: Path, *, study: Study) -> Cohort:
    return pipeline.read_cohort(
        scans=folder / "scans",
        clinical=folder / "clinical.csv",
        study=study,
        pseudonym=lambda _, raw: raw,
        progress=lambda *_: None,
        points=points.read(folder / "points.csv", pseudonym=lambda _, raw: raw),
    )


def test_a_marked_lesion_is_measured_and_a_doubtful_one_is_set_aside(scans: Path) -> None:
    made = cohort(scans, study=wanting())
    assert made.patients == ("P-1",)
    longest = made.table[0, made.columns.index("longest_diameter_mm")]
    assert longest == pytest.approx(18, abs=1)
    reasons = {item.reason for item in made.set_aside} - {"NO_SCANS"}
    assert reasons <= {"METHODS_DISAGREE", "SEGMENTATION_LEAKED", "NOTHING_FOUND"}
    assert len(reasons) == 1


def test_a_box_marks_a_lesion_too(scans: Path) -> None:
    text = (scans / "points.csv").read_text().splitlines()
    box = [at + side for side in (-12, 12) for at in AT]
    rows = [",".join([*line.split(",")[:2], *map(str, box)]) for line in text[1:]]
    (scans / "boxes").mkdir()
    for name in ("scans", "clinical.csv"):
        (scans / "boxes" / name).symlink_to(scans / name)
    (scans / "boxes" / "points.csv").write_text("\n".join([",".join([HEADER, *points.OPPOSITE]), *rows]))
    made = cohort(scans / "boxes", study=wanting())
    assert made.patients == ("P-1",)
    assert made.table[0, made.columns.index("longest_diameter_mm")] == pytest.approx(18, abs=1)
    refused = cohort(scans / "boxes", study=wanting(reach_mm=11))
    assert {item.reason for item in refused.set_aside} == {"SEED_BOX", "NO_SCANS"}


def test_points_and_boxes_stand_in_one_table(tmp_path: Path) -> None:
    path = tmp_path / "points.csv"
    path.write_text(",".join([HEADER, *points.OPPOSITE]) + "\n1,2,3,4,5,,,\n1,3,3,4,5,6,7,8\n")
    assert points.read(path, pseudonym=lambda _, raw: raw) == {"1/2": (3, 4, 5), "1/3": (3, 4, 5, 6, 7, 8)}


def test_the_study_decides_whether_and_how_far_points_count(scans: Path) -> None:
    drawn_only = cohort(scans, study=federation.study())
    assert not drawn_only.patients
    assert {item.reason for item in drawn_only.set_aside} == {"NO_REGION", "NO_SCANS"}
    short = cohort(scans, study=wanting(reach_mm=5))
    assert not short.patients


@pytest.mark.parametrize(
    "text",
    [
        "study_uid,series_uid,left_mm\n1,2,3\n",
        f"{HEADER}\n1,2,3,4\n",
        f"{HEADER}\n1,2,3,4,5,6\n",
        f"{HEADER}\n1,2,SECRET,4,5\n",
        f"{HEADER},to_left_mm\n1,2,3,4,5,6\n",
        f"{HEADER},{','.join(points.OPPOSITE)}\n1,2,3,4,5,6,SECRET,8\n",
        f"{HEADER},{','.join(points.OPPOSITE)}\n1,2,3,4,5,6,,8\n",
        f"{HEADER}\n1,2,nan,4,5\n",
        f"{HEADER}\n1,2,3,4,5\n1,2,3,4,5\n",
        f'{HEADER}\n1,"2,3,4,5\n',
        "\udcff",
    ],
)
def test_a_table_that_is_wrong_is_refused_by_its_row_and_never_by_its_text(tmp_path: Path, text: str) -> None:
    path = tmp_path / "points.csv"
    path.write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(DataError) as refused:
        points.read(path, pseudonym=lambda _, raw: raw)
    assert "SECRET" not in str(refused.value)


def test_an_empty_table_has_no_points(tmp_path: Path) -> None:
    path = tmp_path / "points.csv"
    path.write_text(HEADER + "\n")
    assert points.read(path, pseudonym=lambda _, raw: raw) == {}
