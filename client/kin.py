"""Which parameters of an image determine one another, so that sums of the one are sums of the other under another name.

mass = volume + volume x mean / 1000: a sum of masses over three hospitals and one of the volumes and their products with the
mean over four are, subtracted, the fourth hospital's own. Products of two columns count: a Gram sums them.
"""

from collections.abc import Collection
from typing import Final

FAMILIES: Final = (
    frozenset({"volume_mm3", "mean_hu", "integrated_intensity_hu_mm3", "mass_mg", "sd_hu", "rms_hu"}),
    frozenset({"volume_mm3", "surface_mm2", "surface_to_volume_per_mm", "sphericity"}),
    frozenset({"major_axis_mm", "minor_axis_mm", "least_axis_mm", "elongation", "flatness"}),
)


def related(one: Collection[str], other: Collection[str]) -> bool:
    """Say whether a variable of `one` is among those that determine a variable of `other`."""
    return any(not family.isdisjoint(one) and not family.isdisjoint(other) for family in FAMILIES)
