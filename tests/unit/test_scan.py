"""Claims about reading a folder: series by series, pseudonymised, one bad file or series never ends it."""

from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest

from client.imaging import scan as scan_module
from client.imaging.found import Reason
from client.imaging.guard import Guard
from client.imaging.scan import read_scans
from client.imaging.volume import assemble
from client.inside import Scan, SetAside
from common.errors import NoScans
from tests.phantoms import PLANTED, Ellipsoid, volume, write_segmentation, write_series

LESION = Ellipsoid(semi_axes_mm=(8, 5, 3), angle_deg=30)
IMAGE = volume(LESION, shape=(10, 32, 40), body_radius_mm=14)


def pseudonym(kind: str, raw: str) -> str:
    return f"<{kind}:{len(raw)}:{sum(raw.encode()) % 997}>"


def written(folder: Path, patient_id: str = "P-1", **options: Any) -> list[Path]:
    return write_series(
        folder, patient_id=patient_id, voxels_hu=IMAGE.voxels, spacing_mm=(1, 1, 1), **({"region": IMAGE.region} | options)
    )


def read(folder: Path, guard: Guard, **options: Any) -> tuple[list[Scan], dict[str, str]]:
    results = list(read_scans(folder, pseudonym=pseudonym, reader=guard, **({"modality": "CT"} | options)))
    scans = [result for result in results if isinstance(result, Scan)]
    return scans, {result.name: result.reason for result in results if isinstance(result, SetAside)}


def edited(path: Path, **changes: object) -> None:
    ds = pydicom.dcmread(path)
    for keyword, value in changes.items():
        setattr(ds, keyword, value)
    ds.save_as(path, enforce_file_format=True)


@pytest.mark.parametrize("kept_bytes", [0, 10_000, 1 << 30], ids=["read twice", "partly kept", "all kept"])
def test_series_spread_over_folders_come_back_whole(
    tmp_path: Path, guard: Guard, monkeypatch: pytest.MonkeyPatch, kept_bytes: int
) -> None:
    monkeypatch.setattr(scan_module, "_KEPT_BYTES", kept_bytes)
    for number in range(3):
        for at, path in enumerate(written(tmp_path / f"{number}", f"P-{number}", seed=number, reverse=number == 1)):
            (tmp_path / f"mixed {at % 2}").mkdir(exist_ok=True)
            path.rename(tmp_path / f"mixed {at % 2}" / path.name)
    told: list[tuple[int, int]] = []
    scans, aside = read(tmp_path, guard, progress=lambda done, total: told.append((done, total)))
    assert aside == {}
    assert len(scans) == len({one.patient for one in scans}) == 3
    assert told[-1] == (33, 33)
    assert told == sorted(told)
    for one in scans:
        found = assemble(one)
        np.testing.assert_array_equal(found.voxels, IMAGE.voxels)
        np.testing.assert_array_equal(found.region, IMAGE.region)
        np.testing.assert_allclose(found.affine, IMAGE.affine)


def test_nothing_of_the_header_but_pseudonyms_and_covariates_survives(tmp_path: Path, guard: Guard) -> None:
    written(tmp_path, "PLANTED-ID-1", planted=PLANTED | {"IssuerOfPatientID": "PLANTED-ISSUER"})
    asked: dict[str, set[str]] = {}

    def remember(kind: str, raw: str) -> str:
        asked.setdefault(kind, set()).add(raw)
        return kind

    (one,) = read_scans(tmp_path, pseudonym=remember, reader=guard, modality="CT")
    assert isinstance(one, Scan)
    text = repr(one)
    uids = pydicom.dcmread(next(tmp_path.glob("*0001.dcm")))
    for secret in (*PLANTED.values(), "PLANTED", uids.StudyInstanceUID, uids.SeriesInstanceUID, uids.FrameOfReferenceUID):
        assert secret not in text
    assert asked["patient"] == {"PLANTED-ID-1^^^PLANTED-ISSUER"}
    assert set(asked) == {"patient", "series", "frame"}
    assert one.acquisition.manufacturer == "Motet phantoms"


