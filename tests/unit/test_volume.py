"""Claims about the geometry gate: irregular stacks are refused with their code, regular ones are where they say they are."""

import functools
import itertools
import math
import os
import tarfile
from dataclasses import replace
from pathlib import Path

import highdicom as hd
import numpy as np
import pydicom
import pytest

from client.imaging.found import Reason
from client.imaging.guard import Guard
from client.imaging.scan import read_scans
from client.imaging.volume import Gate, assemble
from client.inside import Scan, SetAside, Volume
from common.errors import GeometryRefused, NoScans
from tests.phantoms import MADE, Ellipsoid, volume, write_series

DATA = Path(os.environ.get("MOTET_TEST_DATA", Path(__file__).parents[3] / "shared" / "data"))
C, S = math.cos(0.4), math.sin(0.4)
ORIENTATIONS = {
    "axial": (1.0, 0, 0, 0, 1.0, 0),
    "oblique": (C, S, 0, -S, C, 0),
    "tilted patient": (1.0, 0, 0, 0, C, S),
    "feet first": (-1.0, 0, 0, 0, 1.0, 0),
    "sagittal": (0, 1.0, 0, 0, 0, -1.0),
    "coronal": (1.0, 0, 0, 0, 0, -1.0),
}


def scan(count: int = 8, *, gap_mm: float = 2.0) -> Scan:
    return Scan(
        patient="p",
        series="s",
        modality="CT",
        frame_of_reference=("f",) * count,
        pixels=np.arange(count * 30, dtype=np.float32).reshape(count, 5, 6),
        positions_mm=np.outer(np.arange(count), [0, 0, gap_mm]) + np.array([-10.0, -20, -30]),
        orientations=np.tile(ORIENTATIONS["axial"], (count, 1)),
        spacings_mm=np.full((count, 2), 0.5),
        acquisition=MADE,
    )


def changed(original: Scan, name: str, at: tuple[int, ...], value: float) -> Scan:
    array = getattr(original, name).copy()
    array[at] = value
    return replace(original, **{name: array})


def with_region(original: Scan, *, origin_mm: tuple[float, ...], spacing_mm: float = 0.5, planes: int = 3) -> Scan:
    return replace(
        original,
        region_planes=np.ones((planes, 2, 2), np.bool_),
        region_positions_mm=np.array(origin_mm) + np.outer(np.arange(planes), [0, 0, 2.0]),
        region_orientation=np.array(ORIENTATIONS["axial"]),
        region_spacing_mm=np.full(2, spacing_mm),
    )


def refused(bad: Scan) -> str:
    with pytest.raises(GeometryRefused) as caught:
        assemble(bad)
    return caught.value.reason


def test_regular_stack_is_a_volume_in_any_file_order() -> None:
    original = scan()
    found = assemble(original)
    assert found.spacing_mm == (2.0, 0.5, 0.5)
    np.testing.assert_array_equal(found.voxels, original.pixels)
    np.testing.assert_allclose(found.affine[:3] @ [3, 2, 1, 1], [-9.5, -19, -24])
    order = [5, 2, 7, 0, 1, 6, 3, 4]
    mixed = assemble(replace(original, pixels=original.pixels[order], positions_mm=original.positions_mm[order]))
    np.testing.assert_array_equal(mixed.voxels, found.voxels)
    np.testing.assert_array_equal(mixed.affine, found.affine)


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (scan(1), Gate.SINGLE_SLICE),
        (replace(scan(), frame_of_reference=("f",) * 7 + ("g",)), Gate.MIXED_FRAME_OF_REFERENCE),
        (changed(scan(), "orientations", (3, 1), 0.01), Gate.MIXED_ORIENTATION),
        (changed(scan(), "spacings_mm", (3, 1), 0.51), Gate.MIXED_SPACING),
        (changed(scan(), "positions_mm", (3, 2), -26.0), Gate.DUPLICATE_POSITION),
        (changed(scan(), "positions_mm", (7, 2), -10.0), Gate.UNEVEN_SPACING),
        (changed(scan(), "positions_mm", (3, 2), -24.06), Gate.UNEVEN_SPACING),
        (changed(scan(), "positions_mm", (3, 0), -9.9), Gate.SHEARED),
        (replace(scan(), positions_mm=scan().positions_mm + np.outer(np.arange(8), [0, 0.2, 0])), Gate.SHEARED),
        (with_region(scan(), origin_mm=(-10, -20, -32)), Gate.REGION_OUTSIDE),
        (with_region(scan(), origin_mm=(-7.5, -20, -30)), Gate.REGION_OUTSIDE),
        (with_region(scan(), origin_mm=(-9.8, -20, -30)), Gate.REGION_OFF_GRID),
        (with_region(scan(), origin_mm=(-10, -20, -29)), Gate.REGION_OFF_GRID),
        (with_region(scan(), origin_mm=(-10, -20, -30), spacing_mm=1.0), Gate.REGION_OFF_GRID),
        (with_region(changed(scan(), "pixels", (1, 0, 0), np.nan), origin_mm=(-10, -20, -30)), Gate.REGION_IN_PADDING),
    ],
)
def test_each_irregularity_has_its_reason(bad: Scan, reason: Gate) -> None:
    assert refused(bad) == reason


