"""Claims about MR, radiographs, enhanced objects, character sets and burned-in text: right, or set aside with a code."""

import copy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset

from client.imaging import images
from client.imaging.characters import gb2312
from client.imaging.found import Frames, Projection, Reason, Slice
from client.imaging.guard import Guard
from client.imaging.normalise import normalise
from client.imaging.scan import read_scans
from client.imaging.volume import assemble
from client.inside import Scan, SetAside
from common.errors import GeometryRefused
from tests.phantoms import Ellipsoid, enhanced, volume, write_series

IMAGE = volume(Ellipsoid(semi_axes_mm=(8, 5, 3), angle_deg=30), shape=(6, 32, 40), body_radius_mm=14)


@pytest.fixture(scope="module")
def series(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return write_series(
        tmp_path_factory.mktemp("series"), patient_id="P-1", voxels_hu=IMAGE.voxels, spacing_mm=(1, 1, 1), region=IMAGE.region
    )


@pytest.fixture
def ct(series: list[Path]) -> Dataset:
    return pydicom.dcmread(series[0])


def read(guard: Guard, ds: Dataset, folder: Path) -> object:
    ds.file_meta.MediaStorageSOPClassUID = ds.SOPClassUID
    ds.save_as(folder / "x.dcm", enforce_file_format=True)
    return guard.read(folder / "x.dcm", with_pixels=True)


def as_mr(ds: Dataset) -> Dataset:
    ds.SOPClassUID, ds.Modality = images.MR, "MR"
    for keyword in ("RescaleSlope", "RescaleIntercept", "RescaleType"):
        delattr(ds, keyword)
    return ds


def test_mr_without_rescale_is_what_the_scanner_stored(guard: Guard, ct: Dataset, tmp_path: Path) -> None:
    found = read(guard, as_mr(ct), tmp_path)
    assert isinstance(found, Slice)
    assert found.modality == "MR"
    np.testing.assert_array_equal(found.pixels, IMAGE.voxels[0] + 1024)
    ct.RescaleSlope = 2  # half a rescale is none
    assert read(guard, ct, tmp_path) == Reason.NO_RESCALE


def test_a_study_of_ct_does_not_measure_mr_and_the_other_way_round(guard: Guard, series: list[Path], tmp_path: Path) -> None:
    for path in series[:-1]:
        as_mr(pydicom.dcmread(path)).save_as(tmp_path / path.name, enforce_file_format=True)
    aside = read_scans(tmp_path, pseudonym=lambda _, raw: raw, reader=guard, modality="CT")
    assert {next(aside).reason for _ in range(6)} == {Reason.MODALITY}
    (scan,) = read_scans(tmp_path, pseudonym=lambda _, raw: raw, reader=guard, modality="MR")
    assert isinstance(scan, Scan)
    aside = read_scans(series[0].parent, pseudonym=lambda _, raw: raw, reader=guard, modality="MR")
    assert {next(aside).reason for _ in range(6)} == {Reason.MODALITY}


def test_mr_is_normalised_whatever_the_scanners_unit(guard: Guard, series: list[Path], tmp_path: Path) -> None:
    made = []
    for slope in (1, 7.5):
        folder = tmp_path / str(slope)
        folder.mkdir()
        for path in series[:-1]:
            ds = as_mr(pydicom.dcmread(path))
            ds.RescaleSlope, ds.RescaleIntercept = slope, 0
            ds.save_as(folder / path.name, enforce_file_format=True)
        (scan,) = read_scans(folder, pseudonym=lambda _, raw: raw, reader=guard, modality="MR")
        made.append(normalise(assemble(scan)))
    np.testing.assert_allclose(made[0].voxels, made[1].voxels, atol=0.05)
    body = made[0].voxels[IMAGE.voxels > -500]
    assert abs(body.mean()) < 1
    assert body.std() == pytest.approx(100, abs=1)


def test_an_image_without_contrast_is_not_normalised(guard: Guard, series: list[Path]) -> None:
    (scan, *_) = read_scans(series[0].parent, pseudonym=lambda _, raw: raw, reader=guard, modality="CT")
    flat = replace(assemble(scan), modality="MR", voxels=np.zeros((6, 32, 40), np.float32))
    with pytest.raises(GeometryRefused, match="NO_CONTRAST"):
        normalise(flat)


def radiograph(ct: Dataset, photometric: str) -> Dataset:
    ds = copy.deepcopy(ct)
    ds.SOPClassUID, ds.Modality, ds.PhotometricInterpretation = images.CR, "CR", photometric
    del ds.FrameOfReferenceUID, ds.ImagePositionPatient, ds.ImageOrientationPatient, ds.PixelSpacing
    ds.ImagerPixelSpacing, ds.BitsStored, ds.HighBit = [0.2, 0.1], 12, 11
    return ds


def test_radiographs_are_two_dimensional_and_dense_is_bright(guard: Guard, ct: Dataset, tmp_path: Path) -> None:
    plain = read(guard, radiograph(ct, "MONOCHROME2"), tmp_path)
    inverse = read(guard, radiograph(ct, "MONOCHROME1"), tmp_path)
    assert isinstance(plain, Projection)
    assert isinstance(inverse, Projection)
    np.testing.assert_array_equal(plain.pixels, IMAGE.voxels[0] + 1024)
    np.testing.assert_array_equal(inverse.pixels, 4095 - plain.pixels)


@pytest.mark.parametrize(
    ("calibrated", "detector", "magnification", "spacing_mm"),
    [
        (None, [0.2, 0.1], None, [0.2, 0.1]),
        (None, [0.2, 0.1], 1.25, [0.16, 0.08]),
        ([0.15, 0.15], [0.2, 0.1], 1.25, [0.15, 0.15]),
        ([0.2, 0.1], [0.2, 0.1], 1.25, [0.16, 0.08]),  # equal to the detector's: no calibration
        ([0.15, 0.15], None, 1.25, [0.15, 0.15]),
        (None, None, None, None),
        (None, [0.2, 0.1], 0.5, None),
        (None, [0.2, 0.1], 1000, None),
    ],
)
def test_millimetres_of_a_radiograph_are_the_patients_as_far_as_the_file_tells(
    guard: Guard,
    ct: Dataset,
    tmp_path: Path,
    *,
    calibrated: list[float] | None,
    detector: list[float] | None,
    magnification: float | None,
    spacing_mm: list[float] | None,
) -> None:
    ds = radiograph(ct, "MONOCHROME2")
    ds.PixelSpacing, ds.ImagerPixelSpacing = calibrated, detector
    if magnification is not None:
        ds.EstimatedRadiographicMagnificationFactor = magnification
    found = read(guard, ds, tmp_path)
    if spacing_mm is None:
        assert found == Reason.NO_GEOMETRY
    else:
        assert isinstance(found, Projection)
        np.testing.assert_allclose(found.spacing_mm, spacing_mm, rtol=1e-12)


def test_an_enhanced_object_is_the_volume_of_its_frames(guard: Guard, series: list[Path], tmp_path: Path) -> None:
    found = read(guard, enhanced(series, order=[3, 0, 5, 1, 4, 2]), tmp_path)
    assert isinstance(found, Frames)
    assert len(found.slices) == 6
    (scan,) = read_scans(tmp_path, pseudonym=lambda _, raw: raw, reader=guard, modality="CT")
    assert isinstance(scan, Scan)
    np.testing.assert_array_equal(assemble(scan).voxels, IMAGE.voxels)


def test_an_enhanced_object_is_read_frame_by_frame_where_memory_is_short(
    guard: Guard, series: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("client.imaging.scan._KEPT_BYTES", 0)
    read(guard, enhanced(series, order=[3, 0, 5, 1, 4, 2]), tmp_path)
    (scan,) = read_scans(tmp_path, pseudonym=lambda _, raw: raw, reader=guard, modality="CT")
    assert isinstance(scan, Scan)
    np.testing.assert_array_equal(assemble(scan).voxels, IMAGE.voxels)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"NumberOfFrames": 5}, Reason.NO_GEOMETRY),
        ({"NumberOfFrames": 100_000}, Reason.TOO_LARGE),
        ({"SharedFunctionalGroupsSequence": None}, Reason.NO_GEOMETRY),
        ({"PerFrameFunctionalGroupsSequence": None}, Reason.NO_GEOMETRY),
        ({"Rows": 64}, Reason.TRUNCATED),
    ],
)
def test_an_enhanced_object_that_lies_is_refused(
    guard: Guard, series: list[Path], tmp_path: Path, change: dict[str, object], reason: Reason
) -> None:
    ds = enhanced(series, order=[0, 1, 2, 3, 4, 5])
    for keyword, value in change.items():
        if value is None:
            delattr(ds, keyword)
        else:
            setattr(ds, keyword, value)
    assert read(guard, ds, tmp_path) == reason


