"""Claims about RT Structure Sets: contours become the region that was drawn, by patient coordinates, or a coded reason."""

import math
import tracemalloc
from pathlib import Path

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk

from client.imaging import contours
from client.imaging.found import Contours, Identity, Reason, Segmentation, Slice
from client.imaging.guard import Guard
from client.imaging.limits import Limits
from client.imaging.scan import read_scans
from client.imaging.volume import assemble
from client.inside import Acquisition, Scan, SetAside, Volume
from tests import structures
from tests.phantoms import Ellipsoid, volume, write_series
from tests.structures import circle
from tests.unit.test_measure import real

WHO = Identity(patient_id="p", issuer="", study="1", series="2", instance="3", frame_of_reference="4")


def read(folder: Path, *, reader: Guard) -> tuple[list[Scan], list[SetAside]]:
    found = list(read_scans(folder, pseudonym=lambda _, raw: raw, reader=reader, modality="CT"))
    return [one for one in found if isinstance(one, Scan)], [one for one in found if isinstance(one, SetAside)]


@pytest.fixture
def series(tmp_path: Path) -> tuple[Path, pydicom.Dataset]:
    image = volume(Ellipsoid(semi_axes_mm=(6, 6, 6)), shape=(12, 40, 40), spacing_mm=(2.0, 1.0, 1.0), body_radius_mm=18)
    paths = write_series(tmp_path / "scans", patient_id="P-1", voxels_hu=image.voxels, spacing_mm=image.spacing_mm)
    return tmp_path / "scans", pydicom.dcmread(paths[0])


def region_of(folder: Path, *, reader: Guard) -> Volume:
    (scan,), aside = read(folder, reader=reader)
    assert not aside
    return assemble(scan)


def test_circles_become_a_cylinder_where_they_were_drawn(series: tuple[Path, pydicom.Dataset], guard: Guard) -> None:
    folder, of = series
    heights = (-3.0, -1.0, 1.0)
    ring = [circle(radius_mm=8, z_mm=z, centre_mm=(3, -2)) for z in heights]
    hole = [circle(radius_mm=3, z_mm=z, centre_mm=(3, -2)) for z in heights]
    structures.write(folder / "rs.dcm", of=of, contours={"Lung": [circle(radius_mm=15, z_mm=5)], "gtv 1": [*ring, *hole]})
    image = region_of(folder, reader=guard)
    assert image.region is not None
    assert image.region.any(axis=(1, 2)).sum() == 3
    assert image.region.sum() == pytest.approx(3 * math.pi * (8**2 - 3**2), rel=0.03)
    points = np.argwhere(image.region) @ image.affine[:3, :3].T + image.affine[:3, 3]
    np.testing.assert_allclose(points.mean(axis=0), [3, -2, -1], atol=0.1)
    assert np.hypot(points[:, 0] - 3, points[:, 1] + 2).min() >= 2.9


def test_several_tumours_are_one_region_and_a_type_counts_as_a_name(series: tuple[Path, pydicom.Dataset], guard: Guard) -> None:
    folder, of = series
    drawn = {"A": [circle(radius_mm=4, z_mm=1, centre_mm=(-8, 0))], "Lesion 2": [circle(radius_mm=4, z_mm=1, centre_mm=(8, 0))]}
    structures.write(folder / "rs.dcm", of=of, contours={**drawn, "Cord": [circle(radius_mm=2, z_mm=1)]}, kinds={"A": "GTV"})
    image = region_of(folder, reader=guard)
    assert image.region is not None
    assert image.region.sum() == pytest.approx(2 * math.pi * 16, rel=0.1)


@pytest.mark.parametrize(
    ("contours", "geometry", "reason"),
    [
        ({"Lung": [circle(radius_mm=4, z_mm=1)], "Cord": [circle(radius_mm=4, z_mm=1)]}, "CLOSED_PLANAR", Reason.NO_TARGET),
        ({"GTV": []}, "CLOSED_PLANAR", Reason.NO_TARGET),
        ({"GTV": [circle(radius_mm=4, z_mm=1)]}, "POINT", Reason.NO_GEOMETRY),
        ({"GTV": [circle(radius_mm=4, z_mm=1)[:2]]}, "CLOSED_PLANAR", Reason.NO_GEOMETRY),
        ({"GTV": [[(0.0, 0.0, 1e7), (1.0, 0.0, 1.0), (0.0, 1.0, 1.0)]]}, "CLOSED_PLANAR", Reason.NO_GEOMETRY),
    ],
)
def test_structure_sets_without_a_usable_tumour_are_set_aside_alone(
    series: tuple[Path, pydicom.Dataset],
    guard: Guard,
    contours: dict[str, list[structures.Contour]],
    geometry: str,
    reason: Reason,
) -> None:
    folder, of = series
    structures.write(folder / "rs.dcm", of=of, contours=contours, geometry=geometry)
    (scan,), aside = read(folder, reader=guard)
    assert [(one.name, one.reason) for one in aside] == [("rs.dcm", reason)]
    assert scan.region_planes is None


