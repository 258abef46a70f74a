"""Whether the sums that a study declares solve for hospitals' own aggregates: equations against unknowns, by counting.

Over a set of S columns, what a hospital's own fits depend on is its n and its scatter: 1 + S (S + 1) / 2 unknowns. Sums of what
hospitals computed themselves (scatter within, weighted estimates, products of scores) are equations about them. Counting is no
proof: fewer equations still bound a hospital's share, and sums of other studies are not counted.
"""

from collections.abc import Sequence
from functools import lru_cache
from itertools import combinations, combinations_with_replacement
from typing import Final

from common import analyses
from common.analyses import Declared
from common.study import Study

Told = tuple[Declared, tuple[str, ...]]

KEPT: Final = 64  # answers that a process remembers

KERNELS = frozenset({"absorbed", "within", "meta", "meta_random"})
# Sums that a few hospitals' own aggregates solve: honest hospitals (those that do not work with the coordinator) needed.
HONEST_LEAST: Final = {
    "absorbed": 3,  # with the Gram: the scatter of hospitals' means, which of two hospitals gives their difference
    "within": 3,  # ComBat's, likewise
    "meta": 3,  # four sums of w and b, two unknowns a hospital
    "meta_random": 4,  # seven with the first round's
}


def solvable(study: Study, *, honest: int) -> bool:
    """Say whether, over some columns, the study's sums are at least as many as `honest` hospitals have unknowns.

    A vault asks at every query: what was counted for an equal study is kept.
    """
    return _counted(study, honest)


@lru_cache(maxsize=KEPT)
def _counted(study: Study, honest: int) -> bool:
    told = [
        (one, (*form.responses, *form.predictors))
        for at, one in enumerate(study.statistics.analyses)
        if isinstance(one, analyses.Absorbed | analyses.Combat | analyses.Meta | analyses.Robust)
        for form in study.asked(at).forms[:1]
    ]
    sets = {frozenset(names) for _, names in told}
    sets |= {one | other for one, other in combinations(sets, 2)} | {frozenset().union(*sets)}
    gram = study.columns() if study.statistics.privacy is None else ()
    return any(_equations(told, over, honest=honest, gram=gram) >= honest * (1 + _pairs(len(over))) for over in sets if over)


def _equations(told: Sequence[Told], over: frozenset[str], *, honest: int, gram: Sequence[str]) -> int:
    """Return how many different sums are about these columns alone; a Gram adds what it has above hospitals' means."""
    scatter: set[tuple[str, str]] = set()
    sums: dict[tuple[str, ...], int] = {}
    for one, names in told:
        if not over.issuperset(names):
            continue
        p = len(names) - 1
        if isinstance(one, analyses.Absorbed | analyses.Combat):
            scatter.update(combinations_with_replacement(sorted(names), 2))
        elif isinstance(one, analyses.Meta):
            sums["meta", names[0], *sorted(names[1:])] = (7 if honest >= HONEST_LEAST["meta_random"] else 4) * p
        else:
            sums["scores", names[0], *sorted(names[1:])] = _pairs(p + 1)
    means = max(0, _pairs(len(over)) + len(over) - honest * len(over)) if over.issubset(gram) else 0
    return 1 + len(scatter) + sum(sums.values()) + means


def _pairs(count: int) -> int:
    return count * (count + 1) // 2
