"""The auditor: every lie under a hospital's real signature is found, and what cannot be stated is withheld."""

from decimal import Decimal

import pytest

from common import canonical
from common.audit import ending, recompute, verify
from common.errors import AccountantsDisagree, CapPassed, RecordDamaged
from common.ledger import accounting, officers
from common.ledger.events import Kind
from tests import ledgers
from tests.ledgers import CAP, DELTA, HASH, forged, release, reserve, share, signed

ROSTER_HASH = ledgers.roster().hash()


LIES = {
    "release without reserve": [release()],
    "released twice": [reserve(), release(), release()],
    "reserved twice": [reserve(), reserve()],
    "commit before release": [reserve(), (Kind.COMMIT, {"id": "run/1/aalen"})],
    "refund after release": [reserve(), release(), (Kind.ABORT, {"id": "run/1/aalen", "reason": "hospital-missing"})],
    "release after refund": [reserve(), (Kind.ABORT, {"id": "run/1/aalen", "reason": "hospital-missing"}), release()],
    "release after forfeit": [reserve(), (Kind.FORFEIT, {"id": "run/1/aalen"}), release()],
    "second genesis": [(Kind.GENESIS, {"origin": "x", "key": "x"})],
    "study planned twice": [(Kind.PLAN, {"study": HASH, "title": "x"})],
    "study not in the bundle": [(Kind.PLAN, {"study": "f" * 64, "title": "x"})],
    "reserve for an unplanned study": [reserve(study="f" * 64)],
    "less noise than the plan": [reserve(mech=share(noise="1.4").entry())],
    "more sampling than the plan": [reserve(mech=share(rate="0.3").entry())],
    "another purpose": [reserve(purpose="resale")],
    "another delta": [reserve(delta=Decimal("1e-6"))],
    "a round without the hospital": [reserve(roster=["berlin", "cadiz", "delft"])],
    "noise of more hospitals than the round": [reserve(roster=["aalen", "berlin"])],
    "a cap that the policy does not know": [reserve(epsilon_cap=Decimal(80))],
}


@pytest.mark.parametrize("lie", LIES)
def test_a_lie_under_the_real_signature_is_found(lie):
    with pytest.raises(RecordDamaged):
        verify.verify(forged(*LIES[lie]), roster_hash=ROSTER_HASH)


def test_the_honest_form_of_those_lies_holds():
    verdict = verify.verify(forged(reserve(), release(), (Kind.COMMIT, {"id": "run/1/aalen"})), roster_hash=ROSTER_HASH)
    assert (verdict.releases_private, verdict.releases_void, verdict.forfeited) == (1, 0, 0)


def test_a_cap_passed_is_found_even_if_a_refund_followed():
    low = {"policy": {"epsilon_cap": Decimal("0.5"), "delta_cap": DELTA}}
    said = [
        (Kind.POLICY, low),
        reserve(epsilon_cap=Decimal("0.5")),
        (Kind.ABORT, {"id": "run/1/aalen", "reason": "hospital-missing"}),
    ]
    with pytest.raises(CapPassed):
        verify.verify(forged(*said), roster_hash=ROSTER_HASH)


def test_entries_of_unknown_type_or_shape_are_damage():
    genuine = forged().entries
    for line in (
        b'{"seq":3,"ts":1,"type":"gift","v":1}',
        b'{"code":"E-X","round":null,"seq":3,"study":null,"ts":1,"type":"refuse","v":2}',
        b'{"code":"E-X","patient":"x","round":null,"seq":3,"study":null,"ts":1,"type":"refuse","v":1}',
        b'{"code":"E-X","round":1.5,"seq":3,"study":null,"ts":1,"type":"refuse","v":1}',
        b'{"code": "E-X","round":null,"seq":3,"study":null,"ts":1,"type":"refuse","v":1}',
        b'{"code":"E-X","round":null,"seq":4,"study":null,"ts":1,"type":"refuse","v":1}',
        b"[" * 60_000,
        b"",
        b"\xff",
        b'"' + b"x" * 70_000 + b'"',
    ):
        with pytest.raises(RecordDamaged):
            verify.verify(signed((*genuine, line)), roster_hash=ROSTER_HASH)


