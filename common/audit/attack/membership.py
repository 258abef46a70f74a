"""Membership inference on the opened sums: how many members an attacker finds at few false alarms, beside the ceiling.

The attacker knows every canary and the law of the noise, so the likelihood ratio needs no shadow models: no attack
that sees the same sums is stronger. Source: Carlini et al. 2022 (LiRA, which estimates what is known here); Neyman,
Pearson 1933; Clopper, Pearson 1934 for the intervals; where guesses share a model, clustered.py.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy.special import betainc, betaincinv

from common.audit import recompute
from common.audit.attack import clustered
from common.audit.attack.check import LEVEL, Check
from common.audit.attack.one_run import Plan, Seen, score

FALSE_ALARMS: Final = (0.01, 0.001)
LEVELS: Final = tuple(at / 10 for at in range(121))  # epsilons at which the ceiling is read
GRID: Final = 1e-3
TAIL: Final = 0.025  # of an interval, on each side


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """Of `members`, so many were found when the attacker accepted `false_alarm`; at most `ceiling` of them could be.

    False alarms are counted, too: their true rate may be `false_alarm_most`, the end of its 95 % interval, and the ceiling then
    `ceiling_most`. `least` and `most` are the 95 % interval of the rate found, of so many guesses as `members_effective`:
    fewer than members where several are of one model. `p` bounds the probability of so many in a right build.
    """

    false_alarm: float
    members: int
    found: int
    rate: float
    least: float
    most: float
    members_effective: float
    ceiling: float
    false_alarm_most: float
    ceiling_most: float
    p: float


def attack(seen: Seen) -> list[Found]:
    """Return what the likelihood-ratio attack finds at each rate of false alarms, as shares of those who were in."""
    scores = score(seen.coordinates, sigma=seen.plan.sigma, rate=seen.plan.rate)
    return found_by(scores, inside=seen.inside, plan=seen.plan)


def found_by(
    scores: NDArray[np.float64], *, inside: NDArray[np.bool_], plan: Plan, models: NDArray[np.int64] | None = None
) -> list[Found]:
    """Return what an attack with these scores, (guess,), finds of those who were `inside`, (guess,), at each rate.

    `models` says of which model each guess is, (guess,): those of one share its noise. None: each has noise of its own.
    """
    outside = np.sort(scores[~inside])[::-1]
    found = []
    for false_alarm in FALSE_ALARMS:
        allowed = math.floor(false_alarm * len(outside))
        above = scores > outside[allowed]
        hits, members = int(above[inside].sum()), int(inside.sum())
        worth = _worth(above, of=inside, models=models, tail=TAIL)
        least, most = interval(hits / members * worth, of=worth)
        others = _worth(above, of=~inside, models=models, tail=TAIL)
        _, alarms_most = interval(allowed / len(outside) * others, of=others)
        found.append(
            Found(
                false_alarm=false_alarm,
                members=members,
                found=hits,
                rate=hits / members,
                least=least,
                most=most,
                members_effective=worth,
                ceiling=ceiling_at(plan, false_alarm=false_alarm),
                false_alarm_most=alarms_most,
                ceiling_most=ceiling_at(plan, false_alarm=alarms_most),
                p=_p(above, inside=inside, allowed=allowed, plan=plan, models=models),
            )
        )
    return found


def checks(found: Sequence[Found], *, name: str) -> Iterator[Check]:
    """Yield a check per rate of false alarms: no more were found than the claimed noise allows."""
    for one in found:
        shown = f"{100 * one.rate:.1f} % ({one.found} of {one.members}; {100 * one.least:.1f} to {100 * one.most:.1f} %)"
        far = f"{100 * one.ceiling_most:.1f} % if they are {100 * one.false_alarm_most:.1f} %"
        yield Check(
            name=f"{name}: members found at {100 * one.false_alarm:g} % false alarms",
            claim=f"at most {100 * one.ceiling:.1f} %; {far}",
            seen=shown,
            p=one.p,
        )


def interval(hits: float, *, of: float) -> tuple[float, float]:
    """Return the 95 % interval of a rate that was counted as `hits` of so many; neither need be whole."""
    least = float(betaincinv(hits, of - hits + 1, TAIL)) if hits > 0 else 0.0
    most = float(betaincinv(hits + 1, of - hits, 1 - TAIL)) if hits < of else 1.0
    return least, most


def _p(
    above: NDArray[np.bool_], *, inside: NDArray[np.bool_], allowed: int, plan: Plan, models: NDArray[np.int64] | None
) -> float:
    """Return the p of so many members above the score that `allowed` of the others may be above: twice its larger part.

    The true rate of false alarms may be above the counted one: it is taken at the end of its own interval.
    """
    tail, hits, others = LEVEL / 2, int(above[inside].sum()), int((~inside).sum())
    if not hits:
        return 1.0
    worth = _worth(above, of=~inside, models=models, tail=tail)
    counted = allowed / others * worth
    worst = float(betaincinv(counted + 1, worth - counted, 1 - tail))
    worth = _worth(above, of=inside, models=models, tail=tail)
    counted = hits / int(inside.sum()) * worth
    return min(1.0, 2 * float(betainc(counted, worth - counted + 1, ceiling_at(plan, false_alarm=worst))))


def _worth(above: NDArray[np.bool_], *, of: NDArray[np.bool_], models: NDArray[np.int64] | None, tail: float) -> float:
    """Return as how many independent ones the guesses `of` these count."""
    return float(of.sum()) if models is None else clustered.effective(above[of], models=models[of], tail=tail)


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
