"""Grey-level run lengths (GLRLM): how long the same level goes on in a straight line."""

import numpy as np

from client.inside import Volume
from client.measure.texture import emphasis, levels
from client.measure.texture.levels import Levels, Whole

NAMES: tuple[str, ...] = (
    "glrlm_short_runs_emphasis",
    "glrlm_long_runs_emphasis",
    "glrlm_low_grey_level_run_emphasis",
    "glrlm_high_grey_level_run_emphasis",
    "glrlm_short_run_low_grey_level_emphasis",
    "glrlm_short_run_high_grey_level_emphasis",
    "glrlm_long_run_low_grey_level_emphasis",
    "glrlm_long_run_high_grey_level_emphasis",
    "glrlm_grey_level_non_uniformity",
    "glrlm_normalised_grey_level_non_uniformity",
    "glrlm_run_length_non_uniformity",
    "glrlm_normalised_run_length_non_uniformity",
    "glrlm_run_percentage",
    "glrlm_grey_level_variance",
    "glrlm_run_length_variance",
    "glrlm_run_entropy",
)


def measure(volume: Volume) -> dict[str, float]:
    """Return the GLRLM features of `volume.region`, levels as levels.py has them; all nan where no voxel has a level.

    3-D, the 13 directions merged into one matrix, lengths in voxels. IBSI section 3.7: 22OV, W4KF, V3SW, G3QZ, HTZT, GD3A,
    IVPO, 3KUM, R5YN, OVBL, W92Y, IC23, 9ZK5, 8CE5, SXLW, HJ9O.
    """
    found = levels.of(volume)
    if found is None:
        return levels.missing(NAMES)
    possible = len(found.steps) * len(found.inside)
    return dict(zip(NAMES, emphasis.features(*_runs(found), possible=possible), strict=True))


def _runs(found: Levels) -> tuple[Whole, Whole, Whole]:
    """Return the runs: levels, lengths, and how many of each."""
    flat = found.grid.ravel()
    count = int(found.here.max()) + 1
    table = np.zeros((max(found.grid.shape), count), np.int64)  # (length, level)
    for step in found.steps:
        starts = flat[found.inside - step] != found.here
        at, level, length = found.inside[starts], found.here[starts], 1
        while len(at):
            at = at + step
            goes_on = flat[at] == level
            table[length] += np.bincount(level[~goes_on], minlength=count)
            at, level, length = at[goes_on], level[goes_on], length + 1
    length_of, level_of = np.nonzero(table)
    return level_of, length_of, table[length_of, level_of]
