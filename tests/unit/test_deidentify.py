"""The reference's planted-PHI suite: of every identifier planted in a file, nothing is in its pseudonymised copy."""

import hashlib
import hmac
import io
import shutil
from collections.abc import Callable
from datetime import date
from decimal import Decimal
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.data import get_testdata_file
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from typer.testing import CliRunner

from client import config
from client.cli import app
from client.imaging.deidentify import deidentified
from client.imaging.found import Reason, Segmentation, Slice
from client.imaging.guard import Guard
from client.imaging.scan import read_scans
from client.imaging.volume import assemble
from client.inside import Scan
from common.errors import ConfigError, NoScans
from tests import structures
from tests.phantoms import Ellipsoid, enhanced, volume, write_series
from tests.unit.test_images import radiograph

NEEDLES = (
    *(b"ZHANG", b"MRN-12345", b"ALT-777", b"Secret Rd", b"SECRET", b"OP^NAME", b"ACC999", b"19600102", b"20250304"),
    *(b"REF^DOC", b"REQ^DOC", b"SN-SECRET"),  # and the file's own SOPInstanceUID and StudyInstanceUID
)


def keyed(key: bytes) -> Callable[[str, str], str]:
    return lambda kind, raw: hmac.new(key, f"{kind}\0{raw}".encode(), hashlib.sha256).hexdigest()[:32]


def planted(ds: Dataset) -> Dataset:
    """Plant identifiers in standard, nested and private elements, an overlay, a curve and the preamble."""
    ds.PatientName, ds.PatientID, ds.PatientBirthDate, ds.OtherPatientIDs = "ZHANG^SAN", "MRN-12345", "19600102", "ALT-777"
    ds.PatientAddress, ds.InstitutionName, ds.OperatorsName, ds.AccessionNumber = (
        "1 Secret Rd",
        "SECRET HOSP",
        "OP^NAME",
        "ACC999",
    )
    ds.StudyDate, ds.PatientComments, ds.StudyDescription = "20250304", "SECRET comment", "SECRETdesc for ZHANG SAN"
    ds.SeriesDescription, ds.ImageComments, ds.ReferringPhysicianName = "SECRETser", "SECRET img", "REF^DOC"
    ds.RequestingPhysician, ds.DeviceSerialNumber, ds.StationName = "REQ^DOC", "SN-SECRET", "SECRETSTN"
    ds.ProtocolName, ds.PatientAge, ds.SeriesDate, ds.ContentDate = "SECRETprot", "093Y", "20250304", "20250304"
    item = Dataset()
    item.ReferencedSOPInstanceUID, item.ReferencedSOPClassUID = ds.SOPInstanceUID, ds.SOPClassUID
    item.TextString, item.PersonName = "SECRET nested ZHANG", "ZHANG^SAN"
    ds.ReferencedImageSequence = Sequence([item])
    ds.RequestAttributesSequence = Sequence([item])
    for part in [ds, *ds.get("PerFrameFunctionalGroupsSequence", [])]:
        part.private_block(0x0011, "ACME SECRET", create=True).add_new(0x01, "LO", "SECRET private")
    ds.add_new(0x60000022, "LO", "SECRET overlay")
    ds.add_new(0x50000022, "LO", "SECRET curve")
    ds.add_new(0xFFFCFFFC, "OB", b"SECRET padding")
    ds.preamble = b"SECRETPREAMBLE".ljust(128, b"\0")
    return ds


def left(data: bytes, ds: Dataset) -> list[bytes]:
    return [one for one in (*NEEDLES, ds.SOPInstanceUID.encode(), ds.StudyInstanceUID.encode()) if one in data]


