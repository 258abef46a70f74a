"""Claims about texture: every feature at IBSI's reference value, the same however the grid lies, nothing invented."""

import csv
import math
from dataclasses import replace
from types import ModuleType

import numpy as np
import pytest
import SimpleITK as sitk

from client.imaging.prepare import prepare
from client.inside import Float32, Mask, Volume
from client.measure.texture import glcm, gldzm, glrlm, glszm, levels, ngldm, ngtdm
from common.recipe import Recipe
from tests.phantoms import MADE, Ellipsoid, volume
from tests.unit.test_measure import digital_phantom, real

FAMILIES: tuple[ModuleType, ...] = (glcm, glrlm, glszm, gldzm, ngtdm, ngldm)
# The name of each feature in IBSI's tables, in the order of the families' names.
PUBLISHED = {
    glcm: "joint_max joint_avg joint_var joint_entr diff_avg diff_var diff_entr sum_avg sum_var sum_entr energy contrast "
    "dissimilarity inv_diff inv_diff_norm inv_diff_mom inv_diff_mom_norm inv_var corr auto_corr clust_tend clust_shade "
    "clust_prom info_corr1 info_corr2",
    glrlm: "sre lre lgre hgre srlge srhge lrlge lrhge glnu glnu_norm rlnu rlnu_norm r_perc gl_var rl_var rl_entr",
    glszm: "sze lze lgze hgze szlge szhge lzlge lzhge glnu glnu_norm zsnu zsnu_norm z_perc gl_var zs_var zs_entr",
    gldzm: "sde lde lgze hgze sdlge sdhge ldlge ldhge glnu glnu_norm zdnu zdnu_norm z_perc gl_var zd_var zd_entr",
    ngtdm: "coarseness contrast busyness complexity strength",
    ngldm: "lde hde lgce hgce ldlge ldhge hdlge hdhge glnu glnu_norm dcnu dcnu_norm gl_var dc_var dc_entr dc_energy",
}
TAGS = {
    glcm: "cm_{}_3D_comb",
    glrlm: "rlm_{}_3D_comb",
    glszm: "szm_{}_3D",
    gldzm: "dzm_{}_3D",
    ngtdm: "ngt_{}_3D",
    ngldm: "ngl_{}_3D",
}


def everything(image: Volume) -> dict[str, float]:
    return {name: value for family in FAMILIES for name, value in family.measure(image).items()}


def hu_of(grey: Float32) -> Float32:
    """The HU in the middle of the bin of each grey level, so that published levels go through the real discretisation."""
    return np.asarray(levels.LOWEST_HU + levels.BIN_HU * (grey - 0.5), np.float32)


def phantom() -> Volume:
    image = digital_phantom()
    return replace(image, voxels=hu_of(image.voxels))


def speckled(shape: tuple[int, int, int] = (12, 14, 16)) -> Volume:
    return volume(Ellipsoid(semi_axes_mm=(6, 5, 4), angle_deg=20), shape=shape, body_radius_mm=9, noise_hu=40)


@pytest.fixture(scope="module")
def of_phantom() -> dict[str, float]:
    return everything(phantom())


