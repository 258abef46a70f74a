"""The image parameters that hospitals measure, by name: what a study may call a variable whose source is the image."""

import difflib
from typing import Final

from common import embedding
from common.codes import FACTORS
from common.errors import ConfigError
from common.modality import has, unit
from common.study import Study

NEAR: Final = 3  # names that a message offers in place of a wrong one
_LISTED: Final = """
longest_diameter_mm short_axis_mm diameter_3d_mm major_axis_mm minor_axis_mm least_axis_mm
in_plane_angle_cos2 in_plane_angle_sin2 major_polar_deg major_azimuth_cos2 major_azimuth_sin2
volume_mm3 surface_mm2 sphericity elongation flatness solidity surface_to_volume_per_mm area_mm2
mean_hu sd_hu median_hu p10_hu p90_hu skewness kurtosis rms_hu mean_z sd_z median_z p10_z p90_z
intensity_entropy_bits integrated_intensity_hu_mm3 mass_mg
depth_min_mm depth_centroid_mm centroid_left centroid_posterior centroid_superior wall_distance_mm
slice_thickness_mm kvp
gradient_mean_hu_per_mm gradient_sd_hu_per_mm border_gradient_mean_hu_per_mm border_gradient_sd_hu_per_mm
border_drop_hu_per_mm border_contrast_hu border_width_mm edge_density
glcm_joint_maximum glcm_joint_average glcm_joint_variance glcm_joint_entropy glcm_difference_average
glcm_difference_variance glcm_difference_entropy glcm_sum_average glcm_sum_variance glcm_sum_entropy
glcm_angular_second_moment glcm_contrast glcm_dissimilarity glcm_inverse_difference
glcm_normalised_inverse_difference glcm_inverse_difference_moment glcm_normalised_inverse_difference_moment
glcm_inverse_variance glcm_correlation glcm_autocorrelation glcm_cluster_tendency glcm_cluster_shade
glcm_cluster_prominence glcm_information_correlation_1 glcm_information_correlation_2
glrlm_short_runs_emphasis glrlm_long_runs_emphasis glrlm_low_grey_level_run_emphasis
glrlm_high_grey_level_run_emphasis glrlm_short_run_low_grey_level_emphasis glrlm_short_run_high_grey_level_emphasis
glrlm_long_run_low_grey_level_emphasis glrlm_long_run_high_grey_level_emphasis glrlm_grey_level_non_uniformity
glrlm_normalised_grey_level_non_uniformity glrlm_run_length_non_uniformity
glrlm_normalised_run_length_non_uniformity glrlm_run_percentage glrlm_grey_level_variance glrlm_run_length_variance
glrlm_run_entropy
glszm_small_zone_emphasis glszm_large_zone_emphasis glszm_low_grey_level_zone_emphasis
glszm_high_grey_level_zone_emphasis glszm_small_zone_low_grey_level_emphasis
glszm_small_zone_high_grey_level_emphasis glszm_large_zone_low_grey_level_emphasis
glszm_large_zone_high_grey_level_emphasis glszm_grey_level_non_uniformity glszm_normalised_grey_level_non_uniformity
glszm_zone_size_non_uniformity glszm_normalised_zone_size_non_uniformity glszm_zone_percentage
glszm_grey_level_variance glszm_zone_size_variance glszm_zone_size_entropy
gldzm_small_distance_emphasis gldzm_large_distance_emphasis gldzm_low_grey_level_zone_emphasis
gldzm_high_grey_level_zone_emphasis gldzm_small_distance_low_grey_level_emphasis
gldzm_small_distance_high_grey_level_emphasis gldzm_large_distance_low_grey_level_emphasis
gldzm_large_distance_high_grey_level_emphasis gldzm_grey_level_non_uniformity
gldzm_normalised_grey_level_non_uniformity gldzm_zone_distance_non_uniformity
gldzm_normalised_zone_distance_non_uniformity gldzm_zone_percentage gldzm_grey_level_variance
gldzm_zone_distance_variance gldzm_zone_distance_entropy
ngtdm_coarseness ngtdm_contrast ngtdm_busyness ngtdm_complexity ngtdm_strength
ngldm_low_dependence_emphasis ngldm_high_dependence_emphasis ngldm_low_grey_level_count_emphasis
ngldm_high_grey_level_count_emphasis ngldm_low_dependence_low_grey_level_emphasis
ngldm_low_dependence_high_grey_level_emphasis ngldm_high_dependence_low_grey_level_emphasis
ngldm_high_dependence_high_grey_level_emphasis ngldm_grey_level_non_uniformity
ngldm_normalised_grey_level_non_uniformity ngldm_dependence_count_non_uniformity
ngldm_normalised_dependence_count_non_uniformity ngldm_grey_level_variance ngldm_dependence_count_variance
ngldm_dependence_count_entropy ngldm_dependence_count_energy
"""
NAMES: Final = tuple(_LISTED.split())  # as each family of parameters names its own (client/measure)


def check(study: Study) -> None:
    """Raise ConfigError, with the names that exist, when an image variable is not one of them, or not of the study's modality.

    Nobody would measure it: it would be missing at every patient, and every sum over complete patients empty.
    """
    _check_modality(study)
    known = {*NAMES, *FACTORS, *embedding.names(study.training.model)}
    unknown = [one.name for one in study.variables if one.source == "image" and one.name not in known]
    if not unknown:
        return
    _check_embedding(study, unknown)
    near = {name: difflib.get_close_matches(name, NAMES, n=NEAR) for name in unknown}
    offered = [f"{name} may be {' or '.join(names)}" for name, names in near.items() if names]
    offered += [] if all(near.values()) else [f"there are {', '.join(NAMES)}"]
    raise ConfigError(
        f"No image parameter is called {', '.join(unknown)}.", action=f"Name what is measured: {'; '.join(offered)}."
    )


def _check_modality(study: Study) -> None:
    modality = study.recipe.modality
    known = {*NAMES, *FACTORS}
    absent = [one.name for one in study.variables if one.source == "image" and one.name in known]
    absent = [name for name in absent if not has(name, modality=modality)]
    if absent:
        there = [name for name in (*NAMES, *sorted(FACTORS)) if has(name, modality=modality)]
        near = {name: difflib.get_close_matches(name, there, n=NEAR) for name in absent}
        offered = [f"in place of {name} there is {' or '.join(names)}" for name, names in near.items() if names]
        raise ConfigError(
            f"Images of modality {modality} (in {unit(modality)}) have no {', '.join(absent)}.",
            action=f"Leave it out{': ' if offered else ''}{'; '.join(offered)}; server/README.md lists what each modality has.",
        )


def _check_embedding(study: Study, unknown: list[str]) -> None:
    network = study.training.model
    if beyond := [name for name in unknown if embedding.named(name)]:
        raise ConfigError(
            f"The embedding of {network} has no {', '.join(beyond)}.",
            action=f"Name embedding_1 to embedding_{embedding.SIZES[network]}.",
        )
