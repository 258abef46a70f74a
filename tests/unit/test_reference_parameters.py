"""Claims about the reference's 39 parameters: each is in the table, measured, at IBSI's values or a phantom's known ones."""

import csv
import math
from dataclasses import replace

import numpy as np
import pytest
from scipy.spatial.distance import cdist

from client import pipeline
from client.imaging.prepare import prepare
from client.inside import Volume
from client.measure import (
    acquisition,
    angle,
    body,
    burden,
    depth,
    edges,
    histogram,
    intensity,
    length,
    position,
    region,
    shape,
    wall,
)
from common.codes import PARAMETERS
from common.recipe import Recipe
from common.variable import Variable
from tests.phantoms import Ellipsoid, affine_of, points_of, volume
from tests.unit.test_measure import MADE, digital_phantom, everything, real
from tests.unit.test_texture import chest, cubic, hu_of, without_outliers  # noqa: F401  (chest is a fixture)

IBSI = {  # name: the tag of IBSI's tables
    "diameter_3d_mm": "morph_diam",
    "major_axis_mm": "morph_pca_maj_axis",
    "minor_axis_mm": "morph_pca_min_axis",
    "least_axis_mm": "morph_pca_least_axis",
    "volume_mm3": "morph_volume",
    "surface_mm2": "morph_area_mesh",
    "sphericity": "morph_sphericity",
    "elongation": "morph_pca_elongation",
    "flatness": "morph_pca_flatness",
    "solidity": "morph_vol_dens_conv_hull",
    "surface_to_volume_per_mm": "morph_av",
    "mean_hu": "stat_mean",
    "sd_hu": "stat_var",  # its square
    "median_hu": "stat_median",
    "p10_hu": "stat_p10",
    "p90_hu": "stat_p90",
    "skewness": "stat_skew",
    "kurtosis": "stat_kurt",
    "rms_hu": "stat_rms",
    "intensity_entropy_bits": "ih_entropy",
    "integrated_intensity_hu_mm3": "morph_integ_int",
}


def test_the_table_has_every_number_of_the_reference_and_everything_in_it_is_measured() -> None:
    numbers = {one.number for one in PARAMETERS.values()}
    assert numbers == {f"P{at}" for at in range(1, 40)} | {"C"}
    measured = {name for family in pipeline.FAMILIES for name in family.NAMES}
    assert {name for name, one in PARAMETERS.items() if one.number != "C"} <= measured
    assert all(one.lower < one.upper for one in PARAMETERS.values())
    codes = [(one.scheme, one.code) for one in PARAMETERS.values()]
    assert len(set(codes)) == len(codes)
    assert set(IBSI) | {name for name in PARAMETERS if name[:4] in {"glcm", "glrl", "glsz", "ngtd"}} == {
        name for name, one in PARAMETERS.items() if one.scheme == "IBSI"
    }


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("surface_to_volume_per_mm", 0.698),
        ("rms_hu", 2.77),
        ("intensity_entropy_bits", 1.27),
        ("integrated_intensity_hu_mm3", 1200.0),
    ],
)
def test_ibsi_digital_phantom_has_the_rest(name: str, value: float) -> None:
    image = digital_phantom()
    levels = replace(image, voxels=hu_of(image.voxels))
    values = everything(image, families=(shape, intensity, burden)) | histogram.measure(levels)
    assert values[name] == pytest.approx(value, rel=0.0051)


@pytest.mark.parametrize("configuration", ["c", "d", "e"])
def test_ibsi_ct_phantom_has_shape_and_intensity(chest: Volume, configuration: str) -> None:  # noqa: F811
    image = prepare(chest, recipe=Recipe.model_construct(spacing_mm=2, denoise="none", denoise_mm=0))
    hu = cubic(chest, like=image) if configuration == "e" else image.voxels
    assert image.region is not None
    kept = image.region
    if configuration in "ce":
        kept = kept & (hu >= -1000) & (hu <= 400)
    if configuration in "de":
        kept = without_outliers(hu, region=kept)
    values = shape.measure(image) | length.measure(image) | intensity.measure(replace(image, voxels=hu, region=kept))
    values["integrated_intensity_hu_mm3"] = values["volume_mm3"] * values["mean_hu"]
    levels = hu
    if configuration in "de":
        lowest, highest = hu[kept].min(), hu[kept].max()
        levels = hu_of(np.minimum(np.floor(32 * (hu - lowest) / (highest - lowest)) + 1, 32))
    values |= histogram.measure(replace(image, voxels=levels, region=kept))
    values["sd_hu"] **= 2
    with (real("ibsi-reference") / f"ibsi_1_chest_config_{configuration}.csv").open() as file:
        published = {row["tag"]: row for row in csv.DictReader(file, delimiter=";")}
    for name, tag in IBSI.items():
        reference, tolerance = (float(published[tag][column]) for column in ("reference value", "tolerance"))
        assert values[name] == pytest.approx(reference, abs=max(tolerance, 0.0051 * abs(reference)), rel=0), name


