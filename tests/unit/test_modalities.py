"""Claims about studies of MR and of radiographs: whole runs on DICOM files, whatever the scanner's scale, CT aside."""

import csv
import math
from collections import Counter
from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from pydantic import ValidationError
from pydicom.uid import ComputedRadiographyImageStorage, MRImageStorage

from client import pipeline, pseudonym, quarantine
from client.imaging.found import Reason
from client.imaging.guard import Guard
from client.imaging.normalise import normalise
from client.imaging.prepare import prepare
from client.imaging.scan import read_scans
from client.imaging.tensor import to_tensor
from client.imaging.volume import assemble
from client.inside import Cohort, Scan, SetAside, Volume
from client.measure import relative
from client.measure.texture import levels
from client.quarantine import Quarantine
from common import parameters
from common.errors import ConfigError, GeometryRefused, NoScans
from common.recipe import Filters, Points
from common.study import Study
from tests import federation, phantoms, tables
from tests.commands import HOSPITAL as CHOICES
from tests.commands import hospital as motet
from tests.unit.test_prepare import recipe

PATIENTS = 8
ONE = Decimal(1)
MEASURED = {
    "MR": [("mean_z", "1", 64), ("sd_z", "1", 64), ("longest_diameter_mm", "mm", 128), ("glcm_contrast", "1", 1024)],
    "CR": [("skewness", "1", 64), ("p90_z", "1", 64), ("kvp", "kV", 1000)],
}


def study(kind: str, **recipe: Any) -> Study:
    """The phantom study, of another modality and what that has."""
    image = [
        {"name": name, "source": "image", "unit": unit, "lower": Decimal(-most), "upper": Decimal(most)}
        for name, unit, most in MEASURED[kind]
    ]
    names = [one["name"] for one in image]
    return federation.study(
        variables=[*image, federation.STUDY["variables"][-1]],
        statistics={
            "correlation": [*names[:2], "malignancy"],
            "regression": {"outcome": "malignancy", "predictors": names[:1]},
        },
        recipe={"modality": kind, "window_lower": Decimal(-300), "window_upper": Decimal(300), "patch_voxels": 32} | recipe,
    )


def as_mr(path: Path, *, slope: int) -> None:
    ds = pydicom.dcmread(path)
    ds.SOPClassUID = ds.file_meta.MediaStorageSOPClassUID = MRImageStorage
    ds.Modality = "MR"
    del ds.RescaleSlope, ds.RescaleIntercept, ds.RescaleType, ds.KVP
    ds.PixelData = (ds.pixel_array * np.uint16(slope)).tobytes()
    ds.save_as(path, enforce_file_format=True)


def as_cr(path: Path, *, slope: int, padded: int | None = None) -> None:
    ds = pydicom.dcmread(path)
    ds.SOPClassUID = ds.file_meta.MediaStorageSOPClassUID = ComputedRadiographyImageStorage
    ds.Modality, ds.ImagerPixelSpacing = "CR", ds.PixelSpacing
    del ds.RescaleSlope, ds.RescaleIntercept, ds.RescaleType, ds.PixelSpacing
    del ds.FrameOfReferenceUID, ds.ImagePositionPatient, ds.ImageOrientationPatient
    stored = ds.pixel_array * np.uint16(slope)
    if padded is not None:
        ds.add_new("PixelPaddingValue", "US", padded)
        stored[:, :4] = padded
    ds.PixelData = stored.tobytes()
    ds.save_as(path, enforce_file_format=True)


def write(folder: Path, *, modality: str, hospitals: Sequence[str] = federation.HOSPITALS, patients: int = PATIENTS) -> None:
    """Write every hospital's phantoms, each hospital's scanner with a scale of its own."""
    random = np.random.default_rng(3)
    for slope, hospital in enumerate(hospitals, start=1):
        rows = []
        for number in range(patients):
            patient, radius = f"{hospital.upper()}-{number:03d}", 3.2 + 1.4 * random.random()
            image = phantoms.volume(
                phantoms.Ellipsoid(semi_axes_mm=(radius, radius * 0.8, radius * 0.7)),
                shape=(8 if modality == "MR" else 1, 28, 28),
                spacing_mm=(1.25, 1.0, 1.0),
                body_radius_mm=10 + 3 * float(random.random()),
                lesion_hu=60 + 400 * float(random.random()),
                noise_hu=10,
                seed=number,
            )
            paths = phantoms.write_series(
                folder / hospital / "scans" / patient,
                patient_id=patient,
                voxels_hu=np.clip(image.voxels, -1024, 3000),
                spacing_mm=image.spacing_mm,
                region=image.region if modality == "MR" else None,
                kvp=60.0 + 10 * number,
            )
            for path in paths[:-1] if modality == "MR" else paths:
                (as_mr if modality == "MR" else as_cr)(path, slope=slope)
            rows.append([patient, f"{1 + 4 * random.random():.2f}"])
        with (folder / hospital / "clinical.csv").open("w", newline="") as file:
            csv.writer(file).writerows([["patient_id", "malignancy"], *rows])


