"""A noisy Gram becomes the size, sum and sum of squares of each group: what fits all of its entries best.

Columns of a comparison: the outcome t = z_y, the factor's indicators and their products with the outcome. A patient of group g
has v = a_g + b_g t with public a_g and b_g, so v v' = a a' + (a b' + b a') t + b b' t**2: the true block, clipped or not, is

    sum over groups of  n_g a a' + s_g (a b' + b a') + q_g b b',   n_g = sum 1, s_g = sum t, q_g = sum t**2,

linear in 3 numbers a group, many times fewer than it has entries. Packed, its noise is sigma on every entry (noisy_moments.py),
so ordinary least squares on the packed block is the best linear estimate, and sigma**2 (X'X)**-1 exactly its noise.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from common import terms
from common.noisy_moments import NoisyMoments, pack
from common.terms import Piece
from server.infer.private import resolved

Float = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupSums:
    """`sums` (groups, 3): n, sum of t, sum of t**2; their noise is `root` (3 * groups, 3 * groups) times standard normals.

    t = (outcome - centre) / half. `key` is the release's bytes, of which simulations are seeded: `sums` have been through least
    squares, whose last digits are a machine's own.
    """

    outcome: str
    factor: str
    levels: tuple[str, ...]
    sums: Float
    root: Float
    centre: float
    half: float
    key: bytes

    @property
    def noise(self) -> Float:
        """Return the covariance of `sums` from the noise alone, (3, 3, groups, groups)."""
        k = len(self.levels)
        return (self.root @ self.root.T).reshape(k, 3, k, 3).transpose(1, 3, 0, 2)


def read(noisy: NoisyMoments, *, outcome: str, factor: str, levels: Sequence[str]) -> GroupSums:
    """Return the sums of every declared level, the reference first; linear in the noisy matrix, so without bias.

    Needs the columns of study.statistics.groups. Raises ConfigError when one is missing, ValueError below two levels.
    """
    if len(levels) < 2:
        raise ValueError("a comparison needs at least two groups")
    indicators = [column.name for column in terms.indicators(factor, levels=levels)]
    products = [terms.column(Piece(variable=outcome), Piece(variable=factor, level=level)).name for level in levels[1:]]
    places = resolved.positions(noisy, names=[outcome, *indicators, *products])
    rows = [0, *places]
    centre, half = (np.array(values)[[at - 1 for at in places]] for values in (noisy.centre, noisy.half))
    k, made = len(levels), []
    for group in range(k):
        belongs = np.arange(1, k) == group
        fixed = np.concatenate([[1.0, 0.0], ([*belongs, *(belongs * centre[0])] - centre[1:]) / half[1:]])
        moving = np.concatenate([[0.0, 1.0], np.zeros(k - 1), belongs * half[0] / half[k:]])
        cross = np.outer(fixed, moving)
        made += [pack(np.outer(fixed, fixed)), pack(cross + cross.T), pack(np.outer(moving, moving))]
    left, values, right = np.linalg.svd(np.column_stack(made), full_matrices=False)
    inverted = right.T / values
    return GroupSums(
        outcome=outcome,
        factor=factor,
        levels=tuple(levels),
        sums=(inverted @ (left.T @ pack(noisy.matrix[np.ix_(rows, rows)]))).reshape(k, 3),
        root=noisy.sigma * inverted,
        centre=float(centre[0]),
        half=float(half[0]),
        key=noisy.matrix.tobytes(),
    )
