"""The grey levels of a lesion, on which every texture matrix is built, and which voxel lies beside which."""

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from skimage.measure import label

from client.inside import Mask, Volume, freeze
from client.measure import region
from common.modality import PLANAR

Whole = NDArray[np.int64]

LOWEST_HU, HIGHEST_HU = -1000.0, 3071.0
BIN_HU = 25.0
BINS = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class Levels:
    """The box around a lesion, at least one voxel wider on every side: a level from 1 up where it has one, 0 elsewhere.

    Not every voxel of the region need have a level. `inside` are the positions of those that do in the flattened grid, `here`
    their levels, `steps` the 13 ways from a voxel to a neighbour (4 in a radiograph), opposite ways counted once, in the
    flattened grid.
    """

    grid: Whole  # (z, y, x)
    region: Mask  # (z, y, x)
    inside: Whole  # (voxel,)
    here: Whole  # (voxel,)
    steps: tuple[int, ...]

    def beside(self, *, both_ways: bool = False) -> Iterator[Whole]:
        """Give, way by way (13, or 26 both ways), each inside voxel's neighbour's level; 0 where that has none."""
        flat = self.grid.ravel()
        for step in self.steps:
            yield flat[self.inside + step]
            if both_ways:
                yield flat[self.inside - step]

    def zones(self) -> Whole:
        """Return in which zone each inside voxel lies, from 0: 26-connected voxels of one level (IBSI 3.8)."""
        zones: Whole = label(self.grid, background=0, connectivity=3).ravel()[self.inside] - 1  # type: ignore[no-untyped-call]
        return zones


def of(volume: Volume) -> Levels | None:
    """Return the levels of `volume.region`; None without a region, or where none of its voxels is in range.

    CT: fixed bin size, as IBSI wants it for calibrated units: a level is 25 HU wide and level 1 starts at -1000 HU, at every
    hospital. Re-segmentation: voxels outside -1000..3071 HU (the 12-bit scale of CT) have no level. MR: fixed bin number, as
    IBSI wants it for arbitrary units: 32 levels of equal width from the least to the greatest value in the region; of one value
    all is level 1. Distances between voxels are the recipe's, whose voxels are isotropic.
    Source: IBSI reference manual, sections 2.5 to 2.7 (doi 10.1148/radiol.2020191145).
    """
    if volume.region is None or not volume.region.any():
        return None
    box = region.box(volume.region)
    values = volume.voxels[box]
    mask = volume.region[box]
    in_range = mask & (values >= LOWEST_HU) & (values <= HIGHEST_HU) if volume.modality == "CT" else mask
    if not in_range.any():
        return None
    inside = values[in_range].astype(np.float64)
    low, width = (LOWEST_HU, BIN_HU) if volume.modality == "CT" else (inside.min(), np.ptp(inside) / BINS or 1.0)
    grid = np.zeros(values.shape, np.int64)
    level = np.floor((inside - low) / width).astype(np.int64) + 1
    grid[in_range] = level if volume.modality == "CT" else np.minimum(level, BINS)
    return _on(np.pad(grid, 1), region=np.pad(mask, 1), planar=volume.modality in PLANAR)


def missing(names: tuple[str, ...]) -> dict[str, float]:
    """Return every name without a value."""
    return dict.fromkeys(names, math.nan)


def ratio(above: Any, below: Any) -> float:  # noqa: ANN401
    """Return above / below as float, nan where nothing can be divided by."""
    return float(above) / float(below) if below > 0 else math.nan


def _on(grid: Whole, *, region: Mask, planar: bool) -> Levels:
    inside = np.flatnonzero(grid)
    freeze(grid, region, inside)
    strides = (grid.shape[1] * grid.shape[2], grid.shape[2], 1)
    ways = [way for way in itertools.product((-1, 0, 1), repeat=3) if way > (0, 0, 0) and not (planar and way[0])]
    return Levels(
        grid=grid,
        region=region,
        inside=inside,
        here=grid.ravel()[inside],
        steps=tuple(sum(a * b for a, b in zip(way, strides, strict=True)) for way in ways),
    )
