"""Claims about the measured parameters: IBSI conformance, known lengths, angles and depths, the same in every orientation."""

import csv
import math
import os
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import SimpleITK as sitk

from client.inside import Volume
from client.measure import angle, depth, intensity, length, shape
from tests.phantoms import AXIAL, MADE, Box, Ellipsoid, volume

DATA = Path(os.environ.get("MOTET_TEST_DATA", Path(__file__).parents[3] / "shared" / "data"))
FAMILIES: tuple[ModuleType, ...] = (length, angle, shape, intensity, depth)
# IBSI digital phantom: 4 slices of 4 rows of 5 voxels, 2 mm; "." lies outside the region and holds 9.
SLICES = (
    "14411 14611 41641 44641",
    "14411 11611 .1311 44611",
    "144.. 11111 11.11 11611",
    "144.. 11111 11111 11611",
)
TILTED = (math.cos(0.3), math.sin(0.3), 0.0, -math.sin(0.3) * math.cos(0.1), math.cos(0.3) * math.cos(0.1), math.sin(0.1))


def real(name: str) -> Path:
    path = DATA / name
    if not path.exists():
        pytest.skip(f'real data "{name}" not found in {DATA} (set MOTET_TEST_DATA)')
    return path


def everything(image: Volume, *, families: tuple[ModuleType, ...] = FAMILIES) -> dict[str, float]:
    return {name: value for family in families for name, value in family.measure(image).items()}


def degrees(values: dict[str, float]) -> float:
    return math.degrees(math.atan2(values["in_plane_angle_sin2"], values["in_plane_angle_cos2"])) / 2


def digital_phantom() -> Volume:
    letters = np.array([[list(row) for row in plane.split()] for plane in SLICES])
    region = letters != "."
    return Volume(
        patient="p",
        series="s",
        modality="CT",
        voxels=np.where(region, letters, "9").astype(np.float32),
        affine=np.diag([2.0, 2.0, 2.0, 1.0])[[2, 1, 0, 3]],
        spacing_mm=(2.0, 2.0, 2.0),
        acquisition=MADE,
        region=region,
    )


@pytest.mark.parametrize(
    ("name", "value", "tolerance"),
    [  # Zwanenburg et al. 2020, digital phantom
        ("diameter_3d_mm", 13.1, 0.1),
        ("major_axis_mm", 11.4, 0.1),
        ("minor_axis_mm", 9.31, 0.06),
        ("least_axis_mm", 8.54, 0.05),
        ("volume_mm3", 556, 4),
        ("surface_mm2", 388, 3),
        ("sphericity", 0.843, 0.005),
        ("elongation", 0.816, 0.005),
        ("flatness", 0.749, 0.005),
        ("solidity", 0.961, 0.005),
        ("mean_hu", 2.15, 0.011),
        ("sd_hu", math.sqrt(3.05), 0.005),
        ("median_hu", 1, 0),
        ("p10_hu", 1, 0),
        ("p90_hu", 4, 0),
        ("skewness", 1.08, 0.006),
        ("kurtosis", -0.355, 0.002),
    ],
)
def test_ibsi_digital_phantom(name: str, value: float, tolerance: float) -> None:
    assert everything(digital_phantom())[name] == pytest.approx(value, abs=max(tolerance, 1e-12))


def test_every_family_names_what_it_measures() -> None:
    names = [name for family in FAMILIES for name in family.NAMES]
    assert len(set(names)) == len(names) == 28
    for family in FAMILIES:
        assert tuple(family.measure(digital_phantom())) == family.NAMES


@pytest.mark.parametrize("angle_deg", [0, 17, 45, 73, 90, 120, 163])
def test_ellipsoid_has_its_length_angle_and_volume(angle_deg: int) -> None:
    values = everything(volume(Ellipsoid(semi_axes_mm=(20, 10, 8), angle_deg=angle_deg, centre_mm=(3.3, -4.2, 1.1))))
    assert values["longest_diameter_mm"] == pytest.approx(40, abs=1)
    assert values["short_axis_mm"] == pytest.approx(20, abs=1)
    assert values["diameter_3d_mm"] == pytest.approx(40, abs=1)
    assert (degrees(values) - angle_deg + 90) % 180 - 90 == pytest.approx(0, abs=1)
    assert values["major_polar_deg"] == pytest.approx(90, abs=1)
    assert values["volume_mm3"] == pytest.approx(4 / 3 * math.pi * 20 * 10 * 8, rel=0.02)
    assert values["elongation"] == pytest.approx(0.5, abs=0.02)
    assert values["flatness"] == pytest.approx(0.4, abs=0.02)


def test_box_has_its_diagonal_and_its_sides() -> None:
    values = everything(volume(Box(sides_mm=(24, 16, 10))))
    assert values["longest_diameter_mm"] == pytest.approx(math.hypot(24, 16), abs=1)
    assert values["diameter_3d_mm"] == pytest.approx(math.sqrt(24**2 + 16**2 + 10**2), abs=math.sqrt(3))
    assert values["volume_mm3"] == pytest.approx(24 * 16 * 10, rel=0.02)
    assert values["in_plane_angle_cos2"] == pytest.approx(1)
    assert values["mean_hu"] == 60
    assert values["sd_hu"] == 0


