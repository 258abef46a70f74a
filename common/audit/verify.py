"""Verify one hospital's bundle without trusting anybody: signatures, tree, state machine, plan, caps, two accountants."""

import hashlib
import textwrap
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Final

from common import analyses, announcement, noisy_moments, scores
from common import roster as rosters
from common import study as studies
from common.audit import recompute, witnessed
from common.audit.bundle import Bundle
from common.audit.caps import Caps
from common.audit.exact_cap import ExactCap
from common.errors import (
    AccountantsDisagree,
    AnotherRoster,
    CapPassed,
    ConfigError,
    OtherVersion,
    OutsidePolicy,
    RecordDamaged,
)
from common.ledger import accounting, events, merkle, note, officers, post_quantum
from common.ledger.accounting import Tally
from common.ledger.events import Event, Kind
from common.ledger.state import Reservation, Stage, State
from common.mechanism import Exact, GaussianShare, LocalSteps, Mechanism, NoisyGram, NoisyScores, SampledStep
from common.roster import Roster
from common.study import Study

TOLERANCE = 5e-4  # between the two accountants, absolute; their difference at equal grid is below 2e-5
TOLERANCE_RELATIVE = 1e-4
BEYOND = recompute.HALF_WIDTH_MOST / 2 - 1  # an epsilon above this is not resolved, and no privacy either
WORDS_MOST: Final = 300  # of what is wrong with a study