@pytest.mark.parametrize(
    ("name", "value"),
    [  # Zwanenburg et al. 2020, digital phantom, 3-D, directions merged; printed to three significant digits
        ("glcm_joint_maximum", 0.509),
        ("glcm_joint_average", 2.15),
        ("glcm_joint_variance", 3.13),
        ("glcm_joint_entropy", 2.57),
        ("glcm_difference_average", 1.38),
        ("glcm_difference_variance", 3.21),
        ("glcm_difference_entropy", 1.64),
        ("glcm_sum_average", 4.3),
        ("glcm_sum_variance", 7.41),
        ("glcm_sum_entropy", 2.11),
        ("glcm_angular_second_moment", 0.291),
        ("glcm_contrast", 5.12),
        ("glcm_dissimilarity", 1.38),
        ("glcm_inverse_difference", 0.688),
        ("glcm_normalised_inverse_difference", 0.856),
        ("glcm_inverse_difference_moment", 0.631),
        ("glcm_normalised_inverse_difference_moment", 0.902),
        ("glcm_inverse_variance", 0.0574),
        ("glcm_correlation", 0.183),
        ("glcm_autocorrelation", 5.19),
        ("glcm_cluster_tendency", 7.41),
        ("glcm_cluster_shade", 17.4),
        ("glcm_cluster_prominence", 147),
        ("glcm_information_correlation_1", -0.0288),
        ("glcm_information_correlation_2", 0.269),
        ("glrlm_short_runs_emphasis", 0.729),
        ("glrlm_long_runs_emphasis", 2.76),
        ("glrlm_low_grey_level_run_emphasis", 0.607),
        ("glrlm_high_grey_level_run_emphasis", 9.64),
        ("glrlm_short_run_low_grey_level_emphasis", 0.372),
        ("glrlm_short_run_high_grey_level_emphasis", 8.67),
        ("glrlm_long_run_low_grey_level_emphasis", 2.16),
        ("glrlm_long_run_high_grey_level_emphasis", 15.6),
        ("glrlm_grey_level_non_uniformity", 281),
        ("glrlm_normalised_grey_level_non_uniformity", 0.43),
        ("glrlm_run_length_non_uniformity", 328),
        ("glrlm_normalised_run_length_non_uniformity", 0.501),
        ("glrlm_run_percentage", 0.68),
        ("glrlm_grey_level_variance", 3.48),
        ("glrlm_run_length_variance", 0.598),
        ("glrlm_run_entropy", 2.62),
        ("glszm_small_zone_emphasis", 0.255),
        ("glszm_large_zone_emphasis", 550),
        ("glszm_low_grey_level_zone_emphasis", 0.253),
        ("glszm_high_grey_level_zone_emphasis", 15.6),
        ("glszm_small_zone_low_grey_level_emphasis", 0.0256),
        ("glszm_small_zone_high_grey_level_emphasis", 2.76),
        ("glszm_large_zone_low_grey_level_emphasis", 503),
        ("glszm_large_zone_high_grey_level_emphasis", 1490),
        ("glszm_grey_level_non_uniformity", 1.4),
        ("glszm_normalised_grey_level_non_uniformity", 0.28),
        ("glszm_zone_size_non_uniformity", 1),
        ("glszm_normalised_zone_size_non_uniformity", 0.2),
        ("glszm_zone_percentage", 0.0676),
        ("glszm_grey_level_variance", 2.64),
        ("glszm_zone_size_variance", 331),
        ("glszm_zone_size_entropy", 2.32),
        ("gldzm_small_distance_emphasis", 1),
        ("gldzm_large_distance_emphasis", 1),
        ("gldzm_low_grey_level_zone_emphasis", 0.253),
        ("gldzm_high_grey_level_zone_emphasis", 15.6),
        ("gldzm_small_distance_low_grey_level_emphasis", 0.253),
        ("gldzm_small_distance_high_grey_level_emphasis", 15.6),
        ("gldzm_large_distance_low_grey_level_emphasis", 0.253),
        ("gldzm_large_distance_high_grey_level_emphasis", 15.6),
        ("gldzm_grey_level_non_uniformity", 1.4),
        ("gldzm_normalised_grey_level_non_uniformity", 0.28),
        ("gldzm_zone_distance_non_uniformity", 5),
        ("gldzm_normalised_zone_distance_non_uniformity", 1),
        ("gldzm_zone_percentage", 0.0676),
        ("gldzm_grey_level_variance", 2.64),
        ("gldzm_zone_distance_variance", 0),
        ("gldzm_zone_distance_entropy", 1.92),
        ("ngtdm_coarseness", 0.0296),
        ("ngtdm_contrast", 0.584),
        ("ngtdm_busyness", 6.54),
        ("ngtdm_complexity", 13.5),
        ("ngtdm_strength", 0.763),
        ("ngldm_low_dependence_emphasis", 0.045),
        ("ngldm_high_dependence_emphasis", 109),
        ("ngldm_low_grey_level_count_emphasis", 0.693),
        ("ngldm_high_grey_level_count_emphasis", 7.66),
        ("ngldm_low_dependence_low_grey_level_emphasis", 0.00963),
        ("ngldm_low_dependence_high_grey_level_emphasis", 0.736),
        ("ngldm_high_dependence_low_grey_level_emphasis", 102),
        ("ngldm_high_dependence_high_grey_level_emphasis", 235),
        ("ngldm_grey_level_non_uniformity", 37.9),
        ("ngldm_normalised_grey_level_non_uniformity", 0.512),
        ("ngldm_dependence_count_non_uniformity", 4.86),
        ("ngldm_normalised_dependence_count_non_uniformity", 0.0657),
        ("ngldm_grey_level_variance", 3.05),
        ("ngldm_dependence_count_variance", 22.1),
        ("ngldm_dependence_count_entropy", 4.4),
        ("ngldm_dependence_count_energy", 0.0533),
    ],
)
def test_ibsi_digital_phantom_texture(of_phantom: dict[str, float], name: str, value: float) -> None:
    half_a_digit = 0.5 * 10.0 ** (math.floor(math.log10(abs(value))) - 2) if value else 0.0
    assert of_phantom[name] == pytest.approx(value, abs=half_a_digit * (1 + 1e-9), rel=0)