def test_bad_files_cost_themselves(tmp_path: Path, guard: Guard) -> None:
    paths = written(tmp_path)
    (tmp_path / "notes.txt").write_text("hello")
    (tmp_path / "cut.dcm").write_bytes(paths[0].read_bytes()[:900])
    (tmp_path / "link.dcm").symlink_to(paths[0])
    (tmp_path / "outside").symlink_to(Path("/etc"))
    (tmp_path / "again.dcm").write_bytes(paths[3].read_bytes())
    scans, aside = read(tmp_path, guard)
    assert len(scans) == 1
    assert len(scans[0].pixels) == 10
    assert aside.pop("cut.dcm") in {Reason.NOT_AN_IMAGE, Reason.UNREADABLE, Reason.TRUNCATED, Reason.NO_RESCALE}
    assert aside.pop("again.dcm") == Reason.COPY
    assert aside == {"notes.txt": Reason.NOT_DICOM, "link.dcm": Reason.LINK, "outside": Reason.LINK}


def test_same_instance_with_other_pixels_is_set_aside(tmp_path: Path, guard: Guard) -> None:
    paths = written(tmp_path)
    twin = tmp_path / "twin.dcm"
    twin.write_bytes(paths[3].read_bytes())
    edited(twin, PixelData=bytes(2 * 32 * 40))
    scans, aside = read(tmp_path, guard)
    assert aside == {"twin.dcm": Reason.DUPLICATE_INSTANCE}
    assert len(scans[0].pixels) == 10


def test_instance_of_another_series_is_set_aside(tmp_path: Path, guard: Guard) -> None:
    written(tmp_path / "a")
    stolen = written(tmp_path / "b", "P-2")[2]
    edited(stolen, SOPInstanceUID=pydicom.dcmread(tmp_path / "a" / "P-1-0-0003.dcm").SOPInstanceUID)
    scans, aside = read(tmp_path, guard)
    assert len(scans) == 2
    assert aside == {f"b/{stolen.name}": Reason.DUPLICATE_INSTANCE}


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"PatientID": "P-other"}, Reason.PATIENT_CHANGES),
        ({"IssuerOfPatientID": "elsewhere"}, Reason.PATIENT_CHANGES),
        ({"Rows": 16, "PixelData": bytes(2 * 16 * 40)}, Reason.MIXED_MATRIX),
    ],
)
def test_series_that_changes_on_the_way_is_set_aside_whole(
    tmp_path: Path, guard: Guard, changes: dict[str, Any], reason: Reason
) -> None:
    written(tmp_path / "good", "P-0")
    paths = written(tmp_path / "odd")
    edited(paths[4], **changes)
    scans, aside = read(tmp_path, guard)
    assert len(scans) == 1
    assert aside == {f"odd/{paths[0].name}": reason}


def test_segmentations_find_their_series_or_are_set_aside(tmp_path: Path, guard: Guard) -> None:
    written(tmp_path / "good", "P-0")
    lost = written(tmp_path / "lost", "P-1")
    for path in lost[:-1]:
        path.unlink()
    two = written(tmp_path / "two", "P-2")
    slices = [pydicom.dcmread(path) for path in two[:-1]]
    assert IMAGE.region is not None
    write_segmentation(tmp_path / "two" / "second.dcm", slices=slices, region=IMAGE.region)
    elsewhere = written(tmp_path / "elsewhere", "P-3")
    edited(elsewhere[-1], FrameOfReferenceUID="1.2.3")
    scans, aside = read(tmp_path, guard)
    assert [one.patient for one in scans] == [pseudonym("patient", "P-0")]
    assert aside == {
        f"lost/{lost[-1].name}": Reason.SEGMENTATION_WITHOUT_SERIES,
        f"two/{two[0].name}": Reason.SEVERAL_SEGMENTATIONS,
        f"elsewhere/{elsewhere[0].name}": Reason.SEGMENTATION_ELSEWHERE,
    }


def test_hostile_identifiers_never_become_paths(tmp_path: Path, guard: Guard) -> None:
    folder = tmp_path / "in"
    for path in written(folder, region=None):
        with pydicom.config.disable_value_validation():
            edited(path, SeriesInstanceUID="../../../escape", StudyInstanceUID="/etc/passwd", PatientID="$(touch x)")
    before = sorted(tmp_path.rglob("*"))
    scans, aside = read(folder, guard)
    assert (len(scans), aside) == (1, {})
    assert sorted(tmp_path.rglob("*")) == before


def test_series_without_segmentation_has_no_region(tmp_path: Path, guard: Guard) -> None:
    written(tmp_path, region=None)
    scans, _ = read(tmp_path, guard)
    assert scans[0].region_planes is None
    assert assemble(scans[0]).region is None


@pytest.mark.parametrize("name", ["empty", "missing"])
def test_folder_without_a_scan_says_so(tmp_path: Path, guard: Guard, name: str) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(NoScans):
        read(tmp_path / name, guard)
