"""Claims about irregular stacks that a study lets be resampled: right in millimetres, and never over a missing slice."""

import math
from dataclasses import replace

import numpy as np
import pytest

from client.imaging.lesion import locate
from client.imaging.straighten import way
from client.imaging.volume import Gate, assemble
from client.inside import Float, Scan
from client.measure import length, shape
from common.errors import GeometryRefused
from tests.phantoms import MADE, Ellipsoid, points_of

C, S = math.cos(0.323), math.sin(0.323)  # 18.5 degrees
SIDE, SPACING_MM = 48, 0.8
LESION = Ellipsoid(semi_axes_mm=(11, 7, 6), angle_deg=25, centre_mm=(1.5, -2.0, 0.7))
ORIENTATIONS = {"straight": (1.0, 0, 0, 0, 1.0, 0), "tilted": (1.0, 0, 0, 0, C, -S), "sagittal": (0, 1.0, 0, 0, 0, -1.0)}


def stack(gaps_mm: Float, *, orientation: tuple[float, ...] = ORIENTATIONS["straight"], along: str = "normal") -> Scan:
    """A scan of a field that is linear in patient coordinates, with LESION drawn; slices move along the normal or along S."""
    row, column = np.array(orientation[:3]), np.array(orientation[3:])
    normal = np.cross(row, column)
    direction = normal if along == "normal" else np.array([0, 0, 1.0]) * np.sign(normal[2])
    heights = np.concatenate([[0], np.cumsum(gaps_mm)])
    heights -= heights.mean()
    corner = -(row + column) * SPACING_MM * (SIDE - 1) / 2
    positions = corner + np.outer(heights, direction)
    grid = np.indices((SIDE, SIDE)) * SPACING_MM
    points = positions[:, None, None] + grid[0][..., None] * column + grid[1][..., None] * row
    return Scan(
        patient="p",
        series="s",
        modality="CT",
        frame_of_reference=("f",) * len(heights),
        pixels=(points @ np.array([3.0, -2.0, 4.0])).astype(np.float32),
        positions_mm=positions,
        orientations=np.tile(orientation, (len(heights), 1)),
        spacings_mm=np.full((len(heights), 2), SPACING_MM),
        acquisition=MADE,
        region_planes=LESION.inside(points),
        region_positions_mm=positions,
        region_orientation=np.array(orientation),
        region_spacing_mm=np.full(2, SPACING_MM),
    )


UNEVEN = np.array([1.0] * 14 + [0.4] + [1.7] * 14)
EVEN = np.full(30, 1.2)


@pytest.mark.parametrize(
    ("made", "flaw"),
    [
        (stack(UNEVEN), Gate.UNEVEN_SPACING),
        (stack(UNEVEN, orientation=ORIENTATIONS["sagittal"]), Gate.UNEVEN_SPACING),
        (stack(EVEN, orientation=ORIENTATIONS["tilted"], along="S"), Gate.SHEARED),
        (stack(UNEVEN, orientation=ORIENTATIONS["tilted"], along="S"), Gate.UNEVEN_SPACING),
    ],
)
def test_everything_is_where_its_slices_were(made: Scan, flaw: Gate) -> None:
    with pytest.raises(GeometryRefused, match=flaw):
        assemble(made)
    found = assemble(made, irregular="resample")
    truth = points_of(found.affine, shape=found.voxels.shape) @ np.array([3.0, -2.0, 4.0])
    measured = np.ones(found.voxels.shape, np.bool_) if found.padding is None else ~found.padding
    assert measured.mean() > 0.6
    np.testing.assert_allclose(found.voxels[measured], truth[measured], atol=2e-3)  # a linear field is interpolated exactly
    assert (found.voxels[~measured] == -1024).all()
    lesion = locate(found)
    assert lesion.region is not None
    centre = points_of(lesion.affine, shape=lesion.voxels.shape)[lesion.region].mean(axis=0)
    np.testing.assert_allclose(centre, LESION.centre_mm, atol=0.3)
    assert shape.measure(lesion)["volume_mm3"] == pytest.approx(4 / 3 * math.pi * 11 * 7 * 6, rel=0.03)
    assert length.measure(lesion)["major_axis_mm"] == pytest.approx(2 * 11 * math.sqrt(4 / 5), abs=1)
    mixed = np.random.default_rng(0).permutation(len(made.pixels))
    again = assemble(
        replace(
            made, pixels=made.pixels[mixed], positions_mm=made.positions_mm[mixed], frame_of_reference=made.frame_of_reference
        ),
        irregular="resample",
    )
    np.testing.assert_array_equal(again.voxels, found.voxels)
    np.testing.assert_array_equal(again.region, found.region)


def test_what_is_missing_is_not_filled_in() -> None:
    lost = stack(np.array([1.2] * 10 + [2.4] + [1.2] * 10))
    with pytest.raises(GeometryRefused, match=Gate.UNEVEN_SPACING):
        assemble(lost, irregular="resample")
    slanted = stack(np.full(60, 1.2))
    far = replace(slanted, positions_mm=slanted.positions_mm + np.outer(np.arange(61), [1e4, 0, 0]))
    with pytest.raises(GeometryRefused, match=Gate.SHEARED):  # a picture of many kilometres
        assemble(far, irregular="resample")


def test_what_would_not_fit_into_memory_is_not_resampled() -> None:
    at_mm = np.outer(np.arange(20), [0, 1.0, 1.0])
    axes = {"row": np.array([1.0, 0, 0]), "column": np.array([0, 1.0, 0]), "spacing_mm": np.ones(2)}
    assert way(at_mm, **axes, shape=(5000, 5000)) is not None
    assert way(at_mm, **axes, shape=(5200, 5200)) is None


def test_an_oblique_stack_that_is_only_uneven_loses_nothing_at_its_rim() -> None:
    a, b = 0.3, 0.2
    turned = (math.cos(a), math.sin(a), 0, -math.sin(a) * math.cos(b), math.cos(a) * math.cos(b), math.sin(b))
    found = assemble(stack(UNEVEN, orientation=turned), irregular="resample")
    assert found.padding is None
    assert found.voxels.shape[1:] == (SIDE, SIDE)


def test_a_regular_stack_is_not_touched() -> None:
    made = stack(EVEN)
    one, other = assemble(made), assemble(made, irregular="resample")
    np.testing.assert_array_equal(one.voxels, other.voxels)
    np.testing.assert_array_equal(one.affine, other.affine)


def test_padding_and_regions_that_fit_no_slice_stay_refused() -> None:
    made = stack(UNEVEN)
    padded = made.pixels.copy()
    padded[15, 20:28, 20:28] = np.nan
    with pytest.raises(GeometryRefused, match=Gate.REGION_IN_PADDING):
        assemble(replace(made, pixels=padded), irregular="resample")
    for changes in (
        {"region_positions_mm": made.positions_mm + np.array([0, 0, 0.5])},
        {"region_spacing_mm": np.full(2, 0.4)},
        {"region_orientation": np.array(ORIENTATIONS["tilted"])},
        {"region_planes": np.ones((30, 4, 4), np.bool_)},
        {"region_planes": np.where(np.arange(30)[:, None, None] % 2, False, made.region_planes)},  # on every other slice
    ):
        with pytest.raises(GeometryRefused, match=Gate.REGION_OFF_GRID):
            assemble(replace(made, **changes), irregular="resample")
    plain = assemble(
        replace(made, region_planes=None, region_positions_mm=None, region_orientation=None, region_spacing_mm=None),
        irregular="resample",
    )
    assert plain.region is None
