"""Membership inference on the opened sums: how many members an attacker finds at few false alarms, beside the ceiling.

The attacker knows every canary and the law of the noise, so the likelihood ratio needs no shadow models: no attack
that sees the same sums is stronger. Source: Carlini et al. 2022 (LiRA, which estimates what is known here); Neyman,
Pearson 1933; Clopper, Pearson 1934 for the intervals.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy.special import bdtrc, betaincinv

from common.audit import recompute
from common.audit.attack.check import LEVEL, Check
from common.audit.attack.one_run import Plan, Seen, score

FALSE_ALARMS: Final = (0.01, 0.001)
LEVELS: Final = tuple(at / 10 for at in range(121))  # epsilons at which the ceiling is read
GRID: Final = 1e-3
TAIL: Final = 0.025  # of an interval, on each side


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """Of `members`, so many were found when the attacker accepted `false_alarm`; at most `ceiling` of them could be.

    `least` and `most` are the 95 % interval of the rate.
    """

    false_alarm: float
    members: int
    found: int
    rate: float
    least: float
    most: float
    ceiling: float


def attack(seen: Seen) -> list[Found]:
    """Return what the likelihood-ratio attack finds at each rate of false alarms, as shares of those who were in."""
    scores = score(seen.coordinates, sigma=seen.plan.sigma, rate=seen.plan.rate)
    return found_by(scores, inside=seen.inside, plan=seen.plan)


def found_by(scores: NDArray[np.float64], *, inside: NDArray[np.bool_], plan: Plan) -> list[Found]:
    """Return what an attack with these scores, (guess,), finds of those who were `inside`, (guess,), at each rate."""
    members, outside = scores[inside], np.sort(scores[~inside])[::-1]
    found = []
    for false_alarm in FALSE_ALARMS:
        hits = int((members > outside[math.floor(false_alarm * len(outside))]).sum())
        least, most = interval(hits, of=len(members))
        found.append(
            Found(
                false_alarm=false_alarm,
                members=len(members),
                found=hits,
                rate=hits / len(members),
                least=least,
                most=most,
                ceiling=ceiling_at(plan, false_alarm=false_alarm),
            )
        )
    return found


def checks(seen: Seen, found: Sequence[Found], *, name: str) -> Iterator[Check]:
    """Yield a check per rate of false alarms: no more were found than the claimed noise allows."""
    yield from checks_of(found, outside=int((~seen.inside).sum()), plan=seen.plan, name=name)


def checks_of(found: Sequence[Found], *, outside: int, plan: Plan, name: str) -> Iterator[Check]:
    """Yield the same of what `found_by` found, where so many guesses were of somebody `outside`."""
    for one in found:
        allowed = math.floor(one.false_alarm * outside)
        worst = float(betaincinv(allowed + 1, outside - allowed, 1 - LEVEL / 2))  # the true rate may be above the counted one
        p = float(bdtrc(one.found - 1, one.members, ceiling_at(plan, false_alarm=worst))) if one.found else 1.0
        yield Check(
            name=f"{name}: members found at {100 * one.false_alarm:g} % false alarms",
            claim=f"at most {100 * one.ceiling:.1f} %",
            seen=f"{100 * one.rate:.1f} % ({one.found} of {one.members}; {100 * one.least:.1f} to {100 * one.most:.1f} %)",
            p=min(1.0, 2 * p),
        )


def interval(hits: int, *, of: int) -> tuple[float, float]:
    """Return the 95 % interval of a rate that was counted as `hits` of so many."""
    least = float(betaincinv(hits, of - hits + 1, TAIL)) if hits else 0.0
    most = float(betaincinv(hits + 1, of - hits, 1 - TAIL)) if hits < of else 1.0
    return least, most


def ceiling_at(plan: Plan, *, false_alarm: float) -> float:
    """Return the largest share of members that any attack finds at this rate of false alarms, from the whole trade-off.

    Of the bounds at every level (epsilon, delta) the least: e^epsilon * false_alarm + delta, and what the same bound says of
    those who are missed, 1 - e^-epsilon * (1 - false_alarm - delta). Source: Kairouz, Oh, Viswanath 2015.
    """
    levels = list(zip(LEVELS, _deltas(plan), strict=True))
    found = min(math.exp(level) * false_alarm + delta for level, delta in levels)
    missed = min(1 - math.exp(-level) * (1 - false_alarm - delta) for level, delta in levels)
    return min(1.0, found, missed)


@lru_cache(maxsize=8)
def _deltas(plan: Plan) -> tuple[float, ...]:
    steps = [recompute.Step(sigma=plan.sigma, rate=plan.rate, count=plan.steps)]
    return tuple(recompute.profile(steps, epsilons=LEVELS, grid=GRID))