@pytest.fixture(scope="module")
def series(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    image = volume(Ellipsoid(semi_axes_mm=(8, 5, 3)), shape=(6, 32, 40), body_radius_mm=14)
    return write_series(
        tmp_path_factory.mktemp("s"), patient_id="P", voxels_hu=image.voxels, spacing_mm=(1, 1, 1), region=image.region
    )


def kinds(series: list[Path]) -> dict[str, Dataset]:
    public = pydicom.dcmread(get_testdata_file("CT_small.dcm", download=False))
    packed = pydicom.dcmread(series[0])
    packed.compress(pydicom.uid.RLELossless, generate_instance_uid=False)
    return {"public": public, "plain": pydicom.dcmread(series[0]), "RLE": packed, "enhanced": enhanced(series, order=[0, 1, 2])}


@pytest.mark.parametrize("kind", ["public", "plain", "RLE", "enhanced"])
def test_nothing_that_was_planted_is_in_the_copy(guard: Guard, series: list[Path], tmp_path: Path, kind: str) -> None:
    ds = planted(kinds(series)[kind])
    ds.file_meta.MediaStorageSOPClassUID = ds.SOPClassUID
    ds.save_as(tmp_path / "x.dcm", enforce_file_format=True)
    assert len(left((tmp_path / "x.dcm").read_bytes(), ds)) == 14
    made = deidentified(tmp_path / "x.dcm", reader=guard, pseudonym=keyed(b"site"))
    assert not isinstance(made, Reason), made
    patient, instance, data = made
    assert left(data, ds) == []
    copy = pydicom.dcmread(io.BytesIO(data))
    assert data[:128] == bytes(128)
    assert not [one for one in copy.iterall() if one.tag.is_private or one.tag.group & 0xFF00 in {0x5000, 0x6000}]
    assert (copy.PatientID, copy.SOPInstanceUID, copy.PatientName) == (patient, instance, "")
    assert (copy.PatientIdentityRemoved, copy.PatientAge) == ("YES", "089Y")
    assert [one.CodeValue for one in copy.DeidentificationMethodCodeSequence] == ["113100", "113105", "113107", "113108"]
    np.testing.assert_array_equal(copy.pixel_array, ds.pixel_array)
    moved = date(2025, 3, 4) - date(int(copy.StudyDate[:4]), int(copy.StudyDate[4:6]), int(copy.StudyDate[6:]))
    assert 1 <= moved.days <= 365
    (tmp_path / "copy.dcm").write_bytes(data)
    assert not isinstance(guard.read(tmp_path / "copy.dcm", with_pixels=True), Reason)  # and it is still an image


def test_a_patient_has_one_pseudonym_in_every_study_and_another_at_every_hospital(
    guard: Guard, series: list[Path], tmp_path: Path
) -> None:
    made = []
    for study, key in (("1.2.3", b"site"), ("1.2.4", b"site"), ("1.2.3", b"another")):
        ds = planted(pydicom.dcmread(series[0]))
        ds.StudyInstanceUID = study
        ds.save_as(tmp_path / "x.dcm", enforce_file_format=True)
        done = deidentified(tmp_path / "x.dcm", reader=guard, pseudonym=keyed(key))
        assert not isinstance(done, Reason)
        made.append(pydicom.dcmread(io.BytesIO(done[2])))
    one, again, elsewhere = made
    assert one.PatientID == again.PatientID != elsewhere.PatientID
    assert one.StudyInstanceUID != again.StudyInstanceUID
    assert one.SeriesInstanceUID == again.SeriesInstanceUID != elsewhere.SeriesInstanceUID
    assert one.StudyDate == again.StudyDate  # the same shift, whatever the study
    assert all(uid.StudyInstanceUID.startswith("2.25.") and len(uid.StudyInstanceUID) <= 64 for uid in made)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"BurnedInAnnotation": "YES"}, Reason.BURNED_IN),
        ({"ImageType": ["DERIVED", "SECONDARY"]}, Reason.SECONDARY),
        ({"PhotometricInterpretation": "RGB"}, Reason.NOT_AN_IMAGE),
        ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.7"}, Reason.SOP_CLASS),
        ({"PatientID": ""}, Reason.NO_IDENTITY),
    ],
)
def test_what_may_have_text_burned_in_gets_no_copy(
    guard: Guard, series: list[Path], tmp_path: Path, change: dict[str, object], reason: Reason
) -> None:
    ds = pydicom.dcmread(series[0])
    for keyword, value in change.items():
        setattr(ds, keyword, value)
    ds.save_as(tmp_path / "x.dcm", enforce_file_format=True)
    assert deidentified(tmp_path / "x.dcm", reader=guard, pseudonym=keyed(b"site")) == reason


def test_a_radiograph_gets_a_copy_only_where_it_says_that_no_text_is_in_it(
    guard: Guard, series: list[Path], tmp_path: Path
) -> None:
    for said, types, expected in (
        (None, ["ORIGINAL", "PRIMARY"], Reason.BURNED_IN),
        ("YES", ["ORIGINAL", "PRIMARY"], Reason.BURNED_IN),
        ("NO", ["DERIVED", "SECONDARY"], Reason.SECONDARY),
        ("NO", ["DERIVED", "PRIMARY"], None),
    ):
        ds = radiograph(pydicom.dcmread(series[0]), "MONOCHROME2")
        ds.ImageType, ds.file_meta.MediaStorageSOPClassUID = types, ds.SOPClassUID
        if said is not None:
            ds.BurnedInAnnotation = said
        ds.save_as(tmp_path / "x.dcm", enforce_file_format=True)
        made = deidentified(tmp_path / "x.dcm", reader=guard, pseudonym=keyed(b"site"))
        assert (made == expected) if expected else not isinstance(made, Reason)


