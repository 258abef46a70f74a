"""Which parameters of an image determine one another, so that sums of the one are sums of the other under another name.

mass = volume + volume x mean / 1000: a sum of masses over three hospitals and one of the volumes and their products with the
mean over four are, subtracted, the fourth hospital's own. Products of two columns count: a Gram sums them. Some are one number
under two names, as a GLCM's dissimilarity and difference average, and what zones have in common by size and by distance.
"""

from collections.abc import Collection
from typing import Final

_GLCM: Final = """
joint_average joint_variance sum_average sum_variance cluster_tendency contrast correlation autocorrelation dissimilarity
difference_average difference_variance
"""
_ZONES: Final = ("low_grey_level_zone_emphasis", "high_grey_level_zone_emphasis", "zone_percentage", "grey_level_variance")
_UNIFORMITY: Final = (  # the two of a matrix are the normalised times the number of pieces, so crosswise products are equal
    ("glrlm_grey_level", "glrlm_run_length"),
    ("glszm_grey_level", "gldzm_grey_level", "glszm_zone_size", "gldzm_zone_distance"),
    ("ngldm_grey_level", "ngldm_dependence_count"),
)
FAMILIES: Final = (
    frozenset({"volume_mm3", "mean_hu", "integrated_intensity_hu_mm3", "mass_mg", "sd_hu", "rms_hu"}),
    frozenset({"volume_mm3", "surface_mm2", "surface_to_volume_per_mm", "sphericity"}),
    frozenset({"major_axis_mm", "minor_axis_mm", "least_axis_mm", "elongation", "flatness"}),
    frozenset({"in_plane_angle_cos2", "in_plane_angle_sin2"}),
    frozenset({"major_azimuth_cos2", "major_azimuth_sin2"}),
    frozenset({"border_contrast_hu", "border_drop_hu_per_mm", "border_width_mm"}),
    frozenset(f"glcm_{name}" for name in _GLCM.split()),
    *(frozenset({f"glszm_{name}", f"gldzm_{name}"}) for name in _ZONES),
    *(
        frozenset(
            f"{matrix}_{normalised}{of}_non_uniformity"
            for matrix, of in (name.split("_", maxsplit=1) for name in names)
            for normalised in ("", "normalised_")
        )
        for names in _UNIFORMITY
    ),
)


def related(one: Collection[str], other: Collection[str]) -> bool:
    """Say whether a variable of `one` is among those that determine a variable of `other`."""
    return any(not family.isdisjoint(other) for family in families(one))


def families(names: Collection[str]) -> tuple[frozenset[str], ...]:
    """Return the families that hold one of these variables or more."""
    return tuple(family for family in FAMILIES if not family.isdisjoint(names))
