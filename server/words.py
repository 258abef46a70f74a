"""A State in words and short numbers, the same on the terminal and on the page."""

import math
from datetime import UTC, datetime
from decimal import ROUND_CEILING, Decimal

from server.state import ENDED, Hospital, Link, Phase, State

NONE = "\N{EN DASH}"


def headline(state: State) -> str:
    """Return in one sentence how the run stands."""
    if state.phase is Phase.FAILED:
        return f"The run failed. {state.failure}"
    if state.phase is Phase.STOPPED:
        return "The run was stopped before its end."
    if state.phase is Phase.DONE:
        return "The run is done; see motet-coordinator report."
    if state.silent:
        return (
            f"Nothing was written for {duration(state.now - (state.updated or state.now))}, longer than the study's patience: "
            "is the coordinator running? See superlink.log."
        )
    return f"Last: {state.doing}."


def end(state: State) -> str:
    """Return when the run may end, as a range; a dash where nothing can be said honestly."""
    if state.phase in ENDED:
        return f"ended {clock(state.updated)}"
    if state.left_s is None:
        return NONE
    quick, slow = state.left_s
    if slow < 1:
        return "any moment"
    return duration(slow) if duration(quick) == duration(slow) else f"{duration(quick)} to {duration(slow)}"


def epsilon(value: Decimal | None) -> str:
    """Return an epsilon with three decimals, rounded up; a dash where it is not known."""
    if value is None or not value.is_finite():
        return NONE
    return str(value.quantize(Decimal("0.001"), rounding=ROUND_CEILING))


def link(hospital: Hospital) -> str:
    """Return a word for the link; where the carrier does not tell of links, what the last sign of life says."""
    if hospital.link is Link.LOST:
        return "lost"
    if hospital.away:
        return "away"
    return "up" if hospital.link is Link.UP else ("answers" if hospital.seen is not None else "not seen")


def ago(time: float | None, *, now: float) -> str:
    """Return how long ago a Unix time is."""
    return NONE if time is None else f"{duration(now - time)} ago"


def clock(time: float | None) -> str:
    """Return a Unix time as a UTC clock, with the day."""
    return NONE if time is None else datetime.fromtimestamp(time, tz=UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def seconds(value: float | None) -> str:
    """Return seconds with three significant digits."""
    return NONE if value is None else f"{value:.3g} s"


def duration(value: float) -> str:
    """Return seconds as a person says them, never below zero."""
    whole = max(0, math.ceil(value))
    if whole < 100:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    if minutes < 100:
        return f"{minutes} min" if minutes >= 10 else f"{minutes} min {rest:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min" if minutes < 60 * 48 else f"{minutes // (60 * 24)} days"
