"""The numbers of the page that a data protection officer signs: what one hospital gave, in odds; page.py says them."""

import math
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, Final

from common import canonical
from common.audit import accountants, recompute
from common.audit.attack.given import Attacked
from common.audit.bundle import Bundle
from common.audit.neighbours import NOTHING, epsilons
from common.audit.verify import Verdict
from common.ledger import accounting
from common.ledger.accounting import Tally
from common.ledger.state import State
from common.mechanism import GaussianShare

GRID: Final = 1e-3
LEVELS: Final = tuple(at / 10 for at in range(121))  # epsilons at which the trade-off is read
FALSE_ALARM: Final = 0.01
POINTS_MOST: Final = 200  # of the curve
LATEST: Final = datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC)


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """The page's numbers, as canonical JSON holds them: texts and whole numbers. A rendering adds none."""

    hospital: str
    values: dict[str, Any]


def facts(bundle: Bundle, verdict: Verdict, *, attacks: Sequence[Attacked] = ()) -> Facts:
    """Return what the page of a verified bundle says; the same bundle, with the same attacks, gives the same facts."""
    state = accountants.replayed(bundle)
    costs = accountants.costs(bundle, verdict)
    right, found = _odds(state.tally)
    return Facts(
        hospital=verdict.hospital,
        values={
            "version": 1,
            "hospital": verdict.hospital,
            "ledger": verdict.origin,
            "entries": verdict.entries,
            "root": verdict.root,
            "last_entry": _time(state.last_ts),
            "roster": verdict.roster_hash,
            "witnessed_entries": verdict.witnessed_entries,
            "witnesses": list(verdict.witnesses),
            "refusals": verdict.refusals,
            "forfeited": verdict.forfeited,
            "void": verdict.releases_void,
            "private": verdict.releases_private,
            "unit": "patient",
            "adjacency": "add-or-remove-one",
            "delta": costs.delta,
            "cap": verdict.epsilon_cap,
            "rdp": _finite(costs.rdp),
            "pld": _finite(costs.pld),
            "pld_independent": _finite(costs.pld_independent),
            "pld_withheld": costs.pld_withheld,
            "prv": _finite(costs.prv),
            "closed_form": _finite(costs.closed_form),
            "by_study": {name: _finite(added) for name, added in costs.by_study},
            "right_of_100": right,
            "found_of_100": found,
            "exact": _exact(verdict),
            "burn_down": [list(point) for point in _burn_down(state, costs.delta)],
            "neighbours": _neighbours(state, costs.delta),
            "colluders_planned": max((one.colluders for one in _private(state)), default=0),
            "attacks": [one.plain() for one in attacks],
        },
    )


def plain(told: Facts) -> bytes:
    """Return the record that the page renders, canonical: one spelling, so that its hash is the page's."""
    return canonical.encode(told.values) + b"\n"


def _odds(tally: Tally) -> tuple[int | None, int | None]:
    """Return how often of 100 the best guesser is right, and how many he finds at 1 % false alarms; None where unbounded."""
    steps = accountants.steps(tally)
    if not steps:
        return 50, 1
    deltas = [
        min(1.0, delta + added)
        for level, delta in zip(LEVELS, recompute.profile(steps, epsilons=LEVELS, grid=GRID), strict=True)
        if math.isfinite(added := tally.delta_added(epsilon=level))
    ]
    if len(deltas) < len(LEVELS) or deltas[0] >= 1:
        return None, None
    found = min(math.exp(level) * FALSE_ALARM + delta for level, delta in zip(LEVELS, deltas, strict=True))
    return math.ceil(50 * (1 + deltas[0])), min(100, math.ceil(100 * found))


def _private(state: State) -> list[GaussianShare]:
    return [one.mechanism for one in state.private() if isinstance(one.mechanism, GaussianShare)]


def _burn_down(state: State, delta: Decimal | None) -> list[tuple[int, str]]:
    """Return the number of a charge and epsilon after it, at most POINTS_MOST of them, the last always."""
    spent, points = _private(state), []
    tally, every = Tally(), max(1, math.ceil(len(spent) / POINTS_MOST))
    for number, one in enumerate(spent, start=1):
        tally.add(one)
        if delta is not None and (number % every == 0 or number == len(spent)):
            points.append((number, _finite(accounting.round_up(tally.epsilon_rdp(delta=delta))) or "infinite"))
    return points


def _neighbours(state: State, delta: Decimal | None) -> list[dict[str, Any]]:
    """Return epsilons (RDP) for each number of colluding hospitals that leaves at least one honest in every round.

    One for each notion of neighbours (neighbours.py).
    """
    spent = _private(state)
    rows: list[dict[str, Any]] = []
    for colluders in range(min((one.hospitals for one in spent), default=0)):
        against = [_against(one, colluders) for one in spent]
        found = NOTHING if delta is None else epsilons(against, delta=delta)
        told = {name.replace("_", "-"): _finite(value) or "infinite" for name, value in asdict(found).items()}
        rows.append({"colluders": colluders, **told})
    return rows


def _against(one: GaussianShare, colluders: int) -> GaussianShare:
    """Return a release as it is against so many colluders: its shares are as large as they were made for the planned number."""
    if one.shares != one.honest:
        return one  # each hospital's own noise is the whole: nobody's share is missing
    honest = one.hospitals - colluders
    noise = (one.noise_multiplier * (Decimal(honest) / one.honest).sqrt()).quantize(Decimal("1e-9"))
    return replace(one, noise_multiplier=noise, colluders=colluders)


def _exact(verdict: Verdict) -> list[dict[str, Any]]:
    rounds = Counter((one.study, one.statistic) for one in verdict.exact)
    fewest: defaultdict[tuple[str, str], int] = defaultdict(lambda: 1 << 30)
    for one in verdict.exact:
        fewest[one.study, one.statistic] = min(fewest[one.study, one.statistic], one.hospitals)
    return [
        {"study": study, "statistic": statistic, "rounds": count, "hospitals_fewest": fewest[study, statistic]}
        for (study, statistic), count in sorted(rounds.items())
    ]


def _time(ts: int) -> str:
    """Return seconds since 1970 as UTC to the second; what no calendar holds, as its last second."""
    last = LATEST if ts > LATEST.timestamp() else datetime.fromtimestamp(ts, tz=UTC)
    return last.strftime("%Y-%m-%dT%H:%M:%SZ")


def _finite(number: Decimal | None) -> str | None:
    return None if number is None or not number.is_finite() else canonical.decimal_text(number)
