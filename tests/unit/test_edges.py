"""Claims about edges: known ramps have their gradient and width, however the grid lies; what is not there is missing."""

import math
import warnings
from dataclasses import replace

import numpy as np
import pytest

from client.inside import Volume
from client.measure import edges
from tests.phantoms import Ellipsoid, points_of, volume

INSIDE = ("gradient_mean_hu_per_mm", "gradient_sd_hu_per_mm")
CENTRE_MM = (0.3, -0.2, 0.1)


def ball(
    *,
    radius_mm: float = 12.0,
    contrast_hu: float = 100.0,
    ramp_mm: float = 4.0,
    noise_hu: float = 0.0,
    spacing_mm: tuple[float, float, float] = (1.0, 1.0, 1.0),
    shape: tuple[int, int, int] = (44, 44, 44),
) -> Volume:
    """A sphere whose HU fall linearly by `contrast_hu` over `ramp_mm` across its surface."""
    image = volume(Ellipsoid(semi_axes_mm=(radius_mm,) * 3, centre_mm=CENTRE_MM), shape=shape, spacing_mm=spacing_mm)
    points = points_of(image.affine, shape=shape)
    outside_mm = np.linalg.norm(points - np.array(CENTRE_MM), axis=-1) - radius_mm
    hu = contrast_hu * np.clip(0.5 - outside_mm / ramp_mm, 0, 1)
    hu += np.random.default_rng(0).normal(0, noise_hu, shape)
    return replace(image, voxels=hu.astype(np.float32))


@pytest.mark.parametrize("radius_mm", [6, 12])
@pytest.mark.parametrize("contrast_hu", [100, -300])
@pytest.mark.parametrize("ramp_mm", [3, 4])
def test_a_sphere_has_the_gradient_contrast_and_width_of_its_ramp(radius_mm: float, contrast_hu: float, ramp_mm: float) -> None:
    values = edges.measure(ball(radius_mm=radius_mm, contrast_hu=contrast_hu, ramp_mm=ramp_mm))
    slope = contrast_hu / ramp_mm
    assert values["border_gradient_mean_hu_per_mm"] == pytest.approx(abs(slope), rel=0.03)
    assert values["border_gradient_sd_hu_per_mm"] < 0.06 * abs(slope)
    assert values["border_drop_hu_per_mm"] == pytest.approx(slope, rel=0.03)
    assert values["border_contrast_hu"] == pytest.approx(contrast_hu, rel=1e-3)
    assert values["border_width_mm"] == pytest.approx(ramp_mm, rel=0.03)


def test_the_gradient_inside_is_that_of_the_part_of_the_ramp_inside() -> None:
    values = edges.measure(ball())
    share = (12**3 - 10**3) / 12**3  # of the sphere lies within the 2 mm of the ramp inside, at 25 HU/mm
    assert values["gradient_mean_hu_per_mm"] == pytest.approx(25 * share, rel=0.03)
    assert values["gradient_sd_hu_per_mm"] == pytest.approx(25 * math.sqrt(share * (1 - share)), rel=0.1)


def test_a_plain_slope_has_one_gradient_everywhere_and_no_drop() -> None:
    image = ball(spacing_mm=(2.0, 1.0, 1.5))
    points = points_of(image.affine, shape=image.voxels.shape)
    values = edges.measure(replace(image, voxels=(points @ np.array([3.0, -4.0, 12.0])).astype(np.float32)))
    assert values["gradient_mean_hu_per_mm"] == pytest.approx(13, rel=1e-5)
    assert values["border_gradient_mean_hu_per_mm"] == pytest.approx(13, rel=1e-5)
    assert values["gradient_sd_hu_per_mm"] == pytest.approx(0, abs=1e-3)
    assert values["border_drop_hu_per_mm"] == pytest.approx(0, abs=0.2)


def test_noise_makes_the_magnitude_larger_and_leaves_the_drop() -> None:
    values = edges.measure(ball(noise_hu=20))
    assert values["border_gradient_mean_hu_per_mm"] > 30
    assert values["border_drop_hu_per_mm"] == pytest.approx(25, rel=0.05)
    assert values["border_width_mm"] == pytest.approx(4, rel=0.05)


def test_a_step_reads_as_one_to_two_voxels() -> None:
    for size in (0.75, 1.0):
        values = edges.measure(ball(radius_mm=8, ramp_mm=1e-6, spacing_mm=(size,) * 3))
        assert size < values["border_width_mm"] < 2 * size


def test_edges_are_the_same_however_the_grid_lies() -> None:
    image = ball(radius_mm=7, noise_hu=10, shape=(28, 30, 32))
    assert image.region is not None
    for turned in (
        replace(image, voxels=image.voxels[::-1, :, ::-1].copy(), region=image.region[::-1, :, ::-1]),
        replace(image, voxels=image.voxels.transpose(1, 2, 0).copy(), region=image.region.transpose(1, 2, 0)),
    ):
        assert edges.measure(turned) == pytest.approx(edges.measure(image), rel=1e-9)


def test_what_is_far_from_the_border_does_not_count() -> None:
    image = ball(radius_mm=7)
    points = points_of(image.affine, shape=image.voxels.shape)
    far = np.linalg.norm(points - np.array(CENTRE_MM), axis=-1) > 7 + edges.BAND_MM[1] + 1
    assert edges.measure(replace(image, voxels=np.where(far, np.float32(900), image.voxels))) == edges.measure(image)


@pytest.mark.parametrize("kind", ["none", "empty", "one voxel", "everything", "one slice", "no contrast"])
def test_what_is_not_defined_is_missing(kind: str) -> None:
    image = ball(shape=(16, 18, 20), radius_mm=6)
    region = np.zeros(image.voxels.shape, np.bool_)
    if kind == "one voxel":
        region[8, 9, 9] = True
    if kind == "everything":
        region[:] = True
    if kind == "one slice":
        image = replace(image, voxels=image.voxels[8:9].copy())
        region = region[8:9].copy()
        region[0, 4:14, 4:14] = True
    if kind == "no contrast":
        image = replace(image, voxels=np.full_like(image.voxels, 40))
        region = np.asarray(image.region)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        values = edges.measure(replace(image, region=None if kind == "none" else region))
    assert tuple(values) == edges.NAMES
    missing = {name for name, value in values.items() if math.isnan(value)}
    assert (
        missing
        == {
            "none": set(edges.NAMES),
            "empty": set(edges.NAMES),
            "one voxel": {"border_contrast_hu", "border_width_mm"},
            "everything": set(edges.NAMES) - set(INSIDE),
            "one slice": set(),
            "no contrast": {"border_width_mm"},
        }[kind]
    )
