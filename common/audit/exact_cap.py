"""The cap on exact sums as the hospital's policy states it, entry by entry: counted as the hospital itself counts."""

from collections.abc import Mapping
from typing import Any

from common import analyses
from common.errors import CapPassed, RecordDamaged
from common.ledger.state import Reservation
from common.mechanism import Exact

__all__ = ["ExactCap"]

GRAM = "gram"


class ExactCap:
    """The exact sums that left so far: a study's Gram and each of its analyses count once, any other sum each time."""

    def __init__(self) -> None:
        self._once: set[tuple[str, str]] = set()
        self._others: set[str] = set()

    def reserve(self, reserved: Reservation, *, policy: Mapping[str, Any] | None) -> None:
        """Raise CapPassed where as many had left as the policy before this entry allows, and this one would count.

        Raises RecordDamaged where the policy has a cap that cannot be counted against.
        """
        cap = (policy or {}).get("exact_releases_max")
        if not isinstance(reserved.mechanism, Exact) or cap is None:
            return
        if type(cap) is not int:
            raise RecordDamaged(
                f"The policy before entry {reserved.sequence} has a cap on exact sums that is no number.",
                action="Do not trust this record; ask the hospital for the original.",
            )
        if (reserved.study, reserved.mechanism.statistic) not in self._once and len(self._once) + len(self._others) >= cap:
            raise CapPassed(
                f"Entry {reserved.sequence} is an exact sum more than the {cap} that the policy before it allows.",
                action="Ask the hospital how that came about.",
            )

    def release(self, reserved: Reservation) -> None:
        """Take what left."""
        if not isinstance(reserved.mechanism, Exact):
            return
        name = reserved.mechanism.statistic
        if name == GRAM or name.startswith(analyses.PREFIX):
            self._once.add((reserved.study, name))
        else:
            self._others.add(reserved.id)