@pytest.mark.parametrize("offset_mm", [0.0, 8.0, 20.0])
def test_depth_is_measured_from_the_skin(offset_mm: float) -> None:
    values = everything(volume(Ellipsoid(semi_axes_mm=(6, 6, 6), centre_mm=(0.0, offset_mm, 0.0)), body_radius_mm=40))
    assert values["depth_centroid_mm"] == pytest.approx(40 - offset_mm, abs=1)
    assert values["depth_min_mm"] == pytest.approx(40 - offset_mm - 6, abs=1)


def test_air_inside_the_body_is_not_outside() -> None:
    image = volume(Ellipsoid(semi_axes_mm=(6, 6, 6)))
    voxels = image.voxels.copy()
    voxels[:, 48 - 10 : 48 - 8, 44:52] = -900  # a bronchus beside the lesion
    assert depth.measure(replace(image, voxels=voxels)) == depth.measure(image)
    everywhere = np.zeros_like(image.voxels)  # no air at all: no skin
    assert all(math.isnan(value) for value in depth.measure(replace(image, voxels=everywhere)).values())


@pytest.mark.parametrize(
    "orientation", [TILTED, (-1.0, 0, 0, 0, -1.0, 0), (1.0, 0, 0, 0, -1.0, 0)], ids=["oblique", "turned", "flipped"]
)
def test_orientation_of_the_grid_does_not_change_the_patient(orientation: tuple[float, ...]) -> None:
    lesion = Ellipsoid(semi_axes_mm=(18, 9, 7), angle_deg=30)
    straight, other = everything(volume(lesion)), everything(volume(lesion, orientation=orientation))
    for name in ("longest_diameter_mm", "short_axis_mm", "diameter_3d_mm", "depth_min_mm", "depth_centroid_mm"):
        assert other[name] == pytest.approx(straight[name], abs=1.5 if orientation is TILTED else 1e-6), name
    assert degrees(other) == pytest.approx(degrees(straight), abs=1)
    assert other["volume_mm3"] == pytest.approx(straight["volume_mm3"], rel=0.02)


def test_degenerate_regions_give_nan_and_never_a_warning() -> None:
    image = volume(Ellipsoid(), shape=(8, 24, 24), body_radius_mm=10)
    empty = np.zeros(image.voxels.shape, np.bool_)
    for region in (None, empty):
        assert all(math.isnan(value) for value in everything(replace(image, region=region)).values())
    voxel, row, plane = empty.copy(), empty.copy(), empty.copy()
    voxel[4, 12, 12] = row[4, 12, 6:14] = plane[4, 6:14, 6:16] = True
    one, line, flat = (everything(replace(image, region=region)) for region in (voxel, row, plane))
    assert one["longest_diameter_mm"] == 1.0
    assert math.isnan(one["major_axis_mm"])
    assert math.isnan(one["in_plane_angle_cos2"])
    assert line["longest_diameter_mm"] == pytest.approx(8)
    assert math.isnan(line["minor_axis_mm"])
    assert math.isnan(line["elongation"])
    assert math.isnan(flat["least_axis_mm"])
    assert math.isnan(flat["flatness"])
    assert flat["elongation"] > 0
    assert math.isnan(flat["skewness"])
    assert math.isnan(flat["kurtosis"])


def test_lung2_agrees_with_the_published_baseline() -> None:
    folder = real("lung2-ct")
    image, label = (sitk.ReadImage(str(folder / f"lung2_{part}.nrrd")) for part in ("image", "label"))
    region = sitk.GetArrayFromImage(label) == 1
    values = everything(
        Volume(
            patient="p",
            series="s",
            modality="CT",
            voxels=sitk.GetArrayFromImage(image).astype(np.float32),
            affine=np.diag([5.0, 0.6269531, 0.6269531, 1.0])[[2, 1, 0, 3]],
            spacing_mm=(5.0, 0.626953, 0.626953),
            acquisition=MADE,
            region=region,
        ),
        families=(length, shape, intensity),
    )
    assert region.sum() == 24_644
    assert values["mean_hu"] == pytest.approx(7.602, abs=0.001)
    assert values["median_hu"] == 41
    assert values["p10_hu"] == -102
    assert values["p90_hu"] == pytest.approx(60.7, abs=0.31)
    assert values["sd_hu"] ** 2 == pytest.approx(9400.77, abs=0.01)
    assert values["skewness"] == pytest.approx(-3.0222, abs=1e-4)
    assert values["kurtosis"] + 3 == pytest.approx(12.8847, abs=1e-4)
    with (folder / "baseline" / "baseline_shape.csv").open() as file:
        published = {row["featureName"]: row["lung2"] for row in csv.DictReader(file)}
    for ours, theirs, relative in (
        ("volume_mm3", "original_shape_MeshVolume", 0.001),
        ("surface_mm2", "original_shape_SurfaceArea", 0.001),
        ("sphericity", "original_shape_Sphericity", 0.001),
        ("diameter_3d_mm", "original_shape_Maximum3DDiameter", 0.001),
        ("longest_diameter_mm", "original_shape_Maximum2DDiameterSlice", 0.001),
        ("major_axis_mm", "original_shape_MajorAxisLength", 0.001),  # n against n - 1 is far below this
        ("elongation", "original_shape_Elongation", 0.001),
        ("flatness", "original_shape_Flatness", 0.001),
    ):
        if theirs in published:
            assert values[ours] == pytest.approx(float(published[theirs]), rel=relative), ours
    assert "original_shape_Elongation" in published


def test_axial_is_the_default_orientation() -> None:
    assert volume(Box()).affine[:3, :3].tolist() == np.eye(3)[[2, 1, 0]].tolist()
    assert AXIAL == (1, 0, 0, 0, 1, 0)