@pytest.mark.parametrize("modality", ["MR", pytest.param("CR", marks=pytest.mark.long)])
def test_a_study_of_another_modality_runs_from_its_files_to_a_trained_model(tmp_path: Path, modality: str) -> None:
    write(tmp_path / "scans", modality=modality)
    one = federation.Federation(tmp_path, tmp_path / "scans", cache=tmp_path / "cache", policy={"share_max": Decimal("0.9999")})
    wanted = study(modality)
    one.approve(wanted)
    try:
        result = one.run(wanted)
        cohorts = [vault.prepare(wanted.hash()) for vault in one.vaults.values()]
    finally:
        one.close()
    assert result["patients"] == 4 * PATIENTS
    assert {event["state"] for event in result["rounds"]} == {"opened"}
    table = np.concatenate([cohort.table for cohort in cohorts])
    assert np.isfinite(table).all()
    assert np.abs(np.array(result["correlation"]["r"]) - np.corrcoef(table[:, [0, 1, -1]], rowvar=False)).max() < 1e-10
    views = np.concatenate([cohort.views for cohort in cohorts])
    assert views.shape[1:] == (1, 32, 32)
    assert 0.1 < views.mean() < 0.9
    assert views.std() > 0.05


def read(folder: Path, *, wanted: Study) -> Cohort:
    return pipeline.read_cohort(
        scans=folder / "scans",
        clinical=folder / "clinical.csv",
        study=wanted,
        pseudonym=lambda _, raw: raw,
        progress=lambda *_: None,
    )


def test_images_of_another_modality_are_set_aside_and_counted(tmp_path: Path) -> None:
    image = phantoms.volume(phantoms.Ellipsoid(semi_axes_mm=(5, 4, 3)), shape=(10, 24, 24), body_radius_mm=10, noise_hu=5)
    for patient, made in (("P-CT", None), ("P-MR", as_mr), ("P-CR", as_cr)):
        paths = phantoms.write_series(
            tmp_path / "scans",
            patient_id=patient,
            voxels_hu=image.voxels,
            spacing_mm=image.spacing_mm,
            region=image.region if made is not as_cr else None,
        )
        for path in paths[: len(image.voxels)] if made else ():
            made(path, slope=1)
    (tmp_path / "clinical.csv").write_text("patient_id,malignancy\nP-CT,1\nP-MR,2\nP-CR,3\n")
    for wanted, patient, views in ((federation.study(), "P-CT", 1), (study("CR"), "P-CR", 2)):
        cohort = read(tmp_path, wanted=wanted)
        assert (cohort.patients, len(cohort.views)) == ((patient,), views)  # of the 10 radiographs, as many as a bag takes
        counted = Counter(item.reason for item in cohort.set_aside)
        assert counted[Reason.MODALITY] == 2 * 10
        assert counted["NO_SCANS"] == 2  # rows of the clinical table whose patients have other images
    only = study("CR", modality="DX")
    with pytest.raises(NoScans, match="DX"):
        read(tmp_path, wanted=only)


def test_what_the_scanner_padded_enters_no_mean_and_no_view(tmp_path: Path) -> None:
    image = phantoms.volume(phantoms.Ellipsoid(semi_axes_mm=(6, 5, 4)), shape=(1, 32, 40), body_radius_mm=14, noise_hu=5)
    found: list[Volume] = []
    for at, padded in enumerate((None, 0, 60_000)):
        (path,) = phantoms.write_series(tmp_path / str(at), patient_id="P", voxels_hu=image.voxels, spacing_mm=image.spacing_mm)
        as_cr(path, slope=1, padded=padded)
        with Guard() as guard:
            (scan,) = read_scans(path.parent, pseudonym=lambda _, raw: raw, reader=guard, modality="CR")
        assert isinstance(scan, Scan)
        found.append(assemble(scan))
    whole, low, high = found
    assert whole.padding is None
    assert low.padding is not None
    assert low.region is not None
    np.testing.assert_array_equal(low.padding, ~low.region)
    np.testing.assert_array_equal(normalise(low).voxels, normalise(high).voxels)
    measured = normalise(high).voxels[high.region]
    assert (measured.mean(), measured.std()) == (pytest.approx(0, abs=1e-3), pytest.approx(100, abs=1e-3))
    views = [to_tensor(prepare(one, recipe=study("CR").recipe), recipe=study("CR").recipe).pixels for one in (low, high)]
    np.testing.assert_array_equal(*views)
    mr = replace(high, modality="MR")
    assert normalise(mr).voxels.min() == normalise(mr).voxels[mr.padding].max()  # no signal, not -1024
    with pytest.raises(GeometryRefused, match="NO_CONTRAST"):
        normalise(replace(high, padding=np.ones(high.voxels.shape, np.bool_)))