def test_a_perfusion_map_is_no_ct_in_hu(guard: Guard, series: list[Path], tmp_path: Path) -> None:
    ds = enhanced(series, order=[0, 1])
    ds.PerFrameFunctionalGroupsSequence[1].PixelValueTransformationSequence[0].RescaleType = "US"
    assert read(guard, ds, tmp_path) == Reason.NO_RESCALE


def test_gb2312_is_decoded_and_its_escape_sequence_is_gone() -> None:
    assert gb2312(b"Wang^XiaoDong=\x1b$)A\xcd\xf5^\x1b$)A\xd0\xa1\xb6\xab=") == "Wang^XiaoDong=王^小东="  # PS3.5 annex K.2
    for wrong in (b"\xcd\xf5", b"\x1b$)A\xff\xff", b"\x1b$)A\xcd"):
        with pytest.raises(UnicodeDecodeError):
            gb2312(wrong)


@pytest.mark.parametrize(
    ("named", "raw", "text"),
    [
        ("ISO 2022 IR 6\\ISO 2022 IR 58", b"\x1b$)A\xcd\xf5\xd0\xa1\xb6\xab-7", "王小东-7"),
        ("GB18030", "王小东-7".encode("gb18030"), "王小东-7"),
        ("GBK", "王小东-7".encode("gbk"), "王小东-7"),
        ("ISO_IR 192", "王小东-7".encode(), "王小东-7"),
        ("ISO_IR 100", "Müller".encode("latin-1"), "Müller"),
        ("ISO 2022 IR 6\\ISO 2022 IR 149", b"\x1b$)C\xb1\xe8-7", "김-7"),
        ("ISO 2022 IR 6\\ISO 2022 IR 58", b"\xcd\xf5\xd0\xa1", None),  # what pydicom 3.0.2 writes: no escape
        ("ISO_IR 192", b"\xcd\xf5\xd0", None),
    ],
)
def test_a_patient_id_has_one_text_whatever_the_character_set(
    guard: Guard, ct: Dataset, tmp_path: Path, named: str, raw: bytes, text: str | None
) -> None:
    marker = b"P" * len(raw)
    ct.PatientID, ct.SpecificCharacterSet = marker.decode(), named.split("\\")
    ct.save_as(tmp_path / "x.dcm", enforce_file_format=True)
    data = (tmp_path / "x.dcm").read_bytes()
    assert data.count(marker) == 1
    (tmp_path / "x.dcm").write_bytes(data.replace(marker, raw))
    found = guard.read(tmp_path / "x.dcm", with_pixels=False)
    if text is None:
        assert found in {Reason.CHARACTER_SET, Reason.UNREADABLE}
    else:
        assert isinstance(found, Slice)
        assert found.identity.patient_id == text


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"BurnedInAnnotation": "YES"}, Reason.BURNED_IN),
        ({"ImageType": ["DERIVED", "SECONDARY", "OTHER"]}, Reason.SECONDARY),
        ({"PhotometricInterpretation": "RGB", "SamplesPerPixel": 3}, Reason.NOT_AN_IMAGE),
        ({"PhotometricInterpretation": "YBR_FULL", "SamplesPerPixel": 3}, Reason.NOT_AN_IMAGE),
        ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.7"}, Reason.SOP_CLASS),  # secondary capture
        ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.6.1"}, Reason.SOP_CLASS),  # ultrasound
        ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.12.1"}, Reason.SOP_CLASS),  # X-ray angiography
    ],
)
def test_pixels_that_may_hold_text_are_set_aside(
    guard: Guard, ct: Dataset, tmp_path: Path, change: dict[str, object], reason: Reason
) -> None:
    for keyword, value in change.items():
        setattr(ct, keyword, value)
    assert read(guard, ct, tmp_path) == reason
    results = read_scans(tmp_path, pseudonym=lambda _, raw: raw, reader=guard, modality="CT")
    assert next(results) == SetAside(name="x.dcm", reason=reason)
