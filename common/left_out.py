"""How many patients an exact sum leaves out as incomplete: two integers beside it, and no hospital's small count among them.

A hospital that leaves out nobody, or at least its smallest cell, adds the number; one that leaves out fewer adds a one to the
hospitals that do not tell. That keeps the number itself tidy and hides nothing: each sum holds how many patients enter it, and
the difference between two analyses of other variables is how many lack a value in the one and not in the other.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

from common import fixed_point, moments
from common.errors import ProtocolError

ENTRIES: Final = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class LeftOut:
    """`patients` without a value in every column, of all hospitals but the `untold` ones, which leave out a few."""

    patients: int
    untold: int

    def plain(self) -> dict[str, Any]:
        """Return it as JSON can hold it."""
        return asdict(self)


def entries(patients: int, *, cell_min: int) -> tuple[int, int]:
    """Return what a hospital adds: the number that it leaves out, and whether it does not tell it."""
    return (0, 1) if 0 < patients < cell_min else (patients, 0)


def dimension(p: int) -> int:
    """Return the length of an exact Gram of `p` columns as it travels."""
    return moments.size(p) + ENTRIES


def split(total: Sequence[int]) -> tuple[Sequence[int], LeftOut]:
    """Return the opened Gram, and who is left out of it; raises ProtocolError on counts that are not possible."""
    patients, untold = (int(value) for value in total[-ENTRIES:])
    if not (0 <= patients <= fixed_point.ROWS_MOST and 0 <= untold <= fixed_point.ROWS_MOST):
        raise ProtocolError(
            "The opened sum tells an impossible number of patients.",
            action="Do not use it; ask each hospital which version it runs.",
        )
    return total[:-ENTRIES], LeftOut(patients=patients, untold=untold)
