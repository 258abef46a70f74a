"""What noisy releases cost together: epsilons of both accountants as texts, never below what was spent."""

from collections import Counter
from collections.abc import Iterable
from decimal import ROUND_CEILING, Decimal
from functools import lru_cache
from typing import Final

from common.canonical import decimal_text
from common.ledger import accounting
from common.ledger.accounting import EPSILON_STEP, Tally
from common.mechanism import GaussianShare

__all__ = ["INFINITE", "epsilons", "size"]

INFINITE: Final = "infinite"  # what an accountant cannot bound, as where the noise is small
KEPT: Final = 256  # answers that are remembered: hospitals of a run mostly spent the same, and each takes seconds


def epsilons(releases: Iterable[GaussianShare], *, delta: Decimal, step: Decimal = EPSILON_STEP) -> dict[str, str]:
    """Return `epsilon` by PLD (valid for what was planned before the first release), `epsilon_rdp`, and `delta`.

    Rounded up to multiples of `step`. Where the noise is so small that PLD has no finite answer, Renyi's bound stands for both;
    INFINITE where it has none either. Raises as common.ledger.accounting.
    """
    pld, rdp = _both(frozenset(Counter(releases).items()), delta)
    return {
        "epsilon": _text(pld if pld.is_finite() else rdp, step),
        "epsilon_rdp": _text(rdp, step),
        "delta": decimal_text(delta),
    }


def size(epsilon: str) -> Decimal:
    """Return an epsilon of `epsilons` as a number to compare by."""
    return Decimal("Infinity") if epsilon == INFINITE else Decimal(epsilon)


@lru_cache(maxsize=KEPT)
def _both(releases: frozenset[tuple[GaussianShare, int]], delta: Decimal) -> tuple[Decimal, Decimal]:
    tally = Tally()
    for release, times in releases:
        tally.add(release, times=times)
    return accounting.round_up(tally.epsilon_pld(delta=delta)), accounting.round_up(tally.epsilon_rdp(delta=delta))


def _text(epsilon: Decimal, step: Decimal) -> str:
    return decimal_text(epsilon.quantize(step, rounding=ROUND_CEILING)) if epsilon.is_finite() else INFINITE