def test_a_segmentation_goes_with_its_images_and_leaves_its_words_behind(
    guard: Guard, series: list[Path], tmp_path: Path
) -> None:
    truth = []
    for path in series:
        ds = planted(pydicom.dcmread(path))
        if "SegmentSequence" in ds:
            one = ds.SegmentSequence[0]
            one.SegmentLabel, one.SegmentDescription, one.TrackingID = "ZHANG lesion", "SECRET", "SECRET"
            ds.ContentLabel, ds.ContentDescription, ds.ContentCreatorName = "SECRET", "SECRET of ZHANG", "OP^NAME"
        ds.save_as(tmp_path / "x.dcm", enforce_file_format=True)
        truth.append(ds)
        made = deidentified(tmp_path / "x.dcm", reader=guard, pseudonym=keyed(b"site"))
        assert not isinstance(made, Reason), made
        assert not [needle for ds in truth for needle in left(made[2], ds)]
        (tmp_path / "copies").mkdir(exist_ok=True)
        (tmp_path / "copies" / path.name).write_bytes(made[2])
    found = [guard.read(path, with_pixels=True) for path in (tmp_path / "copies").iterdir()]
    (drawn,) = (one for one in found if isinstance(one, Segmentation))
    assert drawn.references
    assert {one.partition("#")[0] for one in drawn.references} <= {
        one.identity.instance for one in found if isinstance(one, Slice)
    }
    (scan,) = read_scans(tmp_path / "copies", pseudonym=lambda _, raw: raw, reader=guard, modality="CT")
    assert isinstance(scan, Scan)
    (before,) = read_scans(series[0].parent, pseudonym=lambda _, raw: raw, reader=guard, modality="CT")
    assert isinstance(before, Scan)
    np.testing.assert_array_equal(assemble(scan).region, assemble(before).region)


def test_structure_sets_and_what_is_no_dicom_get_no_copy(guard: Guard, series: list[Path], tmp_path: Path) -> None:
    drawn = {"GTV of ZHANG": [[(0.0, 0.0, 0.0), (4.0, 0.0, 0.0), (0.0, 4.0, 0.0)]]}
    contours = structures.write(tmp_path / "rt.dcm", of=pydicom.dcmread(series[0]), contours=drawn)
    assert not isinstance(guard.read(contours, with_pixels=True), Reason)
    assert deidentified(contours, reader=guard, pseudonym=keyed(b"site")) == Reason.SOP_CLASS
    (tmp_path / "text").write_text("SECRET")
    assert deidentified(tmp_path / "text", reader=guard, pseudonym=keyed(b"site")) == Reason.NOT_DICOM
    assert deidentified(tmp_path / "gone", reader=guard, pseudonym=keyed(b"site")) == Reason.NOT_A_FILE


def test_the_header_that_leaves_the_guard_holds_identifiers_nowhere_but_in_the_identity(
    guard: Guard, series: list[Path], tmp_path: Path
) -> None:
    ds = planted(pydicom.dcmread(series[0]))
    ds.save_as(tmp_path / "x.dcm", enforce_file_format=True)
    found = guard.read(tmp_path / "x.dcm", with_pixels=False)
    assert isinstance(found, Slice)
    assert left(repr(found).encode(), ds) == []
    assert found.identity.patient_id == "MRN-12345"


def test_the_command_copies_images_and_counts_what_it_does_not(series: list[Path], tmp_path: Path) -> None:
    scans = tmp_path / "Planted ZHANG"
    scans.mkdir()
    truth = []
    for path in series[:-1]:
        ds = planted(pydicom.dcmread(path))
        ds.save_as(scans / path.name, enforce_file_format=True)
        truth.append(ds)
    (scans / "ZHANG.txt").write_text("SECRET")
    (tmp_path / "c.csv").write_text("patient_id\nP\n")
    config.create(
        tmp_path / "home",
        name="hosp-a",
        scans=scans,
        clinical=tmp_path / "c.csv",
        epsilon_cap=Decimal(1),
        delta_cap=Decimal("1e-6"),
        hospitals_min=3,
        colluders_min=0,
        patients_min=1,
        exact_releases_max=0,
    )
    call = ["deidentify", f"--home={tmp_path / 'home'}", str(tmp_path / "copies"), "--json"]
    done = CliRunner().invoke(app, call)
    assert done.exit_code == 0, done.output
    assert '"copied": 6' in done.output
    assert '"NOT_DICOM": 1' in done.output
    copies = list((tmp_path / "copies").rglob("*.dcm"))
    assert len(copies) == 6
    for path in copies:
        assert path.stat().st_mode & 0o777 == 0o600
        assert not [needle for ds in truth for needle in left(path.read_bytes() + str(path.relative_to(tmp_path)).encode(), ds)]
    assert CliRunner().invoke(app, call).exit_code != 0  # never into a folder that is there
    among = CliRunner().invoke(app, [*call[:2], str(scans / "copies")])
    assert isinstance(among.exception, ConfigError)  # else copies would be copied
    assert not (scans / "copies").exists()
    for path in scans.iterdir():
        path.unlink()
    empty = CliRunner().invoke(app, [*call[:2], str(tmp_path / "more")])
    assert isinstance(empty.exception, NoScans)
    assert "no files" in str(empty.exception)
    assert not (tmp_path / "more").exists()
    shutil.rmtree(scans)
    absent = CliRunner().invoke(app, [*call[:2], str(tmp_path / "more")])
    assert isinstance(absent.exception, NoScans)
    assert not (tmp_path / "more").exists()
