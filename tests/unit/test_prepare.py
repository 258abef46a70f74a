"""Claims about the recipe, the lesion and the patch: same geometry after resampling, coded refusals, windowed views."""

import math
from dataclasses import replace
from decimal import Decimal
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from client.imaging.lesion import NoLesion, locate
from client.imaging.prepare import prepare
from client.imaging.tensor import to_tensor
from client.inside import Mask, Volume
from client.measure import length, shape
from common.errors import GeometryRefused
from common.recipe import Recipe
from tests.phantoms import Box, Ellipsoid, points_of, volume


def recipe(**changes: Any) -> Recipe:
    usual: dict[str, Any] = {
        "modality": "CT",
        "spacing_mm": Decimal(1),
        "denoise": "none",
        "denoise_mm": Decimal(1),
        "window_lower": Decimal(-1000),
        "window_upper": Decimal(400),
        "patch_voxels": 32,
        "edge_channel": True,
    }
    return Recipe(**(usual | changes))


def with_region(image: Volume, region: Mask | None) -> Volume:
    return replace(image, region=region)


@pytest.mark.parametrize("spacing_mm", [(1.0, 1.0, 1.0), (2.5, 0.7, 0.7), (1.0, 1.3, 0.9)])
def test_resampled_lesion_keeps_its_place_size_and_hu(spacing_mm: tuple[float, float, float]) -> None:
    lesion = Ellipsoid(semi_axes_mm=(15, 10, 9), angle_deg=30, centre_mm=(4.0, -3.0, 2.0))
    z, y, x = (math.ceil(n / s) for n, s in zip((36, 70, 70), spacing_mm, strict=True))
    shape_voxels = (z, y, x)
    before = volume(lesion, shape=shape_voxels, spacing_mm=spacing_mm, body_radius_mm=30)
    after = prepare(before, recipe=recipe())
    assert after.spacing_mm == (1.0, 1.0, 1.0)
    assert after.voxels.shape == tuple(math.ceil(round(n * s, 6)) for n, s in zip(shape_voxels, spacing_mm, strict=True))
    assert after.voxels.dtype == np.float32
    assert after.region is not None
    centroid = points_of(after.affine, shape=after.voxels.shape)[after.region].mean(axis=0)
    np.testing.assert_allclose(centroid, lesion.centre_mm, atol=0.3)
    assert length.measure(after)["longest_diameter_mm"] == pytest.approx(
        30, abs=max(1.0, *spacing_mm[1:])
    )  # one voxel in plane
    assert shape.measure(after)["volume_mm3"] == pytest.approx(4 / 3 * math.pi * 15 * 10 * 9, rel=0.03)
    np.testing.assert_array_equal(after.voxels, np.rint(after.voxels))
    middle = tuple(size // 2 for size in after.voxels.shape)
    assert after.voxels[middle] == 60
    corners = [points_of(one.affine, shape=one.voxels.shape).mean(axis=(0, 1, 2)) for one in (before, after)]
    np.testing.assert_allclose(corners[0], corners[1], atol=1e-9)  # image centres coincide


def test_linear_ramp_is_interpolated_exactly_in_patient_coordinates() -> None:
    before = volume(Box(), shape=(20, 20, 20), spacing_mm=(2.0, 1.5, 1.5), orientation=(0.8, 0.6, 0, -0.6, 0.8, 0))
    ramp = (points_of(before.affine, shape=(20, 20, 20)) @ np.array([3.0, -2.0, 4.0])).astype(np.float32)
    after = prepare(replace(before, voxels=ramp), recipe=recipe())
    expected = points_of(after.affine, shape=after.voxels.shape) @ np.array([3.0, -2.0, 4.0])
    inner = (slice(2, -2),) * 3
    assert np.abs(after.voxels[inner] - expected[inner]).max() <= 0.51


def test_same_spacing_changes_nothing() -> None:
    before = volume(Box())
    after = prepare(before, recipe=recipe())
    np.testing.assert_array_equal(after.voxels, before.voxels)
    np.testing.assert_array_equal(after.affine, before.affine)
    np.testing.assert_array_equal(after.region, before.region)


@pytest.mark.parametrize("denoise", ["gaussian", "median"])
def test_denoising_removes_noise_and_keeps_the_mean(denoise: str) -> None:
    noisy = volume(Box(sides_mm=(20, 20, 20)), shape=(40, 60, 60), noise_hu=40, body_radius_mm=28)
    after = prepare(noisy, recipe=recipe(denoise=denoise))
    inside = (slice(14, 26), slice(24, 36), slice(24, 36))
    assert after.voxels[inside].std() < 0.5 * noisy.voxels[inside].std()
    assert after.voxels[inside].mean() == pytest.approx(60, abs=3)
    assert after.voxels.dtype == np.float32


def test_impossible_recipes_are_refused() -> None:
    image = volume(Box(), shape=(10, 20, 20))
    with pytest.raises(GeometryRefused, match="TOO_LARGE"):
        prepare(image, recipe=recipe(spacing_mm=Decimal("0.001")))
    for wrong in ({"denoise_mm": Decimal(-1)}, {"window_lower": Decimal(400)}):
        with pytest.raises(ValidationError, match=next(iter(wrong))):
            recipe(denoise="gaussian", **wrong)
    with pytest.raises(GeometryRefused, match="NO_REGION"):
        to_tensor(with_region(image, None), recipe=recipe())


def test_largest_component_is_the_lesion() -> None:
    image = volume(Ellipsoid())
    assert image.region is not None
    speckled = image.region.copy()
    speckled[2, 5, 5:20] = True
    found = locate(with_region(image, speckled))
    np.testing.assert_array_equal(found.region, image.region)
    np.testing.assert_array_equal(locate(found).region, found.region)


@pytest.mark.parametrize("reason", NoLesion)
def test_what_cannot_be_measured_is_refused(reason: NoLesion) -> None:
    image = volume(Box(), shape=(10, 20, 20))
    empty = np.zeros(image.voxels.shape, np.bool_)
    small, border = empty.copy(), empty.copy()
    small[4, 4, 4:11] = True
    border[0:3, 4:9, 4:9] = True
    regions = dict(zip(NoLesion, (None, empty, small, border), strict=True))
    with pytest.raises(GeometryRefused) as caught:
        locate(with_region(image, regions[reason]))
    assert caught.value.reason == reason


def test_view_is_the_windowed_patch_around_the_lesion() -> None:
    image = volume(Ellipsoid(semi_axes_mm=(8, 5, 4), centre_mm=(6.5, -3.5, 0.5)))
    view = to_tensor(image, recipe=recipe())
    assert view.pixels.shape == (2, 32, 32)
    assert view.pixels.dtype == np.float32
    assert view.patient == image.patient
    assert view.pixels.min() >= 0
    assert view.pixels.max() <= 1
    lesion = np.float32((60 + 1000) / 1400)
    rows, columns = np.nonzero(view.pixels[0] == lesion)
    assert rows.mean() == pytest.approx(15.5, abs=0.51)
    assert columns.mean() == pytest.approx(15.5, abs=0.51)
    assert np.ptp(columns) > np.ptp(rows)  # longer along L
    assert view.pixels[1][view.pixels[0] == lesion].min() == 0  # flat inside
    assert view.pixels[1].max() > 0.01
    assert to_tensor(image, recipe=recipe(edge_channel=False)).pixels.shape == (1, 32, 32)


def test_view_beyond_the_image_is_the_lower_end_of_the_window() -> None:
    image = volume(Box(sides_mm=(6, 6, 4), centre_mm=(-8, -8, 0)), shape=(8, 24, 24), body_radius_mm=100)
    view = to_tensor(image, recipe=recipe(patch_voxels=48))
    assert (view.pixels[0, :12, :12] == 0).all()
    assert view.pixels[0, 24, 24] == np.float32((60 + 1000) / 1400)
    whole = np.ones(image.voxels.shape, np.bool_)
    assert to_tensor(with_region(image, whole), recipe=recipe(patch_voxels=8)).pixels.shape == (2, 8, 8)
