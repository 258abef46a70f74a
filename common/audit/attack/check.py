"""One check of an attack, and the level at which all checks of a run together raise a false alarm."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from scipy.special import chdtr, chdtrc, chdtri  # of scipy.stats, which is slow to import, these suffice

FALSE_ALARM: Final = 1e-6  # a right build fails a run once in a million
FOUND: Final = 0.99  # probability with which the smallest stated deficit is found
CHECKS_MOST: Final = 32  # the false alarm is divided by this, whatever the number of checks (Bonferroni)
LEVEL: Final = FALSE_ALARM / CHECKS_MOST


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """What was claimed, what was seen, and how probable something so extreme is in a right build."""

    name: str
    claim: str
    seen: str
    p: float
    power: str = ""

    @property
    def holds(self) -> bool:
        """Return whether the check raises no alarm."""
        return self.p >= LEVEL

    def plain(self) -> dict[str, Any]:
        """Return the check for programs."""
        fields = {"name": self.name, "claim": self.claim, "seen": self.seen, "p": self.p, "power": self.power}
        return {**fields, "holds": self.holds}


def all_hold(checks: Sequence[Check]) -> bool:
    """Return whether there are checks, and none raises an alarm."""
    return bool(checks) and all(check.holds for check in checks)


def two_sided(*, below: float, above: float) -> float:
    """Return p from the probabilities of something as small and of something as large."""
    return min(1.0, 2 * min(below, above))


def dispersion(name: str, *, claim: str, squares: float, freedom: int, power: str = "") -> Check:
    """Check a sum of squares that is chi-squared with `freedom` degrees: neither too small nor too large."""
    p = two_sided(below=float(chdtr(freedom, squares)), above=float(chdtrc(freedom, squares)))
    return Check(name=name, claim=claim, seen=f"{squares / freedom:.5f} of the claimed variance", p=p, power=power)


def smallest_deficit(freedom: int) -> float:
    """Return by which part the deviation must be too small for `dispersion` to find it with probability FOUND."""
    return 1 - float(np.sqrt(chdtri(freedom, 1 - LEVEL / 2) / chdtri(freedom, 1 - FOUND)))


def unrelated(name: str, *, claim: str, rows: NDArray[np.float64], lags: int) -> Check:
    """Check that standardised rows, (row, column), do not depend on the rows 1 to `lags` after them."""
    found = [float((rows[lag:] * rows[:-lag]).sum() / np.sqrt(rows[lag:].size)) for lag in range(1, lags + 1)]
    worst = max(range(lags), key=lambda at: abs(found[at]))
    correlation = found[worst] / np.sqrt(rows[worst + 1 :].size)
    p = float(chdtrc(lags, np.square(found).sum()))
    return Check(name=name, claim=claim, seen=f"largest correlation {correlation:+.5f}, {worst + 1} apart", p=p)
