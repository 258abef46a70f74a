"""Position of a lesion: where its centroid lies in the box around the body."""

import math

import numpy as np

from client.inside import Volume
from client.measure import body

NAMES: tuple[str, ...] = ("centroid_left", "centroid_posterior", "centroid_superior")


def measure(volume: Volume) -> dict[str, float]:
    """Return the centroid of `volume.region` as shares of the body's box: 0 at its right, front and lower end, 1 opposite.

    Body: what is not air outside (body.py), without what is thinner than three voxels in an axial slice (the table's shell), of
    that the largest connected part in the slice of the lesion. The box's superior and inferior ends are those of the image.
    Nan without a region or without a body.
    """
    values = dict.fromkeys(NAMES, math.nan)
    if volume.region is None or not volume.region.any():
        return values
    centre = np.argwhere(volume.region).mean(axis=0)
    at = round(float(centre[0]))
    flesh = ~body.outside(volume.voxels[at : at + 1])[0]
    box = body.largest(flesh)
    if box is None:
        return values
    low = np.array([-0.5, *(side.start - 0.5 for side in box)])
    high = np.array([len(volume.voxels) - 0.5, *(side.stop - 0.5 for side in box)])
    inferior_up, front_back, right_left = ((centre - low) / (high - low)).tolist()
    return dict(zip(NAMES, (right_left, front_back, inferior_up), strict=True))