def leaning(*, polar_deg: float, azimuth_deg: float) -> Volume:
    """An ellipsoid of 18 x 8 x 8 mm whose long axis leans `polar_deg` from S towards `azimuth_deg`, from L towards P."""
    affine = affine_of(shape=(48, 48, 48), spacing_mm=(1.0, 1.0, 1.0))
    points = points_of(affine, shape=(48, 48, 48))
    theta, phi = math.radians(polar_deg), math.radians(azimuth_deg)
    along = points @ np.array([math.sin(theta) * math.cos(phi), math.sin(theta) * math.sin(phi), math.cos(theta)])
    across = (points**2).sum(axis=-1) - along**2
    region = along**2 / 18**2 + across / 8**2 <= 1
    voxels = np.where(region, 60, 0).astype(np.float32)
    return Volume(
        patient="p",
        series="s",
        modality="CT",
        voxels=voxels,
        affine=affine,
        spacing_mm=(1.0, 1.0, 1.0),
        acquisition=MADE,
        region=region,
    )


@pytest.mark.parametrize(("polar_deg", "azimuth_deg"), [(30, 20), (60, 100), (45, 170), (80, -40), (90, 135)])
def test_the_major_axis_has_its_polar_angle_and_azimuth(polar_deg: float, azimuth_deg: float) -> None:
    values = angle.measure(leaning(polar_deg=polar_deg, azimuth_deg=azimuth_deg))
    assert values["major_polar_deg"] == pytest.approx(polar_deg, abs=1)
    found = math.degrees(math.atan2(values["major_azimuth_sin2"], values["major_azimuth_cos2"])) / 2
    assert (found - azimuth_deg + 90) % 180 - 90 == pytest.approx(0, abs=1)


def test_an_axis_along_the_body_has_no_azimuth() -> None:
    values = angle.measure(leaning(polar_deg=0, azimuth_deg=0))
    assert values["major_polar_deg"] == pytest.approx(0, abs=1e-6)
    assert math.isnan(values["major_azimuth_cos2"])
    assert math.isnan(values["major_azimuth_sin2"])


def test_a_sphere_has_its_mass_and_surface_to_volume() -> None:
    image = volume(Ellipsoid(semi_axes_mm=(12, 12, 12)), lesion_hu=100)
    values = burden.measure(image) | shape.measure(image)
    assert values["mass_mg"] == pytest.approx(4 / 3 * math.pi * 12**3 * 1.1, rel=0.02)
    assert values["integrated_intensity_hu_mm3"] == pytest.approx(values["volume_mm3"] * 100)
    assert values["surface_to_volume_per_mm"] == pytest.approx(3 / 12, rel=0.1)  # stairs have more surface than the sphere


def thorax(*, lesion: Ellipsoid, shape_voxels: tuple[int, int, int] = (40, 80, 96), size_mm: float = 2.0) -> Volume:
    """Two box-shaped lungs, 10 to 60 mm to the left and right, in a cylinder of water of 76 mm; `lesion` in one."""
    image = volume(lesion, shape=shape_voxels, spacing_mm=(size_mm,) * 3, body_radius_mm=76)
    points = points_of(image.affine, shape=shape_voxels)
    left, posterior, superior = np.moveaxis(points, -1, 0)
    lungs = (np.abs(left) > 10) & (np.abs(left) < 60) & (np.abs(posterior) < 40) & (np.abs(superior) < 30)
    return replace(image, voxels=np.where(lungs & ~np.asarray(image.region), np.float32(-850), image.voxels))


@pytest.mark.parametrize(("at_mm", "expected_mm"), [(35.0, 19.0), (24.0, 8.0), (16.0, 0.0), (0.0, 4.0)])
def test_distance_to_the_lungs_wall_from_within_at_it_and_from_without(at_mm: float, expected_mm: float) -> None:
    """A ball of 6 mm radius; the mediastinal wall is at 10 mm, the lateral one at 60 mm."""
    image = thorax(lesion=Ellipsoid(semi_axes_mm=(6, 6, 6), centre_mm=(at_mm, 0, 0)))
    assert wall.measure(image)["wall_distance_mm"] == pytest.approx(expected_mm, abs=2.0)  # one voxel


def test_without_lungs_there_is_no_wall() -> None:
    image = volume(Ellipsoid(semi_axes_mm=(6, 6, 6)))
    assert math.isnan(wall.measure(image)["wall_distance_mm"])
    assert math.isnan(wall.measure(replace(image, region=None))["wall_distance_mm"])
    assert math.isnan(wall.measure(replace(image, voxels=np.full_like(image.voxels, -1000)))["wall_distance_mm"])