def test_pld_is_withheld_off_plan_and_rdp_is_shown():
    too_many = [entry for number in range(1, 34) for entry in (reserve(number),)]
    verdict = verify.verify(forged(*_raised(), *_capped(too_many)), roster_hash=ROSTER_HASH)
    assert verdict.epsilon_pld is None
    assert "more private releases" in verdict.pld_withheld
    assert verdict.epsilon_rdp > 0


def test_pld_is_withheld_when_a_study_was_planned_after_the_first_release():
    late = ledgers.study(noise="2")
    said = [
        reserve(),
        (Kind.PLAN, {"study": late.hash(), "title": "x"}),
        reserve(2, study=late.hash(), mech=share(noise="2").entry()),
    ]
    plans = {plan.hash(): plan.canonical_bytes() for plan in (ledgers.study(), late)}
    verdict = verify.verify(forged(*said, studies=plans), roster_hash=ROSTER_HASH)
    assert verdict.epsilon_pld is None
    assert "planned after" in verdict.pld_withheld


def _capped(said):
    return [(kind, fields | {"epsilon_cap": Decimal(100)}) for kind, fields in said]


def _raised():
    """The entries of a cap of 100 that the hospital's two officers signed."""
    keys = ledgers.key(31), ledgers.key(32)
    caps = {"delta_cap": DELTA, "officers": [key.public_key().public_bytes_raw().hex() for key in keys]}
    before, after = ({"epsilon_cap": cap, **caps} for cap in (CAP, Decimal(100)))
    told = [canonical.decode(canonical.encode(policy)) for policy in (before, after)]
    both = dict(officers.sign(*told, origin=ledgers.ORIGIN, entry=3, key=key) for key in keys)  # after those that all have
    return [(Kind.POLICY, {"policy": before}), (Kind.POLICY, {"policy": after, "signatures": both})]


def test_a_study_under_another_hash_or_malformed_is_damage():
    plan = ledgers.study()
    for studies in (
        {},
        {plan.hash(): ledgers.study(noise="0.1").canonical_bytes()},
        {plan.hash(): b"{}"},
        {plan.hash(): b"[" * 100_000},
        {plan.hash(): plan.canonical_bytes(), "0" * 64: plan.canonical_bytes()},
    ):
        with pytest.raises(RecordDamaged):
            verify.verify(forged(studies=studies), roster_hash=None)


@pytest.mark.parametrize(
    ("first", "second", "gate"),
    [(2.0, 2.01, 3.0), (2.01, 2.0, 3.0), (3.1, 3.1, 3.0), (float("inf"), 2.0, 3.0), (2.0, float("nan"), 3.0), (0.0, 2.0, 3.0)],
)
def test_accountants_that_disagree_are_reported(first, second, gate):
    with pytest.raises(AccountantsDisagree) as raised:
        verify.check_agreement(first, second, gate=gate)
    assert ending.EXIT_CODES[type(raised.value)] == 4


def test_half_a_per_cent_less_noise_in_one_accountant_is_a_disagreement():
    charged = accounting.Tally([share()] * 12)
    less = recompute.epsilon([recompute.Step(sigma=1.5 * 0.995, rate=0.25, count=12)], delta=1e-5, grid=1e-4)
    first, gate = charged.epsilon_pld(delta=DELTA), charged.epsilon_rdp(delta=DELTA)
    same = recompute.epsilon([recompute.Step(sigma=1.5, rate=0.25, count=12)], delta=1e-5, grid=1e-4)
    verify.check_agreement(first, same, gate=gate)
    with pytest.raises(AccountantsDisagree):
        verify.check_agreement(first, less, gate=gate)


def test_a_study_that_was_approved_but_never_run_may_be_in_the_bundle():
    plan, unused = ledgers.study(), ledgers.study(noise="2")
    plans = {item.hash(): item.canonical_bytes() for item in (plan, unused)}
    caps = {"epsilon_cap": CAP, "delta_cap": DELTA}
    allowed = (Kind.POLICY, {"policy": {**caps, "allowed_studies": sorted(plans)}})
    assert verify.verify(forged(allowed, studies=plans), roster_hash=ROSTER_HASH).entries == 4
    with pytest.raises(RecordDamaged, match="studies"):
        verify.verify(forged(studies=plans), roster_hash=ROSTER_HASH)
    with pytest.raises(RecordDamaged, match="studies"):
        verify.verify(forged((Kind.POLICY, {"policy": {**caps, "allowed_studies": 7}}), studies=plans), roster_hash=ROSTER_HASH)
