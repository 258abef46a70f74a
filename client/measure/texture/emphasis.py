"""What the matrices of runs, zones and dependences have in common: sixteen features of pieces that have a level and a size."""

import numpy as np

from client.measure.texture.levels import Whole

FEATURES = 16


def features(level: Whole, size: Whole, count: Whole, *, possible: int) -> tuple[float, ...]:
    """Return the sixteen features of `count` pieces of each `level` and `size`; at least one piece, each pair once.

    In IBSI's order: small, large, low level, high level, small low, small high, large low, large high emphasis; level
    non-uniformity and normalised; size non-uniformity and normalised; pieces over `possible`; variance of level, of size;
    entropy in bits. Source: IBSI reference manual, sections 3.7 to 3.9 and 3.11, which define them alike.
    """
    pieces = int(count.sum())
    share = count / pieces
    low, high = 1.0 / level.astype(np.float64) ** 2, level.astype(np.float64) ** 2
    small, large = 1.0 / size.astype(np.float64) ** 2, size.astype(np.float64) ** 2
    of_level = float((np.bincount(level, weights=share) ** 2).sum())
    _, where = np.unique(size, return_inverse=True)  # zones can be huge: no table up to the largest
    of_size = float((np.bincount(where, weights=share) ** 2).sum())
    return (
        float(share @ small),
        float(share @ large),
        float(share @ low),
        float(share @ high),
        float(share @ (small * low)),
        float(share @ (small * high)),
        float(share @ (large * low)),
        float(share @ (large * high)),
        pieces * of_level,
        of_level,
        pieces * of_size,
        of_size,
        pieces / possible,
        float(share @ (level - share @ level) ** 2),
        float(share @ (size - share @ size) ** 2),
        max(0.0, -float(share @ np.log2(share))),
    )


def tabled(level: Whole, size: Whole) -> tuple[Whole, Whole, Whole]:
    """Return each pair of a level and a size that occurs, and how often: levels, sizes, counts."""
    base = int(size.max()) + 1
    codes, count = np.unique(level * base + size, return_counts=True)
    return codes // base, codes % base, count