def test_a_radiograph_keeps_its_millimetres(tmp_path: Path) -> None:
    image = phantoms.volume(phantoms.Box(sides_mm=(10, 6, 50)), shape=(1, 64, 80), spacing_mm=(1, 0.5, 0.25), body_radius_mm=99)
    (path,) = phantoms.write_series(tmp_path, patient_id="P", voxels_hu=image.voxels, spacing_mm=image.spacing_mm)
    as_cr(path, slope=1)
    with Guard() as guard:
        (scan,) = read_scans(tmp_path, pseudonym=lambda _, raw: raw, reader=guard, modality="CR")
    assert isinstance(scan, Scan)
    for spacing in (Decimal("0.5"), Decimal(2)):
        for denoise in ("none", "gaussian", "median", "curvature-anisotropic"):
            after = prepare(assemble(scan), recipe=recipe(modality="CR", spacing_mm=spacing, denoise=denoise))
            assert after.voxels.shape == (1, math.ceil(32 / spacing), math.ceil(20 / spacing))
    after = prepare(assemble(scan), recipe=recipe(modality="CR", spacing_mm=Decimal("0.5")))
    bright = after.voxels[0] > after.voxels[0].mean()
    assert [int(np.ptp(where)) + 1 for where in np.nonzero(bright)] == [12, 20]  # 6 by 10 mm


def test_a_series_of_radiographs_of_two_patients_is_set_aside(tmp_path: Path) -> None:
    image = phantoms.volume(phantoms.Box(), shape=(3, 16, 16), body_radius_mm=6)
    for path in phantoms.write_series(tmp_path, patient_id="P-1", voxels_hu=image.voxels, spacing_mm=image.spacing_mm):
        as_cr(path, slope=1)
    (other, _, small) = sorted(tmp_path.iterdir())
    ds = pydicom.dcmread(small)
    ds.SeriesInstanceUID = "1.2.3"
    ds.Rows, ds.PixelData = 8, ds.PixelData[:256]
    ds.save_as(small, enforce_file_format=True)
    ds = pydicom.dcmread(other)
    ds.PatientID = "P-2"
    ds.save_as(other, enforce_file_format=True)
    with Guard() as guard:
        found = list(read_scans(tmp_path, pseudonym=lambda _, raw: raw, reader=guard, modality="CR"))
    assert [item.reason for item in found if isinstance(item, SetAside)] == [Reason.PATIENT_CHANGES] * 2
    (kept,) = (item for item in found if isinstance(item, Scan))
    assert kept.pixels.shape == (1, 8, 16)


def test_each_radiograph_of_a_series_is_listed_by_itself_and_counts_as_one_series(tmp_path: Path) -> None:
    image = phantoms.volume(phantoms.Box(), shape=(3, 16, 16), body_radius_mm=6)
    for path in phantoms.write_series(tmp_path / "in", patient_id="P-1", voxels_hu=image.voxels, spacing_mm=image.spacing_mm):
        as_cr(path, slope=1)
    secret = pseudonym.under(b"a key")
    with Guard() as guard, closing(Quarantine(tmp_path / "q.sqlite", clock=lambda: 1)) as store:
        reading = store.begin(root=tmp_path / "in", recipe="r", code="1", pseudonym=secret)
        found = list(read_scans(tmp_path / "in", pseudonym=secret, reader=reading.through(guard), modality="CR"))
        for scan in found:
            reading.note(SetAside(name=scan.series, reason="NO_CONTRAST"))
        reading.end(usable=0)
    assert len({scan.series for scan in found}) == 3
    listed, _ = quarantine.look(tmp_path / "q.sqlite")
    assert [one.reason for one in listed] == ["NO_CONTRAST"] * 3
    assert sorted(path for _, _, path in quarantine.paths(tmp_path / "q.sqlite")) == sorted(
        one.name for one in (tmp_path / "in").iterdir()
    )