STEPS = (
    "(1) the roster is whole, is the approved one, and names the hospital",
    "(2) the checkpoint is signed by every ledger key that the roster names of the hospital, and by nobody else",
    "(3) the Merkle root is over exactly these entries, and no entry was rewritten after a witness had seen it",
    "(4) every entry is canonical, of a known type and in order",
    "(5) every release follows its reservation, none twice",
    "(6) every study is in the bundle under its hash, and every release is one of its study, in its number",
    "(7) no cap was passed at any entry, nor raised without the officers whom the policy names",
    "(8) two independent accountants agree, and neither exceeds the gate's",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ExactRelease:
    """An exact statistic that left: epsilon is infinite, the hospital's policy allowed it."""

    sequence: int
    study: str
    statistic: str
    round_number: int
    hospitals: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What holds of one hospital's ledger. Unit: patient; adjacency: add or remove one; epsilons rounded up, at `delta`.

    `epsilon_pld` is None where `pld_withheld` says why: then only the gate's number (RDP) may be quoted.
    """

    hospital: str
    origin: str
    roster: tuple[str, ...]
    roster_hash: str
    roster_pinned: bool
    entries: int
    root: str
    exact: tuple[ExactRelease, ...]
    releases_private: int
    releases_void: int
    forfeited: int
    refusals: int
    delta: Decimal | None
    delta_added: Decimal
    epsilon_cap: Decimal | None
    epsilon_rdp: Decimal
    epsilon_pld: Decimal | None
    epsilon_pld_independent: Decimal | None
    pld_withheld: str | None
    clock_steps_back: int
    witnessed_entries: int
    witnesses: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Run:
    """The replayed ledger."""

    state: State
    planned: Mapping[str, int]  # study -> number of its plan entry
    last: Reservation | None  # the last private one


def verify(bundle: Bundle, *, roster_hash: str | None, notes: Iterable[bytes] = ()) -> Verdict:
    """Check the steps above; raises RecordDamaged, CapPassed or AccountantsDisagree at the first that does not hold.

    `roster_hash` pins the roster that the auditor got from elsewhere (AnotherRoster, a RecordDamaged, where it is another);
    without it, step 1 shows only that the file is whole. `notes`: checkpoints of this ledger that witnesses kept.
    """
    roster = _roster(bundle, roster_hash)  # (1)
    key = _key(roster, bundle.hospital)
    checkpoint = _checkpoint(bundle, key=key, second=roster.member(bundle.hospital).ledger_ml_dsa)  # (2)
    leaves = [merkle.leaf_hash(line) for line in bundle.entries]  # (3)
    if checkpoint.size != len(leaves) or merkle.root(leaves) != checkpoint.root:
        raise _damaged("The entries are not those that the checkpoint covers.")
    own = (bundle.witnessed,) if bundle.witnessed else ()
    seen = witnessed.check(leaves, notes=(*own, *notes), key=key, roster=roster, hospital=bundle.hospital)
    plans = _studies(bundle)
    run = _replay(bundle.entries, plans=plans, hospital=bundle.hospital)  # (4) to (7)
    if (run.state.origin, run.state.key) != (key.name, key.vkey):
        raise _damaged("The ledger was begun under another name or key.")
    if not set(run.planned) <= set(plans) <= {*run.planned, *_allowed(run.state)}:
        raise _damaged("The studies in the bundle are not those that the ledger planned or its policy allows.")
    epsilons = _epsilons(run, plans)  # (8)
    return Verdict(
        hospital=bundle.hospital,
        origin=checkpoint.origin,
        roster=roster.names,
        roster_hash=roster.hash(),
        roster_pinned=roster_hash is not None,
        entries=checkpoint.size,
        root=checkpoint.root.hex(),
        exact=tuple(_exact(run.state)),
        releases_private=len(run.state.private()),
        releases_void=_count(run.state, Stage.VOID),
        forfeited=_count(run.state, Stage.FORFEITED),
        refusals=run.state.refusals,
        delta=run.last.delta if run.last else None,
        epsilon_cap=run.last.epsilon_cap if run.last else None,
        clock_steps_back=run.state.clock_steps_back,
        witnessed_entries=seen.entries,
        witnesses=seen.witnesses,
        **epsilons,
    )


def check_agreement(first: float, second: float, *, gate: float) -> None:
    """Raise AccountantsDisagree unless two PLD epsilons agree up to their grids and neither exceeds the RDP epsilon."""
    allowed = TOLERANCE + TOLERANCE_RELATIVE * gate
    if not abs(first - second) <= allowed or not max(first, second) <= gate + allowed:
        raise AccountantsDisagree(
            f"Epsilon is {first:.6f} by one accountant, {second:.6f} by another and {gate:.6f} by the gate's.",
            action="Do not quote any of them; report this with the bundle.",
        )


def _roster(bundle: Bundle, roster_hash: str | None) -> Roster:
    try:
        roster = rosters.parse(bundle.roster)
    except (ConfigError, RecursionError):
        raise _damaged("The roster is not valid.") from None
    if roster_hash is not None and roster.hash() != roster_hash:
        raise AnotherRoster(
            "The bundle holds another roster than yours.",
            action="Compare --roster-hash with the coordinator and the hospital; nothing else was checked.",
        )
    return roster


def _key(roster: Roster, hospital: str) -> note.Key:
    if hospital not in roster.names:
        raise _damaged("The hospital is not in the roster.")
    key = note.parse_key(roster.member(hospital).ledger_key)
    if key.kind != note.ED25519:
        raise _damaged("The ledger's key is of an unknown kind.")
    return key


def _checkpoint(bundle: Bundle, *, key: note.Key, second: str) -> note.Checkpoint:
    """Return the checkpoint that the ledger's key signed, and its ML-DSA-44 key where the roster names one."""
    checkpoint = note.parse_checkpoint(note.verify(bundle.checkpoint, keys=[key]))
    if checkpoint.origin != key.name:
        raise _damaged("The checkpoint is for another ledger.")
    if second:
        other = note.parse_key(second)
        if other.name != key.name:
            raise _damaged("The ledger's keys are of two ledgers.")
        post_quantum.verify(bundle.checkpoint, key=other)
    if len(note.split(bundle.checkpoint)[1]) != 1 + bool(second):
        raise _damaged("The checkpoint has signatures that the roster does not name.")
    return checkpoint


def _studies(bundle: Bundle) -> dict[str, Study]:
    plans = {}
    for name, data in bundle.studies.items():
        try:
            plans[name] = studies.parse(data)
        except ConfigError as error:
            if hashlib.sha256(data).hexdigest() != name:
                raise _damaged("A study in the bundle does not have its hash.") from None
            raise OtherVersion(
                f"A study in the bundle cannot be read here. {textwrap.shorten(error.what, WORDS_MOST, placeholder=' …')}",
                action="Verify with the version of Motet that the hospital runs; where that fails, too, do not trust it.",
            ) from None
        except (ValueError, ArithmeticError, RecursionError):
            raise _damaged("A study in the bundle is not valid.") from None
        if plans[name].hash() != name:
            raise _damaged("A study in the bundle does not have its hash.")
    return plans


def _allowed(state: State) -> frozenset[str]:
    allowed = (state.policy or {}).get("allowed_studies")
    return frozenset(item for item in allowed if isinstance(item, str)) if isinstance(allowed, list) else frozenset()


def _replay(lines: tuple[bytes, ...], *, plans: Mapping[str, Study], hospital: str) -> _Run:
    state, caps, exact_cap, planned, last = State(), Caps(), ExactCap(), {}, None
    exact = {name: _exact_of(study) for name, study in plans.items()}
    for line in lines:
        event = events.decode(line)  # (4)
        if event.kind == Kind.POLICY:
            _check_officers(event, state)  # (7)
        state.apply(event)  # (5)
        if event.kind == Kind.PLAN:
            planned[event.fields["study"]] = event.seq
        elif event.kind == Kind.RESERVE:
            reserved = state.reservations[event.fields["id"]]
            _check_plan(reserved, plans=plans, exact=exact, hospital=hospital)  # (6)
            _check_sums(reserved, study=plans[reserved.study], state=state)
            exact_cap.reserve(reserved, policy=state.policy)  # (7)
            if isinstance(reserved.mechanism, GaussianShare):
                caps.charge(reserved, reserved.mechanism, policy=state.policy)  # (7)
                last = reserved
        elif event.kind == Kind.RELEASE:
            exact_cap.release(state.reservations[event.fields["id"]])
        elif event.kind == Kind.ABORT:
            given_back = state.reservations[event.fields["id"]].mechanism
            if isinstance(given_back, GaussianShare):
                caps.give_back(given_back)
    caps.settle()
    return _Run(state=state, planned=planned, last=last)


def _check_officers(event: Event, state: State) -> None:
    try:
        signatures = event.fields.get("signatures", {})
        officers.check(
            state.policy, event.fields["policy"], origin=state.origin, entry=state.policy_entry, signatures=signatures
        )
    except OutsidePolicy as error:
        raise CapPassed(f"Entry {event.seq}: {error.what}", action="Ask the hospital who decided that.") from None


def _check_plan(
    reserved: Reservation, *, plans: Mapping[str, Study], exact: Mapping[str, frozenset[Mechanism]], hospital: str
) -> None:
    study = plans.get(reserved.study)
    if study is None:
        raise _damaged(f"Entry {reserved.sequence} belongs to a study that is not in the bundle.")
    if reserved.purpose != study.purpose or hospital not in reserved.roster:
        raise _damaged(f"Entry {reserved.sequence} has another purpose than its study, or is of a round without this hospital.")
    known = isinstance(reserved.mechanism, Exact) and reserved.mechanism in exact[reserved.study]
    if not (known or _agreed(reserved, study, hospital)):
        raise _damaged(f"Entry {reserved.sequence} does not have the privacy parameters of its study.")


def _check_sums(reserved: Reservation, *, study: Study, state: State) -> None:
    """Refuse more sums of an analysis in one run than its study allows; a hospital refuses them too."""
    if not isinstance(reserved.mechanism, Exact):
        return
    run, statistic = reserved.run, reserved.mechanism.statistic
    for position, one in enumerate(study.statistics.analyses):
        if statistic == analyses.statistic(one, position=position):
            if len(state.sums(run, statistic=statistic)) > analyses.queries_most(one):
                raise _damaged(f"Entry {reserved.sequence} is one sum of {statistic} more than its study allows.")
            return


def _exact_of(study: Study) -> frozenset[Mechanism]:
    """Return every exact mechanism of the study: its Gram unless that has noise, the score histograms, each analysis."""
    asked = [("evaluate", 0), ("gram", 0)]
    asked += [("query", analyses.index(position, number=1)) for position in range(len(study.statistics.analyses))]
    return frozenset(
        announcement.mechanism_for(study, task=task, index=index, hospitals=study.hospitals_min, dimension=1)
        for task, index in asked
        if announcement.is_exact(study, task=task)
    )


def _agreed(reserved: Reservation, study: Study, hospital: str) -> bool:
    """Say whether a private release has the mechanism that its study gives it; an unknown mechanism has not."""
    private, spent, agreed = study.statistics.privacy, reserved.mechanism, study.privacy
    if isinstance(spent, NoisyGram):
        size = noisy_moments.packed_size(len(study.columns()))
        return (
            private is not None
            and reserved.delta == private.delta
            and (spent.hospitals, spent.colluders) == (len(reserved.roster), private.colluders)
            and spent.honest >= 1
            and spent == announcement.mechanism_for(study, task="gram", hospitals=len(reserved.roster), dimension=size)
        )
    if isinstance(spent, NoisyScores):
        wanted, many = study.evaluation.privacy, len(reserved.roster)
        size = scores.dimension(study)
        return (
            wanted is not None
            and reserved.delta == wanted.delta
            and (spent.hospitals, spent.colluders) == (many, wanted.colluders)
            and spent.honest >= 1
            and spent == announcement.mechanism_for(study, task="evaluate", hospitals=many, dimension=size)
        )
    if isinstance(spent, LocalSteps) or study.training.local is not None:
        return (
            isinstance(spent, LocalSteps)
            and study.training.local is not None
            and reserved.delta == agreed.delta
            and (spent.hospitals, spent.colluders) == (len(reserved.roster), agreed.colluders)
            and spent.honest >= 1
            and spent == announcement.charged(study, spent, hospital=hospital)
        )
    if isinstance(spent, SampledStep):
        return (
            spent.noise_multiplier == agreed.noise_multiplier
            and spent.clip_norm == agreed.clip_norm
            and spent.sampling_rate == agreed.sampling_rate
            and spent.colluders == agreed.colluders
            and spent.patients_per_step_max == study.training.patients_per_step_max
            and spent.hospitals == len(reserved.roster)
            and spent.honest >= 1
            and reserved.delta == agreed.delta
        )
    return False


def _epsilons(run: _Run, plans: Mapping[str, Study]) -> dict[str, Any]:
    tally, zero = run.state.tally, Decimal(0)
    result: dict[str, Any] = {"epsilon_pld": None, "epsilon_pld_independent": None, "pld_withheld": None}
    if run.last is None or not tally.groups:
        return {**result, "delta_added": zero, "epsilon_rdp": zero, "epsilon_pld": zero, "epsilon_pld_independent": zero}
    delta = run.last.delta
    rdp = tally.epsilon_rdp(delta=delta)
    result |= {"epsilon_rdp": accounting.round_up(rdp), "delta_added": Decimal(str(tally.delta_added(epsilon=rdp)))}
    withheld = _off_plan(run, plans)
    if withheld is not None:
        return {**result, "pld_withheld": withheld}
    first, second = tally.epsilon_pld(delta=delta), _independent(tally, delta)
    if min(first, second) > BEYOND:
        return {**result, "pld_withheld": "epsilon is beyond what privacy-loss distributions resolve"}
    check_agreement(first, second, gate=rdp)
    return {**result, "epsilon_pld": accounting.round_up(first), "epsilon_pld_independent": accounting.round_up(second)}


def _independent(tally: Tally, delta: Decimal) -> float:
    steps = [
        recompute.Step(sigma=float(group.noise_multiplier), rate=float(group.sampling_rate), count=group.count)
        for group in tally.groups
    ]
    grid = accounting.GRID if len(steps) <= accounting.FINE_GROUPS_MOST else accounting.GRID_COARSE
    return tally.with_discreteness(delta=delta, accountant=lambda left: recompute.epsilon(steps, delta=left, grid=grid))


def _off_plan(run: _Run, plans: Mapping[str, Study]) -> str | None:
    private = run.state.private()
    first = min(reserved.sequence for reserved in private)
    for study_hash in {reserved.study for reserved in private}:
        if run.planned[study_hash] > first:
            return "a study was planned after another's first private release"
        study = plans[study_hash]
        charged = Counter(type(reserved.mechanism) for reserved in private if reserved.study == study_hash)
        once = {NoisyGram: study.statistics.privacy, NoisyScores: study.evaluation.privacy}
        planned: dict[type, int] = {kind: 1 + one.rounds_void_allowed if one else 0 for kind, one in once.items()}
        steps = study.training.steps + study.privacy.rounds_void_allowed
        if any(count > planned.get(kind, steps) for kind, count in charged.items()):
            return "a study has more private releases than it planned"
    return None


def _exact(state: State) -> Iterator[ExactRelease]:
    for reserved in state.exact():
        if isinstance(reserved.mechanism, Exact):
            yield ExactRelease(
                sequence=reserved.sequence,
                study=reserved.study,
                statistic=reserved.mechanism.statistic,
                round_number=reserved.round_number,
                hospitals=len(reserved.roster),
            )


def _count(state: State, stage: Stage) -> int:
    return sum(reserved.stage == stage for reserved in state.reservations.values())


def _damaged(what: str) -> RecordDamaged:
    return RecordDamaged(what, action="Do not trust this record; ask the hospital for the original.")