def test_the_centroid_is_a_share_of_the_bodys_box_and_a_table_is_not_body() -> None:
    image = volume(Ellipsoid(semi_axes_mm=(6, 6, 6), centre_mm=(20, -10, 5)))
    with_table = image.voxels.copy()
    with_table[:, 92:94] = 200  # two voxels thin, behind the body
    for voxels in (image.voxels, with_table):
        values = position.measure(replace(image, voxels=voxels))
        assert values["centroid_left"] == pytest.approx(0.5 + 20 / 80, abs=1 / 80)
        assert values["centroid_posterior"] == pytest.approx(0.5 - 10 / 80, abs=1 / 80)
        assert values["centroid_superior"] == pytest.approx(0.5 + 5 / 40, abs=1 / 40)
    nothing = position.measure(replace(image, voxels=np.full_like(image.voxels, -1000)))
    assert all(math.isnan(value) for value in nothing.values())


def test_edge_density_is_that_of_a_drawn_line_and_of_nothing() -> None:
    sharp = volume(Ellipsoid(semi_axes_mm=(12, 12, 12)), lesion_hu=160)
    flat = volume(Ellipsoid(semi_axes_mm=(12, 12, 12)), lesion_hu=0)
    assert edges.measure(flat)["edge_density"] == 0
    assert 0.15 < edges.measure(sharp)["edge_density"] < 0.45  # a line of about one voxel in a rim of four


def test_the_depth_of_a_long_lesion_is_that_of_its_nearest_end() -> None:
    """The nearest skin to its outline is not the nearest to its centroid."""
    image = volume(Ellipsoid(semi_axes_mm=(28, 6, 6), centre_mm=(6, 10, 0)), body_radius_mm=40)
    assert image.region is not None
    points = points_of(image.affine, shape=image.voxels.shape)[image.region]
    known = 40 - np.hypot(points[:, 0], points[:, 1]).max()
    assert depth.measure(image)["depth_min_mm"] == pytest.approx(known, abs=1)


@pytest.mark.parametrize("seed", range(3))
def test_the_nearest_distance_is_that_of_all_pairs(seed: int) -> None:
    made = np.random.default_rng(seed)
    lesion = made.random((9, 12, 14)) < 0.3
    surface_mm = made.normal(0, 40, (300, 3)) + made.normal(0, 30, 3)
    spacing_mm = (2.0, 1.0, 0.7)
    outline = region.outline(np.pad(lesion, 1), spacing_mm=spacing_mm) - np.array(spacing_mm)
    centroid = np.argwhere(lesion).mean(axis=0) * np.array(spacing_mm)
    expected = cdist(outline, surface_mm).min(), cdist([centroid], surface_mm).min()
    assert body.nearest_mm(lesion, surface_mm=surface_mm, spacing_mm=spacing_mm) == pytest.approx(expected)


def test_a_variable_of_the_table_takes_its_unit_and_bounds_from_there() -> None:
    short = Variable.model_validate({"name": "mass_mg", "source": "image"})
    assert (short.unit, short.lower, short.upper) == ("mg", 0, 50_000_000)
    own = Variable.model_validate({"name": "mass_mg", "source": "image", "unit": "mg", "lower": 1, "upper": 9})
    assert (own.lower, own.upper) == (1, 9)
    with pytest.raises(ValueError, match="unit"):
        Variable.model_validate({"name": "mass_mg", "source": "clinical", "lower": 0, "upper": 9})
    with pytest.raises(ValueError, match="mg"):
        Variable.model_validate({"name": "mass_mg", "source": "image", "unit": "kg", "lower": 0, "upper": 9})


@pytest.mark.parametrize(
    ("maker", "kernel", "expected"),
    [
        ("SIEMENS", "b30f", (0, 1)),
        ("Siemens Healthineers", "B30f", (0, 1)),
        ("GE MEDICAL SYSTEMS", "STANDARD", (1, 0)),
        ("General Imaging", "B30", (math.nan, math.nan)),
        ("", "", (math.nan, math.nan)),
    ],
)
def test_makers_and_kernels_are_levels_of_the_study_or_missing(maker: str, kernel: str, expected: tuple[float, float]) -> None:
    levels = {"manufacturer": ("Siemens", "GE"), "kernel": ("STANDARD", "B30f")}
    made = replace(MADE, manufacturer=maker, kernel=kernel)
    found = acquisition.factors(made, levels=levels)
    assert list(found) == list(levels)
    assert list(found.values()) == pytest.approx(list(expected), nan_ok=True)
    image = replace(digital_phantom(), acquisition=replace(made, kvp=0.0))
    assert acquisition.measure(image)["slice_thickness_mm"] == 1
    assert math.isnan(acquisition.measure(image)["kvp"])
