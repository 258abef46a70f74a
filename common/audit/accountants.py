"""What a ledger's private entries cost, by every accountant of a plain install, and what each study added."""

import math
from collections import Counter
from dataclasses import dataclass
from decimal import Decimal

from scipy.special import ndtr

from common.audit import neighbours_pld, prv, recompute
from common.audit.bundle import Bundle
from common.audit.neighbours import NOTHING, Neighbours, epsilons
from common.audit.verify import Verdict
from common.ledger import accounting, events
from common.ledger.accounting import Tally
from common.ledger.state import State
from common.mechanism import GaussianShare

BISECTIONS = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class Costs:
    """Epsilons at `delta`, rounded up; `closed_form` where no release is sampled, the PLDs and PRV where the plan allows.

    `prv` is an upper bound; None, too, where the composition is too large for it.
    """

    delta: Decimal | None
    rdp: Decimal
    pld: Decimal | None
    pld_independent: Decimal | None
    pld_withheld: str | None
    prv: Decimal | None
    closed_form: Decimal | None
    by_study: tuple[tuple[str, Decimal], ...]  # what each study added, by RDP: epsilon of all less epsilon without it
    neighbours: Neighbours  # by RDP, at the number of colluders that each study plans for
    neighbours_pld: Neighbours | None  # by PLD, where the plan allows it and it was asked for


def costs(bundle: Bundle, verdict: Verdict, *, with_prv: bool = True, with_neighbours_pld: bool = False) -> Costs:
    """Return the costs of a verified bundle; raises AccountantsDisagree where PRV contradicts PLD.

    `with_prv` and `with_neighbours_pld` False leave the slowest accountants out.
    """
    if verdict.delta is None:
        zero = Decimal(0)
        return Costs(
            delta=None,
            rdp=zero,
            pld=zero,
            pld_independent=zero,
            pld_withheld=None,
            prv=zero,
            closed_form=zero,
            by_study=(),
            neighbours=NOTHING,
            neighbours_pld=NOTHING if with_neighbours_pld else None,
        )
    state, delta = replayed(bundle), verdict.delta
    noisy = [one.mechanism for one in state.private() if isinstance(one.mechanism, GaussianShare)]
    return Costs(
        delta=delta,
        rdp=verdict.epsilon_rdp,
        pld=verdict.epsilon_pld,
        pld_independent=verdict.epsilon_pld_independent,
        pld_withheld=verdict.pld_withheld,
        prv=_prv(state.tally, delta, verdict) if with_prv else None,
        closed_form=_closed_form(state.tally, delta),
        by_study=tuple(_by_study(state, delta)),
        neighbours=epsilons(noisy, delta=delta),
        neighbours_pld=neighbours_pld.epsilons(noisy, delta=delta, once=verdict.epsilon_pld)
        if with_neighbours_pld and verdict.epsilon_pld is not None
        else None,
    )


def replayed(bundle: Bundle) -> State:
    """Return what the entries of a bundle add up to; raises RecordDamaged."""
    state = State()
    for line in bundle.entries:
        state.apply(events.decode(line))
    return state


def steps(tally: Tally) -> list[recompute.Step]:
    """Return the private releases for the second accountant."""
    return [
        recompute.Step(sigma=float(group.noise_multiplier), rate=float(group.sampling_rate), count=group.count)
        for group in tally.groups
    ]


def gaussian_delta(epsilon: float, *, mu: float) -> float:
    """Return delta of the Gaussian mechanism with sensitivity over noise `mu`. Source: Balle, Wang 2018, theorem 8."""
    return float(ndtr(mu / 2 - epsilon / mu) - math.exp(epsilon) * ndtr(-mu / 2 - epsilon / mu))


def _closed_form(tally: Tally, delta: Decimal) -> Decimal | None:
    groups = tally.groups
    if not groups or any(group.sampling_rate != 1 for group in groups):
        return None
    mu = math.sqrt(sum(group.count / float(group.noise_multiplier) ** 2 for group in groups))

    def solve(target: float) -> float:
        low, high = 0.0, 700.0
        if gaussian_delta(high, mu=mu) > target:
            return math.inf
        for _ in range(BISECTIONS):
            middle = (low + high) / 2
            low, high = (middle, high) if gaussian_delta(middle, mu=mu) > target else (low, middle)
        return high

    return accounting.round_up(tally.with_discreteness(delta=delta, accountant=solve))


def _prv(tally: Tally, delta: Decimal, verdict: Verdict) -> Decimal | None:
    if verdict.epsilon_pld is None:
        return None
    composed = steps(tally)
    found = tally.with_discreteness(delta=delta, accountant=lambda left: prv.epsilon(composed, delta=left))
    if math.isinf(found):
        return None
    prv.check_agreement(pld=float(verdict.epsilon_pld), prv=found, rdp=float(verdict.epsilon_rdp))
    return accounting.round_up(found)


def _by_study(state: State, delta: Decimal) -> list[tuple[str, Decimal]]:
    everything = state.tally.epsilon_rdp(delta=delta)
    spent = Counter((one.study, one.mechanism) for one in state.private() if isinstance(one.mechanism, GaussianShare))
    added = []
    for study in state.studies:
        rest = Tally()
        for (of, mechanism), count in spent.items():
            if of != study and isinstance(mechanism, GaussianShare):
                rest.add(mechanism, times=count)
        added.append((study, accounting.round_up(max(0.0, everything - rest.epsilon_rdp(delta=delta)))))
    return added
