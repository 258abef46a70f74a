"""Intensity of a lesion: first-order statistics of its HU."""

import math

import numpy as np

from client.inside import Volume

NAMES: tuple[str, ...] = ("mean_hu", "sd_hu", "median_hu", "p10_hu", "p90_hu", "skewness", "kurtosis", "rms_hu")


def measure(volume: Volume) -> dict[str, float]:
    """Return the statistics of the HU inside `volume.region`; all nan without a region, skewness and kurtosis nan if constant.

    Population moments; kurtosis is the excess; percentiles interpolate. IBSI Q4LE, root of ECT3, Y12H, QG58, 8DWT, KE2A, IPH6,
    5ZWQ.
    """
    if volume.region is None or not volume.region.any():
        return dict.fromkeys(NAMES, math.nan)
    hu = volume.voxels[volume.region].astype(np.float64)
    mean = float(hu.mean())
    off = hu - mean
    variance = float((off**2).mean())
    p10, median, p90 = np.percentile(hu, [10, 50, 90]).tolist()
    constant = float(np.ptp(hu)) == 0.0
    return {
        "mean_hu": mean,
        "sd_hu": math.sqrt(variance),
        "median_hu": median,
        "p10_hu": p10,
        "p90_hu": p90,
        "skewness": math.nan if constant else float((off**3).mean()) / variance**1.5,
        "kurtosis": math.nan if constant else float((off**4).mean()) / variance**2 - 3,
        "rms_hu": math.sqrt(mean**2 + variance),
    }
