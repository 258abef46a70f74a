"""The state machine of a ledger (reserved, released, committed), replayed by the hospital and again by the auditor."""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, replace
from decimal import Decimal
from enum import StrEnum
from typing import Any

from common.errors import RecordDamaged
from common.ledger.accounting import Tally
from common.ledger.events import Event, Kind, mechanism_of
from common.mechanism import Exact, GaussianShare, Mechanism


class Stage(StrEnum):
    """How far a reservation has come. Only `aborted` costs nothing."""

    RESERVED = "reserved"
    RELEASED = "released"
    COMMITTED = "committed"
    VOID = "void"
    ABORTED = "aborted"
    FORFEITED = "forfeited"


STEPS: Mapping[Kind, tuple[Stage, Stage]] = {
    Kind.RELEASE: (Stage.RESERVED, Stage.RELEASED),
    Kind.COMMIT: (Stage.RELEASED, Stage.COMMITTED),
    Kind.VOID: (Stage.RELEASED, Stage.VOID),
    Kind.ABORT: (Stage.RESERVED, Stage.ABORTED),
    Kind.FORFEIT: (Stage.RESERVED, Stage.FORFEITED),
}
LEFT = frozenset({Stage.RELEASED, Stage.COMMITTED, Stage.VOID})


@dataclass(frozen=True, slots=True, kw_only=True)
class Reservation:
    """One charge and what became of it."""

    id: str
    sequence: int
    study: str
    purpose: str
    mechanism: Mechanism
    round_number: int
    roster: tuple[str, ...]
    epsilon_cap: Decimal
    delta_cap: Decimal
    delta: Decimal
    stage: Stage
    sha256: str | None = None

    @property
    def run(self) -> str:
        """Return the run, the first part of the id."""
        return self.id.rsplit("/", 2)[0]

    @property
    def left(self) -> bool:
        """Return whether bytes left, or may have left, the hospital."""
        return self.stage in LEFT


class State:
    """What the entries so far add up to."""

    __slots__ = (
        "_runs",
        "_sums",
        "clock_steps_back",
        "key",
        "last_run",
        "last_ts",
        "origin",
        "policy",
        "policy_entry",
        "refusals",
        "reservations",
        "size",
        "studies",
        "tally",
    )

    def __init__(self) -> None:
        self.size = 0
        self.origin = ""
        self.key = ""
        self.policy: Mapping[str, Any] | None = None
        self.policy_entry = 0  # which entry that is
        self.studies: dict[str, str] = {}
        self.reservations: dict[str, Reservation] = {}
        self.last_run: str | None = None
        self._runs: defaultdict[str, list[str]] = defaultdict(list)  # run -> ids
        self._sums: defaultdict[tuple[str, str], set[int]] = defaultdict(set)  # (run, statistic) -> rounds not given back
        self.tally = Tally()  # every private release that is not aborted
        self.refusals = 0
        self.clock_steps_back = 0
        self.last_ts = 0

    def apply(self, event: Event) -> None:
        """Take the next entry in; raises RecordDamaged, and changes nothing, when it cannot follow those before."""
        if event.seq != self.size:
            raise _damaged(f"Entry {self.size} is missing or out of order.")
        if (event.kind == Kind.GENESIS) != (event.seq == 0):
            raise _damaged("A ledger begins with its genesis entry and has no other.")
        if event.kind == Kind.RESERVE:
            self._reserve(event)
        elif event.kind in STEPS:
            self._step(event)
        else:
            self._note(event)
        self.clock_steps_back += event.ts < self.last_ts
        self.last_ts = event.ts
        self.size += 1

    def open_reservations(self) -> tuple[Reservation, ...]:
        """Return the charges that were neither released nor given back."""
        return tuple(item for item in self.reservations.values() if item.stage == Stage.RESERVED)

    def _note(self, event: Event) -> None:
        fields = event.fields
        if event.kind == Kind.GENESIS:
            self.origin, self.key = fields["origin"], fields["key"]
        elif event.kind == Kind.POLICY:
            self.policy, self.policy_entry = fields["policy"], event.seq
        elif event.kind == Kind.PLAN:
            if fields["study"] in self.studies:
                raise _damaged(f"Entry {event.seq} plans a study a second time.")
            self.studies[fields["study"]] = fields["title"]
        else:
            self.refusals += 1

    def _reserve(self, event: Event) -> None:
        fields = event.fields
        if fields["id"] in self.reservations or fields["study"] not in self.studies:
            raise _damaged(f"Entry {event.seq} reserves an id a second time, or for a study that was not planned.")
        reserved = Reservation(
            id=fields["id"],
            sequence=event.seq,
            study=fields["study"],
            purpose=fields["purpose"],
            mechanism=mechanism_of(fields["mech"]),
            round_number=fields["round"],
            roster=tuple(fields["roster"]),
            epsilon_cap=Decimal(fields["epsilon_cap"]),
            delta_cap=Decimal(fields["delta_cap"]),
            delta=Decimal(fields["delta"]),
            stage=Stage.RESERVED,
        )
        if isinstance(reserved.mechanism, GaussianShare):
            try:
                self.tally.add(reserved.mechanism)
            except ValueError:
                raise _damaged(f"Entry {event.seq} has noise that cannot be accounted for.") from None
        self.reservations[reserved.id] = reserved
        self._runs[reserved.run].append(reserved.id)
        self.last_run = reserved.run
        if isinstance(reserved.mechanism, Exact):
            self._sums[reserved.run, reserved.mechanism.statistic].add(reserved.round_number)

    def _step(self, event: Event) -> None:
        before, after = STEPS[event.kind]
        reserved = self.reservations.get(event.fields["id"])
        if reserved is None or reserved.stage != before:
            raise _damaged(f"Entry {event.seq} ({event.kind.value}) does not follow a reservation that is {before.value}.")
        if event.kind == Kind.ABORT and isinstance(reserved.mechanism, GaussianShare):
            self.tally.add(reserved.mechanism, times=-1)
        if event.kind == Kind.ABORT and isinstance(reserved.mechanism, Exact):
            self._sums[reserved.run, reserved.mechanism.statistic].discard(reserved.round_number)
        self.reservations[reserved.id] = replace(reserved, stage=after, sha256=event.fields.get("sha256", reserved.sha256))

    def exact(self) -> tuple[Reservation, ...]:
        """Return the exact statistics that left."""
        return tuple(item for item in self.reservations.values() if isinstance(item.mechanism, Exact) and item.left)

    def sums(self, run: str, *, statistic: str) -> frozenset[int]:
        """Return the rounds of `run` in which exact sums of this name were reserved and not given back."""
        return frozenset(self._sums.get((run, statistic), ()))

    def of_run(self, run: str) -> tuple[Reservation, ...]:
        """Return the reservations of `run`, in order."""
        return tuple(self.reservations[name] for name in self._runs.get(run, ()))

    def private(self) -> tuple[Reservation, ...]:
        """Return the private releases that are charged, whether or not they left."""
        return tuple(
            item
            for item in self.reservations.values()
            if isinstance(item.mechanism, GaussianShare) and item.stage != Stage.ABORTED
        )


def _damaged(what: str) -> RecordDamaged:
    return RecordDamaged(what, action="Do not trust this record; ask the hospital for the original.")