def test_every_texture_feature_is_listed_above(of_phantom: dict[str, float]) -> None:
    names = [name for family in FAMILIES for name in family.NAMES]
    (listed,) = (mark.args[1] for mark in test_ibsi_digital_phantom_texture.pytestmark if mark.name == "parametrize")
    assert names == list(of_phantom) == [name for name, _ in listed]
    assert len(set(names)) == len(names) == 94


@pytest.fixture(scope="module")
def chest() -> Volume:
    folder = real("ibsi-ct")
    files = sitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(folder / "image"))
    image = sitk.GetArrayFromImage(sitk.ReadImage(files)).astype(np.float32)
    mask = sitk.GetArrayFromImage(sitk.ReadImage(str(folder / "mask" / "mask.nii.gz"))) > 0
    assert mask.sum() == 125_256
    return Volume(
        patient="p",
        series="s",
        modality="CT",
        voxels=image,
        affine=np.diag([3.0, 0.977, 0.977, 1.0])[[2, 1, 0, 3]],
        spacing_mm=(3.0, 0.97699999809265, 0.97699999809265),
        acquisition=MADE,
        region=mask,
    )


def without_outliers(hu: Float32, *, region: Mask) -> Mask:
    mean, deviation = hu[region].mean(dtype=np.float64), hu[region].std(dtype=np.float64)
    kept: Mask = region & (np.abs(hu - mean) <= 3 * deviation)
    return kept


def cubic(image: Volume, *, like: Volume) -> Float32:
    """The voxels of `image` on the grid of `like`, by cubic B-splines, whole HU."""
    picture = sitk.GetImageFromArray(image.voxels)
    picture.SetSpacing(image.spacing_mm[::-1])
    first_mm = (like.affine[:3, 3] - image.affine[:3, 3]).tolist()
    size = like.voxels.shape[::-1]
    return np.rint(
        sitk.GetArrayFromImage(sitk.Resample(picture, size, sitk.Transform(), sitk.sitkBSpline, first_mm, like.spacing_mm))
    )


@pytest.mark.parametrize("configuration", ["c", "d", "e"])
def test_ibsi_ct_phantom_texture(chest: Volume, configuration: str) -> None:
    """All at 2 mm by our own `prepare`, E's HU by cubic splines. C and E keep -1000 to 400 HU; D and E then drop outliers.

    C has bins of 25 HU from -1000, D and E 32 bins.
    """
    image = prepare(chest, recipe=Recipe.model_construct(spacing_mm=2, denoise="none", denoise_mm=0))
    hu = cubic(chest, like=image) if configuration == "e" else image.voxels
    assert image.region is not None
    kept = image.region
    if configuration in "ce":
        kept = kept & (hu >= -1000) & (hu <= 400)
    if configuration in "de":
        kept = without_outliers(hu, region=kept)
        lowest, highest = hu[kept].min(), hu[kept].max()
        hu = hu_of(np.minimum(np.floor(32 * (hu - lowest) / (highest - lowest)) + 1, 32))
    values = everything(replace(image, voxels=np.where(kept, hu, np.float32(-2000))))
    with (real("ibsi-reference") / f"ibsi_1_chest_config_{configuration}.csv").open() as file:
        published = {row["tag"]: row for row in csv.DictReader(file, delimiter=";")}
    compared = 0
    for family in FAMILIES:
        for name, tag in zip(family.NAMES, PUBLISHED[family].split(), strict=True):
            row = published[TAGS[family].format(tag)]
            assert values[name] == pytest.approx(float(row["reference value"]), abs=float(row["tolerance"]), rel=0), name
            compared += 1
    assert compared == 94


