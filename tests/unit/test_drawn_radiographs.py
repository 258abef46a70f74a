"""Claims about lesions drawn on radiographs: their sizes and texture are those of the shape that was drawn, in millimetres."""

import math
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest

from client import pipeline
from client.imaging.found import Reason
from client.imaging.guard import Guard
from client.imaging.scan import read_scans
from client.imaging.volume import Gate, assemble
from client.inside import Float32, Mask, Scan
from common import modality, parameters
from common.errors import ConfigError, GeometryRefused, NoScans
from common.study import Study
from tests import federation, phantoms
from tests.unit.test_modalities import as_cr, read

SIDE = (80, 120)
SPACING_MM = (0.5, 0.5)
SIZES = ("area_mm2", "longest_diameter_mm", "short_axis_mm", "major_axis_mm", "minor_axis_mm")
TEXTURE = ("glcm_contrast", "glrlm_run_percentage", "glszm_zone_percentage", "sd_z")


def study(*names: str) -> Study:
    wide = {"source": "image", "unit": "1", "lower": Decimal(-(10**6)), "upper": Decimal(10**6)}
    units = {"area_mm2": "mm2", "volume_mm3": "mm3"} | dict.fromkeys(SIZES[1:], "mm")
    image = [{**wide, "name": name, "unit": units.get(name, "1")} for name in names]
    return federation.study(
        variables=[*image, federation.STUDY["variables"][-1]],
        statistics={"correlation": [names[0], "malignancy"], "regression": {"outcome": "malignancy", "predictors": [names[0]]}},
        recipe={
            "modality": "CR",
            "spacing_mm": Decimal("0.5"),
            "denoise": "none",
            "window_lower": Decimal(-300),
            "window_upper": Decimal(300),
            "patch_voxels": 32,
        },
    )


def written(folder: Path, *, picture: Float32, region: Mask | None, patient: str = "P") -> Path | None:
    """Write a radiograph and the SEG that was drawn on it, which lies nowhere either."""
    (path,) = phantoms.write_series(
        folder / "scans", patient_id=patient, voxels_hu=picture[np.newaxis], spacing_mm=(1.0, *SPACING_MM)
    )
    as_cr(path, slope=1)
    if region is None:
        return None
    return phantoms.write_segmentation(folder / "scans" / "seg.dcm", slices=[pydicom.dcmread(path)], region=region[np.newaxis])


def measured(folder: Path, *names: str) -> dict[str, Any]:
    (folder / "clinical.csv").write_text("patient_id,malignancy\nP,1\n")
    cohort = read(folder, wanted=study(*names))
    return dict(zip(cohort.columns, cohort.table[0].tolist(), strict=True))


def test_an_ellipse_has_its_axes_and_its_area(tmp_path: Path) -> None:
    y, x = (np.indices(SIDE) + 0.5) * 0.5
    a = math.radians(30)
    across, up = x - 33.1, y - 20.2
    region = ((across * np.cos(a) + up * np.sin(a)) / 14) ** 2 + ((up * np.cos(a) - across * np.sin(a)) / 8) ** 2 <= 1
    picture = np.random.default_rng(1).integers(0, 200, SIDE).astype(np.float32)
    written(tmp_path, picture=picture, region=region)
    found = measured(tmp_path, *SIZES, "mean_z")
    assert found["area_mm2"] == pytest.approx(math.pi * 14 * 8, rel=0.01)
    assert found["longest_diameter_mm"] == pytest.approx(28, abs=0.5)
    assert found["short_axis_mm"] == pytest.approx(16, abs=0.5)
    assert (found["major_axis_mm"], found["minor_axis_mm"]) == (pytest.approx(28, abs=0.25), pytest.approx(16, abs=0.25))
    z = (picture - picture.mean()) / picture.std()
    assert found["mean_z"] == pytest.approx(z[region].mean(), abs=0.01)


def test_texture_is_that_of_the_plane(tmp_path: Path) -> None:
    rows, columns = 10, 14
    region = np.zeros(SIDE, np.bool_)
    region[20 : 20 + rows, 30 : 30 + columns] = True
    picture = np.zeros(SIDE, np.float32)
    picture[:, ::2] = 100  # stripes of one pixel: the least of 32 levels beside the greatest
    written(tmp_path, picture=picture, region=region)
    found = measured(tmp_path, *TEXTURE)
    unlike = rows * (columns - 1) + 2 * (rows - 1) * (columns - 1)
    assert found["glcm_contrast"] == pytest.approx(31**2 * unlike / (unlike + (rows - 1) * columns))
    assert found["glrlm_run_percentage"] == pytest.approx((columns + 3 * rows * columns) / (4 * rows * columns))
    assert found["glszm_zone_percentage"] == pytest.approx(columns / (rows * columns))
    assert found["sd_z"] == pytest.approx(1, abs=0.01)


