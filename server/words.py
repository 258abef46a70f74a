"""A State in words and short numbers, the same on the terminal and on the page."""

import math
from datetime import UTC, datetime
from decimal import ROUND_CEILING, Decimal

from common import analyses
from server.state import ENDED, Hospital, Link, Phase, State

NONE = "\N{EN DASH}"
NOTICED_S = 3.0  # a hospital that answers sooner is not waited for


def headline(state: State) -> str:
    """Return in one sentence how the run stands."""
    if state.phase is Phase.FAILED:
        return f"The run failed. {state.failure}"
    if state.phase is Phase.STOPPED:
        return "The run was stopped before its end."
    if state.phase is Phase.DONE:
        return "The run is done; see motet-coordinator report."
    if state.at_work is False and state.phase not in ENDED:
        since = duration(state.now - (state.updated or state.now))
        then = (
            "`serve` resumes it, mostly within a minute"
            if state.served
            else "start `motet-coordinator serve`, which resumes it"
        )
        return f"The coordinator's process is away, the last news is {since} old; {then}."
    if state.silent:
        return (
            f"Nothing was written for {duration(state.now - (state.updated or state.now))}, longer than the study's patience: "
            f"is the coordinator running? See superlink.log.{_sentence(waiting(state))}"
        )
    return f"Last: {state.doing}.{_sentence(waiting(state))}"


def step(task: str, index: object) -> str:
    """Return a round's task, and which step of the training or which analysis of the study it is."""
    if task == "query" and isinstance(index, int):
        return f"analysis {analyses.place(index)[0] + 1}"
    return f"{task} step {index}" if task == "train" else task


def waiting(state: State) -> str:
    """Return who is waited for and why, as far as it is known; empty where nobody is, or not for long."""
    if state.phase in ENDED or not state.waited or (state.asked is not None and state.now - state.asked < NOTICED_S):
        return ""
    known = {one.name: one for one in state.hospitals}
    return f"waiting for {', '.join(_absent(known[name], now=state.now) for name in state.waited if name in known)}"


def _absent(one: Hospital, *, now: float) -> str:
    why = {
        Link.LOST: f" (link lost {ago(one.linked, now=now)})",
        Link.AWAY: f" (its vault does not answer since {duration(now - (one.linked or now))})",
        Link.UNKNOWN: "" if one.seen is not None else " (not connected)",
    }
    return f"{one.name}{why.get(one.link, '')}"


def _sentence(text: str) -> str:
    return f" {text[0].upper()}{text[1:]}." if text else ""


def end(state: State) -> str:
    """Return when the run ended or may end, as a range; a dash where nothing can be said honestly."""
    if state.phase in ENDED:
        return clock(state.updated)
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
    if hospital.away or hospital.link is Link.AWAY:
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
