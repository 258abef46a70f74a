"""A run at one moment, as the live view shows it: hospitals, rounds, epsilon, refusals, and when it may end."""

from collections.abc import Mapping
from dataclasses import dataclass, fields, is_dataclass
from decimal import Decimal
from enum import StrEnum
from typing import Any, Final

from common.canonical import decimal_text


class Phase(StrEnum):
    """How far a run has come."""

    WAITING = "waiting"
    SET_UP = "set-up"
    ROUNDS = "rounds"
    CLOSING = "closing"
    DONE = "done"
    FAILED = "failed"
    STOPPED = "stopped"


class Link(StrEnum):
    """A hospital's link, where the carrier tells of it."""

    UP = "up"
    AWAY = "away"  # the relay is there, its vault does not answer
    LOST = "lost"
    UNKNOWN = "unknown"


ENDED: Final = frozenset({Phase.DONE, Phase.FAILED, Phase.STOPPED})


@dataclass(frozen=True, slots=True, kw_only=True)
class Hospital:
    """One hospital, as the coordinator saw it. Times are Unix seconds."""

    name: str
    link: Link
    linked: float | None  # since when the link is so
    seen: float | None  # its last sign of life: an upload, an answer, a link that came up
    code: str | None  # its last code, whether or not it is over
    coded: float | None  # when
    away: bool  # its last sign was a code or a lost link
    epsilon: Decimal  # of its noisy uploads that arrived, Renyi accounting, rounded up; infinite where it is not known
    releases_private: int
    releases_exact: int
    rounds_missed: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Round:
    """One round."""

    number: int
    task: str
    index: int
    opened: bool
    seconds: float
    hospitals: int
    codes: Mapping[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """A hospital that did not give what was asked, and its code; `hospital` is empty where the sum itself did not fit."""

    time: float
    hospital: str
    code: str
    step: str


@dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """The run at the moment `now`."""

    run: str
    study: str
    title: str
    phase: Phase
    doing: str
    failure: str | None
    started: float | None
    updated: float | None
    now: float
    hospitals: tuple[Hospital, ...]
    rounds: tuple[Round, ...]
    rounds_opened: int
    rounds_void: int
    steps_done: int
    steps: int
    seconds_per_round: float | None  # median of the last rounds that opened
    epsilon: Decimal  # of the hospital that gave most
    epsilon_at_end: Decimal | None  # if the steps that are left go as the last one did
    delta: Decimal
    curve: tuple[tuple[int, float], ...]  # (step, held-out AUC)
    refusals: tuple[Refusal, ...]  # the newest first
    codes: Mapping[str, Mapping[str, int]]  # hospital -> code -> how often
    left_s: tuple[float, float] | None  # the quick and the slow quarter of the recent pace; None where nothing can be said
    silent: bool  # no event for longer than the study's patience, and not ended
    resumed: int
    lines_unreadable: int
    waited: tuple[str, ...] = ()  # hospitals that were asked something, or must connect, and have not answered
    asked: float | None = None  # since when they are waited for
    at_work: bool | None = None  # whether a process works on the run; None: not known, or none ever did
    served: bool | None = None  # whether `serve` runs

    @property
    def ended(self) -> bool:
        """Return whether the run is over."""
        return self.phase in ENDED


def plain(value: Any) -> Any:  # noqa: ANN401
    """Return a state, or a part of one, as JSON holds it: exact decimals as text, an epsilon that is not known as null."""
    if is_dataclass(value) and not isinstance(value, type):
        return {one.name: plain(getattr(value, one.name)) for one in fields(value)}
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, Decimal):
        return decimal_text(value) if value.is_finite() else None
    return str(value) if isinstance(value, StrEnum) else value
