"""The modalities of which a study can be made: what the numbers in their images are, and which parameters they therefore have.

CT is in HU, at every hospital. What a magnet or a detector stores has no unit: those images are normalised (client/imaging/
normalise.py), and every parameter whose definition needs HU is absent by name. A radiograph is one picture without slices and
without patient coordinates: all of it is looked at, or the lesion that was drawn on it where the study names a parameter that
only such a lesion has.
"""

from collections.abc import Iterable
from typing import Final, Literal, get_args

Modality = Literal["CT", "MR", "CR", "DX"]
MODALITIES: Final[tuple[Modality, ...]] = get_args(Modality)
PLANAR: Final = frozenset({"CR", "DX"})
A_DEVIATION: Final = 100.0  # of a normalised voxel; so that whole numbers, to which images are rounded, are fine enough
NORMALISED: Final = ("mean_z", "sd_z", "median_z", "p10_z", "p90_z")
NEED_HU: Final = frozenset(
    [
        *("mean_hu", "sd_hu", "median_hu", "p10_hu", "p90_hu", "rms_hu", "integrated_intensity_hu_mm3", "mass_mg"),
        *("gradient_mean_hu_per_mm", "gradient_sd_hu_per_mm", "border_gradient_mean_hu_per_mm", "border_gradient_sd_hu_per_mm"),
        *("border_drop_hu_per_mm", "border_contrast_hu", "edge_density"),  # Canny's thresholds are 10 and 30 HU/mm
        *("depth_min_mm", "depth_centroid_mm", "centroid_left", "centroid_posterior", "centroid_superior"),  # skin: -300 HU
        "wall_distance_mm",  # lungs: -400 HU
    ]
)
_OF_A_RADIOGRAPH: Final = frozenset({"median_z", "p10_z", "p90_z", "skewness", "kurtosis", "kvp", "manufacturer"})
_DRAWN: Final = frozenset(
    {
        *("area_mm2", "longest_diameter_mm", "short_axis_mm", "major_axis_mm", "minor_axis_mm"),
        *("mean_z", "sd_z", "intensity_entropy_bits"),
    }
)
_TEXTURE_DRAWN: Final = ("glcm_", "glrlm_", "glszm_", "ngtdm_", "ngldm_")  # a zone's depth (gldzm) is that of a volume


def unit(modality: str) -> str:
    """Return what a voxel's number means once it is prepared."""
    return "HU" if modality == "CT" else "hundredths of a standard deviation"


def has(name: str, *, modality: str) -> bool:
    """Say whether images of a modality have an image parameter or factor that exists at all (common/parameters.py)."""
    if modality in PLANAR:
        return name in _OF_A_RADIOGRAPH or _drawn(name)
    if modality == "MR":
        return name not in NEED_HU | {"kvp", "kernel"}
    return name not in NORMALISED


def whole(names: Iterable[str], *, modality: str) -> bool:
    """Say whether a study of these image variables looks at all of an image: at a radiograph, if none needs a drawn lesion."""
    return modality in PLANAR and not any(_drawn(name) for name in names)


def _drawn(name: str) -> bool:
    return name in _DRAWN or name.startswith(_TEXTURE_DRAWN)