def test_small_rounding_of_positions_is_no_irregularity() -> None:
    rounded = changed(scan(), "positions_mm", (3, 2), -24.03)
    assert assemble(rounded).spacing_mm == (2.0, 0.5, 0.5)


def test_padding_becomes_air_and_stays_out_of_regions() -> None:
    found = assemble(with_region(changed(scan(), "pixels", (7, 4, 5), np.nan), origin_mm=(-10, -20, -30)))
    assert found.voxels[7, 4, 5] == -1024
    assert found.region is not None
    assert found.region.sum() == 12
    assert found.region[:3, :2, :2].all()


@pytest.mark.parametrize("name", ORIENTATIONS)
@pytest.mark.parametrize("reverse", [False, True])
def test_volume_and_region_are_where_highdicom_puts_them(guard: Guard, tmp_path: Path, name: str, reverse: bool) -> None:
    orientation = ORIENTATIONS[name]
    centre_mm = (12.0, -7.0, 33.0)
    lesion = Ellipsoid(semi_axes_mm=(8, 4, 5), angle_deg=25, centre_mm=centre_mm)
    image = volume(
        lesion, shape=(14, 24, 28), spacing_mm=(1.5, 0.9, 0.8), orientation=orientation, centre_mm=centre_mm, noise_hu=9
    )
    paths = write_series(
        tmp_path,
        patient_id="P",
        voxels_hu=image.voxels,
        spacing_mm=image.spacing_mm,
        region=image.region,
        orientation=orientation,
        centre_mm=centre_mm,
        reverse=reverse,
    )
    (one,) = read_scans(tmp_path, pseudonym=lambda kind, _: kind, reader=guard, modality="CT")
    assert isinstance(one, Scan)
    found = assemble(one)
    theirs = hd.get_volume_from_series([pydicom.dcmread(path) for path in paths[:-1]]).to_patient_orientation("HPL")
    np.testing.assert_allclose(found.affine, theirs.affine, atol=1e-5)
    np.testing.assert_array_equal(found.voxels, theirs.array)
    np.testing.assert_allclose(found.spacing_mm, theirs.spacing, atol=1e-5)
    region = hd.seg.segread(paths[-1]).get_volume(segment_numbers=[1], combine_segments=True).match_geometry(theirs)
    np.testing.assert_array_equal(found.region, region.array > 0)


@functools.lru_cache
def _unpacked(archive: Path, folder: Path) -> Path:
    with tarfile.open(archive, "r:xz") as tar:
        tar.extractall(folder, filter="data")
    return folder


