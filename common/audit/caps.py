"""Whether a ledger ever passed its caps: looked at before anything can shrink or change, entry by entry where it failed."""

from collections.abc import Mapping
from decimal import Decimal
from typing import Any

from common.errors import CapPassed, RecordDamaged
from common.ledger import accounting, events
from common.ledger.accounting import Tally
from common.ledger.state import Reservation
from common.mechanism import GaussianShare

ACTION = "Ask the hospital how that came about."


class Caps:
    """The private charges in order. Epsilon only grows while none is given back and delta and cap stay as they are.

    So one look at the last of such a row of charges is a look at each of them.
    """

    def __init__(self) -> None:
        self._settled, self._tally = Tally(), Tally()
        self._row: list[tuple[Reservation, GaussianShare]] = []

    def charge(self, reserved: Reservation, spent: GaussianShare, *, policy: Mapping[str, Any] | None) -> None:
        """Take the next charge; raises RecordDamaged where it names other caps than the policy, or CapPassed."""
        for name, cap in (("epsilon_cap", reserved.epsilon_cap), ("delta_cap", reserved.delta_cap)):
            written = (policy or {}).get(name)
            if written is not None and not (isinstance(written, str) and _is(written, cap)):
                raise _damaged(f"Entry {reserved.sequence} has another {name} than the policy before it.")
        if reserved.delta > reserved.delta_cap:
            raise CapPassed(f"Entry {reserved.sequence} has a delta above the cap.", action=ACTION)
        if self._row and (reserved.delta, reserved.epsilon_cap) != (self._row[-1][0].delta, self._row[-1][0].epsilon_cap):
            self.settle()
        self._tally.add(spent)
        self._row.append((reserved, spent))

    def give_back(self, spent: GaussianShare) -> None:
        """Take a charge back, once those before it were looked at; raises CapPassed."""
        self.settle()
        self._tally.add(spent, times=-1)
        self._settled = self._tally.copy()

    def settle(self) -> None:
        """Raise CapPassed, or RecordDamaged on what cannot be accounted for, at the first charge that is wrong."""
        if self._row and not _within(self._tally, self._row[-1][0]):
            for reserved, spent in self._row:
                self._settled.add(spent)
                if not _within(self._settled, reserved):
                    epsilon = _epsilon(self._settled, reserved)
                    says = f"At entry {reserved.sequence} epsilon is {epsilon}, the cap {reserved.epsilon_cap}."
                    raise CapPassed(says, action=ACTION)
        self._settled = self._tally.copy()
        self._row.clear()


def _within(tally: Tally, reserved: Reservation) -> bool:
    return _epsilon(tally, reserved) <= reserved.epsilon_cap


def _epsilon(tally: Tally, reserved: Reservation) -> Decimal:
    try:
        return accounting.round_up(tally.epsilon_rdp(delta=reserved.delta))
    except ValueError:
        raise _damaged(f"Entry {reserved.sequence} has a delta or noise that cannot be accounted for.") from None


def _is(written: str, cap: Decimal) -> bool:
    return events.DECIMAL.match(written) is not None and Decimal(written) == cap


def _damaged(what: str) -> RecordDamaged:
    return RecordDamaged(what, action="Do not trust this record; ask the hospital for the original.")
