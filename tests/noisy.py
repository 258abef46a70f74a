"""Noisy Grams as a release makes them, by numpy: rows in z, clipped, summed, and Gaussian noise of a chosen size."""

import math
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import optimize, stats

from common import terms
from common.noisy_moments import NoisyMoments, box
from common.study import Study
from tests import tables

DELTA = 1e-6
Float = NDArray[np.float64]


def multiplier(epsilon: float) -> float:
    """The Gaussian mechanism's noise over its sensitivity at DELTA (Balle and Wang 2018)."""

    def excess(s: float) -> float:
        below = math.exp(epsilon) * stats.norm.cdf(-1 / (2 * s) - epsilon * s)
        return float(stats.norm.cdf(1 / (2 * s) - epsilon * s) - below - DELTA)

    return float(optimize.brentq(excess, 1e-2, 1e3))


def gram(z: Float, *, clip_norm: float) -> Float:
    """The sum of v v' of v = (1, z), clipped; z is (rows, p)."""
    v = np.column_stack([np.ones(len(z)), z])
    v *= np.minimum(1.0, clip_norm / np.sqrt((v**2).sum(axis=1)))[:, None]
    return np.asarray(v.T @ v)


def noise(size: int, *, sigma: float, random: Any) -> Float:
    """One symmetric noise matrix: sigma on the diagonal, sigma / sqrt(2) off it."""
    off = np.triu(random.normal(0, sigma / math.sqrt(2), (size, size)), 1)
    return np.asarray(off + off.T + np.diag(random.normal(0, sigma, size)))


def moments(matrix: Float, *, names: tuple[str, ...], sigma: float, clip_norm: float = 10.0, **parts: Any) -> NoisyMoments:
    """Noisy moments of columns whose box is -1 ... 1."""
    p = len(names)
    rest: dict[str, Any] = {"centre": (0.0,) * p, "half": (1.0,) * p, "epsilon": "1.5", "delta": "0.000001", "hospitals": 4}
    return NoisyMoments(columns=names, matrix=matrix, sigma=sigma, clip_norm=clip_norm, **{**rest, **parts})


def scaled(frame: pd.DataFrame, *, held: Study) -> Float:
    """The rows of the study's columns in z, (rows, p)."""
    table, names = tables.cohort(frame, held=held).table, [variable.name for variable in held.variables]
    columns = []
    for column in held.design():
        values = terms.values(
            column,
            of=lambda name: table[:, names.index(name)],
            bounds_of=held.declared_bounds,
            dictionary={variable.name: variable for variable in held.variables},
        )
        centre, half = box(*held.bounds(column))
        columns.append((values - centre) / half)
    z = np.column_stack(columns)
    return np.asarray(z[~np.isnan(z).any(axis=1)])


def released(frame: pd.DataFrame, *, held: Study, sigma: float, clip_norm: float = 100.0, seed: int = 0) -> NoisyMoments:
    """The noisy Gram of a table."""
    grid = [box(*held.bounds(column)) for column in held.design()]
    exact = gram(scaled(frame, held=held), clip_norm=clip_norm)
    drawn = noise(len(exact), sigma=sigma, random=np.random.default_rng(seed))
    return moments(
        exact + drawn,
        names=held.columns(),
        sigma=sigma,
        clip_norm=clip_norm,
        centre=tuple(centre for centre, _ in grid),
        half=tuple(half for _, half in grid),
    )
