"""What ComBat needs to know of all hospitals together: covariate effects, grand means and pooled deviations; nobody's batch."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True, kw_only=True)
class Harmonisation:
    """`effects` (covariates, features) to protect, `grand_means` and `deviations` (features,), in the columns' own units."""

    features: tuple[str, ...]
    covariates: tuple[str, ...]
    n: int
    effects: NDArray[np.float64]
    grand_means: NDArray[np.float64]
    deviations: NDArray[np.float64]