@pytest.mark.parametrize(
    "contour", [circle(radius_mm=4, z_mm=40), [(0.0, 0.0, 1.0), (5.0, 0.0, 3.0), (0.0, 5.0, 1.0)]], ids=["beyond", "aslant"]
)
def test_a_contour_outside_the_slices_costs_the_series_which_without_it_would_be_another(
    series: tuple[Path, pydicom.Dataset], guard: Guard, contour: structures.Contour
) -> None:
    folder, of = series
    structures.write(folder / "rs.dcm", of=of, contours={"GTV": [contour]})
    with pytest.raises(Exception, match="no usable CT series"):
        read(folder, reader=guard)


def test_more_points_than_a_lesion_has_are_refused(series: tuple[Path, pydicom.Dataset]) -> None:
    folder, of = series
    path = structures.write(folder / "rs.dcm", of=of, contours={"GTV": [circle(radius_mm=4, z_mm=1, points=101)]})
    with Guard(limits=Limits(contour_points=100)) as reader:
        assert reader.read(path, with_pixels=True) == Reason.TOO_LARGE
    with Guard(limits=Limits(contour_points=101)) as reader:
        assert isinstance(reader.read(path, with_pixels=True), Contours)


def plane(side: int) -> Slice:
    return Slice(
        identity=WHO,
        acquisition=Acquisition(manufacturer="", kernel="", kvp=100.0, slice_thickness_mm=1.0),
        rows=side,
        columns=side,
        position_mm=np.zeros(3),
        orientation=np.array([1.0, 0, 0, 0, 1, 0]),
        spacing_mm=np.ones(2),
        pixels=None,
    )


def drawn(*polygons: np.ndarray, regions: list[int]) -> Contours:
    """The polygons, (point, 2) each, in the plane of `plane`."""
    points = [np.column_stack([one, np.zeros(len(one))]) for one in polygons]
    ends = np.column_stack([np.cumsum([len(one) for one in points]), regions]).astype(np.float64)
    return Contours(identity=WHO, of_series="2", points_mm=np.concatenate(points), ends=ends)


def test_contours_are_even_odd_within_a_region_of_interest_and_united_over_them() -> None:
    random = np.random.default_rng(4)
    polygons = [random.uniform(-10, 50, (random.integers(3, 9), 2)) for _ in range(12)]
    regions = np.repeat([7, 1, 3], [4, 6, 2]).tolist()
    found = contours.filled(drawn(*polygons, regions=regions), slices=[plane(40)])
    assert isinstance(found, Segmentation)
    assert found.planes is not None
    alone = [contours.filled(drawn(one, regions=[1]), slices=[plane(40)]).planes for one in polygons]
    odd = [np.logical_xor.reduce([one for one, of in zip(alone, regions, strict=True) if of == at]) for at in (7, 1, 3)]
    np.testing.assert_array_equal(found.planes, np.logical_or.reduce(odd))


def test_thousands_of_regions_of_interest_take_the_memory_of_one() -> None:
    corner = np.array([[1.0, 1], [5, 1], [5, 5]])
    many = drawn(*[corner] * 3000, regions=list(range(3000)))
    tracemalloc.start()
    found = contours.filled(many, slices=[plane(256)])
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert isinstance(found, Segmentation)
    assert most < 20 * 256 * 256


def test_contours_that_would_take_hours_are_refused_at_once() -> None:
    turn = np.linspace(0, 2 * np.pi, 1 << 20)
    star = 1000 + np.column_stack([np.cos(turn), np.sin(turn)]) * (500 + 400 * np.cos(9 * turn))[:, None]
    assert contours.filled(drawn(star, regions=[1]), slices=[plane(2000)]) == Reason.TOO_LARGE


@pytest.mark.parametrize("share", [0.3, 0.6, 0.9, 0.99])
def test_a_cut_structure_set_is_refused(series: tuple[Path, pydicom.Dataset], guard: Guard, share: float) -> None:
    folder, of = series
    path = structures.write(folder / "rs.dcm", of=of, contours={"GTV": [circle(radius_mm=4, z_mm=z) for z in (-1, 1)]})
    data = path.read_bytes()
    path.write_bytes(data[: int(share * len(data))])
    assert isinstance(guard.read(path, with_pixels=True), Reason)


def test_the_ct_phantoms_contours_are_exactly_its_published_mask(tmp_path: Path, guard: Guard) -> None:
    folder = real("ibsi-ct")
    for path in (path for part in ("image", "rtstruct") for path in (folder / part).glob("*.dcm")):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    image = region_of(tmp_path, reader=guard)
    mask = sitk.GetArrayFromImage(sitk.ReadImage(str(folder / "mask" / "mask.nii.gz"))) > 0
    assert image.region is not None
    assert image.region.sum() == mask.sum() == 125_256
    assert round(float(image.voxels[image.region].mean(dtype=np.float64)), 1) == -46.9