@pytest.mark.parametrize(
    ("name", "slices", "reason"),
    [("ge-head-tilt-uneven", 28, Gate.UNEVEN_SPACING), ("philips-head-phantom-tilt", 54, Gate.SHEARED)],
)
def test_real_tilted_and_uneven_heads_are_refused(
    guard: Guard, tmp_path_factory: pytest.TempPathFactory, name: str, slices: int, reason: Gate
) -> None:
    archive = DATA / "geometry-ct" / f"{name}.tar.xz"
    if not archive.exists():
        pytest.skip(f'real data "geometry-ct" not found in {DATA} (set MOTET_TEST_DATA)')
    folder = _unpacked(archive, tmp_path_factory.mktemp(name))
    results = list(read_scans(folder, pseudonym=lambda kind, raw: f"{kind}{hash(raw)}", reader=guard, modality="CT"))
    scans = [one for one in results if isinstance(one, Scan)]
    assert [len(one.pixels) for one in scans] == [slices]
    assert refused(scans[0]) == reason
    repaired = assemble(scans[0], irregular="resample")
    assert repaired.spacing_mm[0] == pytest.approx({"ge": 4.002, "ph": 2.371}[name[:2]], abs=2e-3)  # along the normal
    assert _heads(repaired, of=scans[0]) < scans[0].spacings_mm.min()  # a voxel; unrepaired it is up to 40 mm
    assert all("DIRFILE" in one.name for one in results if isinstance(one, SetAside))
    if name.startswith("ge"):
        assert np.isnan(scans[0].pixels).sum() == 1_741_040
        assert np.nanmin(scans[0].pixels) > -1500


def _heads(repaired: Volume, *, of: Scan) -> float:
    """Return how far, mm, a head lies from where the repaired volume has it, at most over slices that lie on its grid."""
    row, column = of.orientations[0, :3], of.orientations[0, 3:]
    normal = np.cross(row, column)
    heights = of.positions_mm @ normal
    own = [(repaired.affine @ [z, 0, 0, 1])[:3] @ normal for z in range(len(repaired.voxels))]
    worst = 0.0
    for plane, position, height in zip(of.pixels, of.positions_mm, heights, strict=True):
        z = int(np.abs(np.array(own) - height).argmin())
        rows, columns = np.nonzero(plane > -300)
        if abs(own[z] - height) > 0.05 or len(rows) < 1000:
            continue
        there = position + rows.mean() * of.spacings_mm[0, 0] * column + columns.mean() * of.spacings_mm[0, 1] * row
        here = (repaired.affine @ [z, *np.argwhere(repaired.voxels[z] > -300).mean(axis=0), 1])[:3]
        worst = max(worst, float(np.linalg.norm(here - there)))
    assert worst > 0
    return worst


def test_real_stacked_phases_are_refused_as_duplicates(guard: Guard) -> None:
    folder = DATA / "duplicate-positions-mr"
    if not folder.exists():
        pytest.skip(f'real data "duplicate-positions-mr" not found in {DATA} (set MOTET_TEST_DATA)')
    files = [pydicom.dcmread(path) for path in sorted(folder.glob("*.dcm"))]
    stacked = Scan(
        patient="p",
        series="s",
        modality="CT",
        frame_of_reference=("f",) * len(files),
        pixels=np.stack([ds.pixel_array for ds in files]).astype(np.float32),
        positions_mm=np.array([ds.ImagePositionPatient for ds in files], np.float64),
        orientations=np.array([ds.ImageOrientationPatient for ds in files], np.float64),
        spacings_mm=np.array([ds.PixelSpacing for ds in files], np.float64),
        acquisition=MADE,
    )
    assert len(files) == 36
    assert refused(stacked) == Gate.DUPLICATE_POSITION
    phase = slice(0, 12)
    phase_1 = assemble(
        replace(
            stacked,
            **{name: getattr(stacked, name)[phase] for name in ("pixels", "positions_mm", "orientations", "spacings_mm")},
            frame_of_reference=("f",) * 12,
        )
    )
    assert sorted(round(step, 3) for step in phase_1.spacing_mm) == [0.703, 0.703, 2.0]
    results = read_scans(folder, pseudonym=lambda kind, _: kind, reader=guard, modality="CT")
    assert isinstance(first := next(results), SetAside)
    assert first.reason == Reason.MODALITY  # not what the study measures
    with pytest.raises(NoScans):
        list(results)
    results = read_scans(folder, pseudonym=lambda kind, _: kind, reader=guard, modality="MR")
    reasons = {item.reason for item in itertools.islice(results, len(list(folder.iterdir())) - 36 + 1)}
    assert reasons == {Reason.NOT_DICOM, Reason.SEVERAL_PHASES}  # nobody drew on one of them
    with pytest.raises(NoScans):
        list(results)
