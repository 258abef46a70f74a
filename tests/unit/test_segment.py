"""Claims about classical segmentation: a drawn lesion is found from a point, and what cannot be believed says so."""

from dataclasses import replace

import numpy as np
import pytest

from client.imaging.segment import METHODS, Method, NotSegmented, dice, from_box, from_mark
from client.inside import Volume
from common.errors import GeometryRefused
from tests.phantoms import Ellipsoid, volume

CENTRE_MM = (6.0, -4.0, 2.0)


def lesion(*, noise_hu: float = 15.0, lesion_hu: float = 120.0, orientation: tuple[float, ...] = (1, 0, 0, 0, 1, 0)) -> Volume:
    shape = Ellipsoid(semi_axes_mm=(12, 8, 7), angle_deg=25, centre_mm=CENTRE_MM)
    return volume(shape, shape=(32, 64, 64), body_radius_mm=30, lesion_hu=lesion_hu, noise_hu=noise_hu, orientation=orientation)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("lesion_hu", [120.0, -300.0])
def test_a_lesion_is_found_from_a_point(method: Method, lesion_hu: float) -> None:
    image = lesion(lesion_hu=lesion_hu)
    found, quality = from_mark(replace(image, region=None), mark_mm=CENTRE_MM, reach_mm=18, method=method)
    assert image.region is not None
    assert found.region is not None
    assert dice(found.region, image.region) > 0.93
    assert quality.agreement > 0.9
    assert quality.contrast_to_noise > 4
    assert not quality.leaked


def test_a_box_and_another_grid_find_the_same() -> None:
    box_mm = np.array([[24.0, 10.0, 14.0], [-12.0, -18.0, -10.0]])  # corners in any order
    for image in (lesion(), lesion(orientation=(0, 1, 0, -1, 0, 0))):
        found, _ = from_box(replace(image, region=None), box_mm=box_mm, method="watershed")
        assert image.region is not None
        assert found.region is not None
        assert dice(found.region, image.region) > 0.93


def test_where_there_is_nothing_the_quality_says_so() -> None:
    image = lesion(lesion_hu=0.0)
    for method in METHODS:
        _, quality = from_mark(image, mark_mm=CENTRE_MM, reach_mm=15, method=method)
        assert quality.agreement < 0.3
        assert quality.contrast_to_noise < 1


def test_a_lesion_larger_than_the_box_has_leaked() -> None:
    _, quality = from_mark(lesion(), mark_mm=CENTRE_MM, reach_mm=6, method="region-growing")
    assert quality.leaked


@pytest.mark.parametrize(
    ("seed_mm", "reach_mm", "reason"),
    [
        ((500.0, 0.0, 0.0), 10.0, NotSegmented.SEED_OUTSIDE),
        ((float("nan"), 0.0, 0.0), 10.0, NotSegmented.SEED_OUTSIDE),
        ((0.2, 0.2, 0.2), 0.1, NotSegmented.SEED_BOX),
    ],
)
def test_impossible_points_are_refused(seed_mm: tuple[float, float, float], reach_mm: float, reason: NotSegmented) -> None:
    with pytest.raises(GeometryRefused) as refused:
        from_mark(lesion(), mark_mm=seed_mm, reach_mm=reach_mm, method="threshold")
    assert refused.value.reason == reason


def test_a_marked_box_is_searched_itself_and_no_farther_than_the_study() -> None:
    image = lesion()
    corners = np.array([CENTRE_MM, CENTRE_MM]) + np.array([[-15.0], [15.0]])
    mark = (*corners[1], *corners[0])  # any two opposite corners
    boxed, quality = from_mark(replace(image, region=None), mark_mm=mark, reach_mm=15, method="watershed")
    around, _ = from_mark(replace(image, region=None), mark_mm=CENTRE_MM, reach_mm=15, method="watershed")
    np.testing.assert_array_equal(boxed.region, around.region)
    assert not quality.leaked
    for wrong in ((*CENTRE_MM, *CENTRE_MM), (*corners[0], *corners[1] + 0.5)):
        with pytest.raises(GeometryRefused, match=NotSegmented.SEED_BOX):
            from_mark(image, mark_mm=wrong, reach_mm=15, method="watershed")