@pytest.mark.parametrize("turn", ["mirrored", "upside down", "axes exchanged", "moved"])
def test_texture_is_the_same_however_the_grid_lies(turn: str) -> None:
    image = speckled()
    assert image.region is not None
    ways = {
        "mirrored": lambda array: array[:, :, ::-1],
        "upside down": lambda array: array[::-1, ::-1],
        "axes exchanged": lambda array: array.transpose(2, 0, 1),
        "moved": lambda array: np.pad(array, ((3, 0), (0, 2), (5, 1)), mode="edge"),
    }
    turned = replace(image, voxels=ways[turn](image.voxels).copy(), region=ways[turn](image.region).copy())
    assert everything(turned) == pytest.approx(everything(image), rel=1e-12, abs=1e-12)


def test_what_lies_around_the_region_is_not_seen() -> None:
    image = speckled()
    other = replace(image, voxels=np.where(image.region, image.voxels, np.float32(777)))
    assert everything(other) == everything(image)


def test_levels_are_25_hu_wide_from_minus_1000_at_every_hospital() -> None:
    hu = np.array([-1000, -976, -975, 0, 24, 25, 3071, -1001, 3072, 1e30, -1e30, math.inf, math.nan], np.float32)
    image = replace(phantom(), voxels=hu.reshape(1, 1, -1), region=np.ones((1, 1, len(hu)), np.bool_))
    found = levels.of(image)
    assert found is not None
    assert found.grid[1, 1, 1:-1].tolist() == [1, 1, 2, 41, 41, 42, 163, 0, 0, 0, 0, 0, 0]
    assert all(math.isfinite(value) for value in everything(image).values())  # and no table up to 1e30


def test_a_lesion_of_one_level_has_no_texture_and_no_invented_correlation() -> None:
    image = volume(Ellipsoid(semi_axes_mm=(6, 5, 4)), shape=(12, 14, 16), body_radius_mm=9)
    assert image.region is not None
    values = everything(image)
    undefined = {"glcm_correlation", "glcm_information_correlation_1", "ngtdm_coarseness", "ngtdm_contrast", "ngtdm_busyness"}
    assert {name for name, value in values.items() if math.isnan(value)} == undefined | {"ngtdm_strength"}
    assert values["glcm_joint_maximum"] == values["glcm_inverse_difference"] == 1
    assert values["glcm_joint_entropy"] == values["glcm_contrast"] == values["ngtdm_complexity"] == 0
    assert values["glszm_zone_percentage"] == 1 / image.region.sum()


@pytest.mark.parametrize("kind", ["no region", "empty region", "out of range"])
def test_nothing_to_measure_is_missing(kind: str) -> None:
    image = phantom()
    assert image.region is not None
    if kind == "out of range":
        image = replace(image, voxels=np.full_like(image.voxels, -3000))
    else:
        image = replace(image, region=None if kind == "no region" else np.zeros_like(image.region))
    values = everything(image)
    assert list(values) == [name for family in FAMILIES for name in family.NAMES]
    assert all(math.isnan(value) for value in values.values())


def test_one_voxel_has_runs_and_zones_but_no_neighbours() -> None:
    image = phantom()
    voxel = np.zeros(image.voxels.shape, np.bool_)
    voxel[0, 0, 0] = True
    alone = replace(image, region=voxel)
    assert all(math.isnan(value) for family in (glcm, ngtdm) for value in family.measure(alone).values())
    assert glrlm.measure(alone)["glrlm_run_percentage"] == 1
    assert glszm.measure(alone)["glszm_large_zone_emphasis"] == 1
    assert gldzm.measure(alone)["gldzm_zone_percentage"] == 1
    assert ngldm.measure(alone)["ngldm_high_dependence_emphasis"] == 1
