"""How many independent guesses those are worth that share models: guesses of one model share its noise, and err together.

Source: Korn, Graubard 1998 (Survey Methodology 24): the exact interval of a share, with the number of guesses divided by their
design effect and adjusted for its few degrees of freedom; models are the clusters.
"""

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri, stdtrit

__all__ = ["effective"]


def effective(hits: NDArray[np.bool_], *, models: NDArray[np.int64], tail: float) -> float:
    """Return how many independent guesses have the spread of these, (guess,), for an interval that leaves out `tail`.

    `models` says of which model a guess is. Never more than there are guesses; where all or none hit, nothing shows how they
    hang together, and each model counts as one guess. No guesses are worth none.
    """
    _, of = np.unique(models, return_inverse=True)
    made = np.bincount(of)
    found, number, clusters = np.bincount(of, weights=hits), len(hits), len(made)
    share = float(found.sum()) / number if number else 0.0
    if share in {0.0, 1.0} or clusters < 2:
        return float(clusters)
    squares = float(np.square(found - share * made).sum())
    design = clusters / (clusters - 1) * squares / (number * share * (1 - share))
    few = (float(ndtri(1 - tail)) / float(stdtrit(clusters - 1, 1 - tail))) ** 2
    return max(1.0, number / max(1.0, design) * few)
