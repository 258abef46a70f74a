"""Membership inference on the opened sums: how many members an attacker finds at few false alarms, beside the ceiling.

The attacker knows every canary and the law of the noise, so the likelihood ratio needs no shadow models: no attack
that sees the same sums is stronger. Source: Carlini et al. 2022 (LiRA, which estimates what is known here); Neyman,
Pearson 1933.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from scipy.special import bdtrc, betaincinv

from common.audit import recompute
from common.audit.attack.check import LEVEL, Check
from common.audit.attack.one_run import Plan, Seen, score

FALSE_ALARMS: Final = (0.01, 0.001)
LEVELS: Final = tuple(at / 10 for at in range(121))  # epsilons at which the ceiling is read
GRID: Final = 1e-3


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """Of `members`, so many were found when the attacker accepted `false_alarm`; at most `ceiling` of them could be."""

    false_alarm: float
    members: int
    found: int
    rate: float
    ceiling: float


def attack(seen: Seen) -> list[Found]:
    """Return what the likelihood-ratio attack finds at each rate of false alarms, as shares of those who were in."""
    scores = score(seen.coordinates, sigma=seen.plan.sigma, rate=seen.plan.rate)
    inside, outside = scores[seen.inside], np.sort(scores[~seen.inside])[::-1]
    found = []
    for false_alarm in FALSE_ALARMS:
        allowed = math.floor(false_alarm * len(outside))
        hits = int((inside > outside[allowed]).sum())
        ceiling = ceiling_at(seen.plan, false_alarm=false_alarm)
        found.append(Found(false_alarm=false_alarm, members=len(inside), found=hits, rate=hits / len(inside), ceiling=ceiling))
    return found


def checks(seen: Seen, found: Sequence[Found], *, name: str) -> Iterator[Check]:
    """Yield a check per rate of false alarms: no more were found than the claimed noise allows."""
    outside = int((~seen.inside).sum())
    for one in found:
        allowed = math.floor(one.false_alarm * outside)
        worst = float(betaincinv(allowed + 1, outside - allowed, 1 - LEVEL / 2))  # the true rate may be above the counted one
        p = float(bdtrc(one.found - 1, one.members, ceiling_at(seen.plan, false_alarm=worst))) if one.found else 1.0
        yield Check(
            name=f"{name}: members found at {100 * one.false_alarm:g} % false alarms",
            claim=f"at most {100 * one.ceiling:.1f} %",
            seen=f"{100 * one.rate:.1f} % ({one.found} of {one.members})",
            p=min(1.0, 2 * p),
        )


def ceiling_at(plan: Plan, *, false_alarm: float) -> float:
    """Return the largest share of members that any attack finds at this rate of false alarms, from the whole trade-off."""
    steps = [recompute.Step(sigma=plan.sigma, rate=plan.rate, count=plan.steps)]
    deltas = recompute.profile(steps, epsilons=LEVELS, grid=GRID)
    return min(1.0, *(math.exp(level) * false_alarm + delta for level, delta in zip(LEVELS, deltas, strict=True)))