@pytest.mark.parametrize("modality", ["MR", "CR"])
def test_what_needs_hu_is_absent_by_name(modality: str) -> None:
    assert not parameters.check(study(modality))
    wrong = study(modality).model_copy(update={"variables": federation.study().variables})
    with pytest.raises(ConfigError, match=rf"modality {modality} .* have no .*mean_hu, depth_min_mm") as caught:
        parameters.check(wrong)
    assert "in place of mean_hu there is mean_z" in caught.value.action
    assert "in place of depth_min_mm" not in caught.value.action
    with pytest.raises(ConfigError, match=r"modality CT .in HU. have no mean_z"):
        parameters.check(study("MR", modality="CT"))


def test_the_modality_is_part_of_what_is_signed_and_of_what_fits() -> None:
    assert len({study("CR").hash(), study("CR", modality="DX").hash()}) == 2
    how = Points(method="watershed", reach_mm=ONE, agreement_min=ONE)
    for wrong in (
        {"modality": "PT"},
        {"modality": "CR", "points": how},
        {"modality": "DX", "patch": "volume"},
        {"modality": "CT", "filters": Filters(bias_field="n4", edges="sobel")},
    ):
        with pytest.raises(ValidationError):
            recipe(**wrong)


def test_levels_of_an_mr_are_thirty_two_of_equal_width_whatever_its_scale() -> None:
    image = phantoms.volume(phantoms.Ellipsoid(), noise_hu=50)
    assert image.region is not None
    found = [levels.of(replace(image, modality="MR", voxels=scale * image.voxels + 7)) for scale in (1, np.float32(3.5))]
    assert found[0] is not None
    assert found[1] is not None
    np.testing.assert_array_equal(found[0].here, found[1].here)
    assert (found[0].here.min(), found[0].here.max()) == (1, 32)
    inside = image.voxels[image.region]
    expected = np.minimum(32, np.floor(32 * (inside - inside.min()) / np.ptp(inside)) + 1)
    np.testing.assert_array_equal(np.sort(found[0].here), np.sort(expected))
    flat = levels.of(replace(image, modality="MR", voxels=np.ones_like(image.voxels)))
    assert flat is not None
    assert set(flat.here.tolist()) == {1}
    assert all(math.isnan(value) for value in relative.measure(image).values())  # a CT


@pytest.mark.parametrize("modality", ["MR", "CR"])
def test_a_preview_shows_them(tmp_path: Path, modality: str) -> None:
    write(tmp_path, modality=modality, hospitals=("hosp-a",), patients=1)
    choices = [str(one) for one in CHOICES]
    choices[choices.index("--scans") + 1] = str(tmp_path / "hosp-a" / "scans")
    assert motet("init", "--home", tmp_path / "home", *choices)[0] == 0
    (tmp_path / "study.json").write_bytes(study(modality).canonical_bytes())
    code, _ = motet("preview", "--home", tmp_path / "home", "--study", tmp_path / "study.json", tmp_path / "out", "--series", 1)
    assert code == 0
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "001-after.png",
        "001-before.png",
        "001-patch-edges.png",
    ]


def test_a_real_mr_is_measured_alike_whatever_scale_its_scanner_wrote(tmp_path: Path) -> None:
    source = tables.real("duplicate-positions-mr/LICENSE").parent
    made = []
    for at, slope in enumerate((None, 0.25)):
        folder = tmp_path / str(at)
        (folder / "scans").mkdir(parents=True)
        slices = [pydicom.dcmread(path) for path in sorted(source.glob("1-*.dcm"))]  # the first of its three phases
        for number, ds in enumerate(slices):
            if slope is not None:
                ds.RescaleSlope, ds.RescaleIntercept = slope, 20
            ds.save_as(folder / "scans" / f"{number:02d}.dcm", enforce_file_format=True)
        region = np.zeros((12, 256, 256), np.bool_)
        region[4:8, 100:120, 110:140] = True
        phantoms.write_segmentation(folder / "scans" / "seg.dcm", slices=slices, region=region)
        (folder / "clinical.csv").write_text(f"patient_id,malignancy\n{slices[0].PatientID},4\n")
        made.append(read(folder, wanted=study("MR")))
    assert len(made[0].patients) == 1
    mean_z, _, longest, contrast, _ = made[0].table[0]
    assert longest == pytest.approx(math.hypot(30 * 0.703, 4 * 2), abs=2)  # the axial slice of a sagittal scan
    assert -3 < mean_z < 3
    assert contrast > 0
    np.testing.assert_allclose(made[0].table, made[1].table, rtol=0.02)
    np.testing.assert_allclose(made[0].views, made[1].views, atol=0.005)