def test_who_names_nothing_that_is_drawn_looks_at_the_whole_picture(tmp_path: Path) -> None:
    picture = np.random.default_rng(2).integers(0, 200, SIDE).astype(np.float32)
    region = np.zeros(SIDE, np.bool_)
    region[20:40, 30:50] = True
    for name, drawn in (("with", region), ("without", None)):
        written(tmp_path / name, picture=picture, region=drawn)
    made = [measured(tmp_path / name, "skewness", "p90_z") for name in ("with", "without")]
    assert made[0] == made[1]
    assert measured(tmp_path / "with", "skewness", "area_mm2")["skewness"] != made[0]["skewness"]
    cohort = read(tmp_path / "without", wanted=study("skewness", "area_mm2"))
    assert [one.reason for one in cohort.set_aside] == ["NO_REGION", "NO_SCANS"]
    assert not modality.whole(["skewness", "area_mm2"], modality="DX")
    assert not modality.whole(["skewness"], modality="MR")
    with pytest.raises(ConfigError, match=r"have no volume_mm3, gldzm_zone_percentage"):
        parameters.check(study("volume_mm3", "gldzm_zone_percentage"))


@pytest.mark.parametrize("reason", ["REGION_AT_BORDER", "REGION_TOO_SMALL", "EMPTY_REGION", Gate.REGION_OFF_GRID])
def test_what_was_drawn_wrong_is_set_aside(tmp_path: Path, reason: str) -> None:
    region = np.zeros(SIDE, np.bool_)
    region[{"REGION_AT_BORDER": (slice(0, 9), slice(9, 20))}.get(reason, (slice(20, 22), slice(30, 33)))] = True
    path = written(tmp_path, picture=np.indices(SIDE).sum(axis=0).astype(np.float32), region=region)
    ds = pydicom.dcmread(path)
    if reason == "EMPTY_REGION":
        ds.PixelData = bytes(len(ds.PixelData))
    if reason == Gate.REGION_OFF_GRID:
        ds.Rows, ds.Columns = ds.Columns, ds.Rows
    ds.save_as(path, enforce_file_format=True)
    (tmp_path / "clinical.csv").write_text("patient_id,malignancy\nP,1\n")
    cohort = read(tmp_path, wanted=study(*SIZES))
    assert [one.reason for one in cohort.set_aside] == [reason, "NO_SCANS"]


def test_a_drawing_belongs_to_the_radiograph_that_it_names(tmp_path: Path, guard: Guard) -> None:
    region = np.zeros(SIDE, np.bool_)
    region[20:40, 30:50] = True
    picture = np.random.default_rng(3).integers(0, 200, (2, *SIDE)).astype(np.float32)
    paths = phantoms.write_series(
        tmp_path, patient_id="P", voxels_hu=picture, spacing_mm=(1.0, *SPACING_MM)
    )  # two of one series
    for path in paths:
        as_cr(path, slope=1)
    phantoms.write_segmentation(tmp_path / "seg.dcm", slices=[pydicom.dcmread(paths[1])], region=region[np.newaxis])

    def scans() -> list[Any]:
        return list(read_scans(tmp_path, pseudonym=lambda _, raw: raw, reader=guard, modality="CR"))

    one, other = scans()
    assert isinstance(one, Scan)
    assert one.region_planes is None
    with pytest.raises(GeometryRefused, match="NO_REGION"):
        pipeline.locate(assemble(one, whole=False), whole=False)
    np.testing.assert_array_equal(assemble(other, whole=False).region, region[np.newaxis])
    np.testing.assert_array_equal(other.region_spacing_mm, SPACING_MM)
    ds = pydicom.dcmread(tmp_path / "seg.dcm")
    ds.FrameOfReferenceUID = "1.2.3"  # and no position in it
    ds.save_as(tmp_path / "seg.dcm", enforce_file_format=True)
    assert [one.reason for one in scans() if not isinstance(one, Scan)] == [Reason.NO_GEOMETRY]
    paths[0].unlink()
    paths[1].unlink()
    with pytest.raises(NoScans):
        scans()
