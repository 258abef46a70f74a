"""Grey-level co-occurrence (GLCM): which levels lie beside which."""

import math

import numpy as np

from client.inside import Float, Volume
from client.measure.texture import levels
from client.measure.texture.levels import Levels, Whole, ratio

NAMES: tuple[str, ...] = (
    "glcm_joint_maximum",
    "glcm_joint_average",
    "glcm_joint_variance",
    "glcm_joint_entropy",
    "glcm_difference_average",
    "glcm_difference_variance",
    "glcm_difference_entropy",
    "glcm_sum_average",
    "glcm_sum_variance",
    "glcm_sum_entropy",
    "glcm_angular_second_moment",
    "glcm_contrast",
    "glcm_dissimilarity",
    "glcm_inverse_difference",
    "glcm_normalised_inverse_difference",
    "glcm_inverse_difference_moment",
    "glcm_normalised_inverse_difference_moment",
    "glcm_inverse_variance",
    "glcm_correlation",
    "glcm_autocorrelation",
    "glcm_cluster_tendency",
    "glcm_cluster_shade",
    "glcm_cluster_prominence",
    "glcm_information_correlation_1",
    "glcm_information_correlation_2",
)


def measure(volume: Volume) -> dict[str, float]:
    """Return the GLCM features of `volume.region`, levels as levels.py has them; all nan where no two voxels are neighbours.

    3-D, distance 1, symmetric, the 13 directions merged into one matrix. Correlation and the first information correlation are
    nan where all levels are equal. Entropies in bits. IBSI section 3.6: GYBY, 60VM, UR99, TU9B, TF7R, D3YU, NTRS, ZGXS, OEEB,
    P6QZ, 8ZQL, ACUI, 8S9J, IB1Z, NDRX, WF0Z, 1QCO, E8JP, NI2N, QWB0, DG8W, 7NFM, AE86, R8DG, JN9H.
    """
    found = levels.of(volume)
    if found is None:
        return levels.missing(NAMES)
    present, p = _matrix(found)
    if not len(present):
        return levels.missing(NAMES)
    i, j = present[:, None], present[None, :]
    apart, together = np.abs(i - j), i + j
    p_apart: Float = np.bincount(apart.ravel(), weights=p.ravel()).astype(np.float64)
    p_together: Float = np.bincount(together.ravel(), weights=p.ravel()).astype(np.float64)
    k_apart, k_together = np.arange(len(p_apart)), np.arange(len(p_together))
    mean_apart, mean_together = float(k_apart @ p_apart), float(k_together @ p_together)
    p_i = p.sum(axis=1)
    mean = float(present @ p_i)
    variance = float((present - mean) ** 2 @ p_i)
    contrast = float(k_apart**2 @ p_apart)
    entropy, entropy_i = _bits(p), _bits(p_i)
    independent = 2 * entropy_i - entropy  # HXY1 = HXY2 = 2 HX, because the matrix is symmetric
    highest = int(present[-1])
    values = (
        float(p.max()),
        mean,
        variance,
        entropy,
        mean_apart,
        float((k_apart - mean_apart) ** 2 @ p_apart),
        _bits(p_apart),
        mean_together,
        float((k_together - mean_together) ** 2 @ p_together),
        _bits(p_together),
        float((p**2).sum()),
        contrast,
        mean_apart,  # IBSI 3.6.13: dissimilarity is the difference average
        float((1 / (1 + k_apart)) @ p_apart),
        float((1 / (1 + k_apart / highest)) @ p_apart),
        float((1 / (1 + k_apart**2)) @ p_apart),
        float((1 / (1 + (k_apart / highest) ** 2)) @ p_apart),
        float((1 / k_apart[1:] ** 2) @ p_apart[1:]),
        1 - contrast / (2 * variance) if variance > 0 else math.nan,
        float((i * j * p).sum()),
        float((k_together - 2 * mean) ** 2 @ p_together),
        float((k_together - 2 * mean) ** 3 @ p_together),
        float((k_together - 2 * mean) ** 4 @ p_together),
        ratio(-independent, entropy_i),
        math.sqrt(1 - math.exp(-2 * max(0.0, independent))),
    )
    return dict(zip(NAMES, values, strict=True))


def _matrix(found: Levels) -> tuple[Whole, Float]:
    """Return the levels that have neighbours, and how the pairs are shared among them, (level, level), sum 1."""
    count = int(found.here.max()) + 1
    pairs = np.zeros(count * count, np.int64)
    for other in found.beside():
        both = other > 0
        pairs += np.bincount(found.here[both] * count + other[both], minlength=count * count)
    matrix = pairs.reshape(count, count)
    matrix = matrix + matrix.T
    present = np.flatnonzero(matrix.any(axis=1))
    matrix = matrix[np.ix_(present, present)]
    return present, matrix / max(1, int(matrix.sum()))


def _bits(p: Float) -> float:
    """Return the entropy of probabilities, bits."""
    some = p[p > 0]
    return max(0.0, -float(some @ np.log2(some)))
