"""The hospital's ledger: what is charged once, refused, forfeited and given back, and that each is an entry."""

import hashlib
from decimal import Decimal

import pytest

from client.ledger import Ledger
from common.errors import (
    BudgetExhausted,
    OutsidePolicy,
    RecordUnwritable,
    RefusedError,
    ReservationConflict,
    StudyNotApproved,
)
from common.ledger import accounting, events, note
from common.ledger.events import Kind
from tests import ledgers
from tests.ledgers import CAP, DELTA, GRAM, HASH, asked, kinds, share

SHA = hashlib.sha256(b"bytes").hexdigest()


def test_reserve_release_commit_are_three_entries(ledger):
    receipt = asked(ledger)
    ledger.release(receipt, sha256=SHA, size_bytes=5)
    ledger.commit(receipt.reservation)
    assert kinds(ledger) == [Kind.GENESIS, Kind.POLICY, Kind.PLAN, Kind.RESERVE, Kind.RELEASE, Kind.COMMIT]
    assert (receipt.study, receipt.mechanism, receipt.sequence) == (HASH, share(), 3)
    assert ledger.size() == 6


def test_repeating_a_step_adds_nothing(ledger):
    receipt = asked(ledger)
    assert asked(ledger) == receipt
    for _ in range(2):
        ledger.release(receipt, sha256=SHA, size_bytes=5)
    for _ in range(2):
        ledger.commit(receipt.reservation)
    assert asked(ledger) == receipt
    ledger.release(receipt, sha256=SHA, size_bytes=5)
    ledger.record_study(HASH, title="again")
    ledger.record_policy({"delta_cap": Decimal("1e-5"), "epsilon_cap": CAP})
    assert ledger.size() == 6


@pytest.mark.parametrize(
    "other", [{"mechanism": share(noise="2")}, {"purpose": "other"}, {"round_number": 7}, {"roster": ("a", "b", "c")}]
)
def test_the_same_id_with_another_content_is_refused(ledger, other):
    asked(ledger)
    with pytest.raises(ReservationConflict):
        asked(ledger, **other)
    assert issubclass(ReservationConflict, RefusedError)


def test_a_second_release_with_other_bytes_is_refused(ledger):
    receipt = asked(ledger)
    ledger.release(receipt, sha256=SHA, size_bytes=5)
    with pytest.raises(ReservationConflict):
        ledger.release(receipt, sha256="0" * 64, size_bytes=5)


def test_a_receipt_of_another_ledger_is_refused(ledger, tmp_path):
    with ledgers.create(tmp_path / "other.sqlite") as other:
        asked(other)
        foreign = asked(other, number=2)
    asked(ledger, number=2)
    with pytest.raises(ReservationConflict):
        ledger.release(foreign, sha256=SHA, size_bytes=5)
    with pytest.raises(ReservationConflict, match="no such"):
        ledger.commit("run/9/aalen")


def test_the_cap_is_never_passed_and_the_refusal_is_an_entry(ledger):
    number = 0
    while accounting.round_up(accounting.epsilon_rdp([share(noise="1")] * (number + 1), delta=DELTA)) <= CAP:
        asked(ledger, number=number, mechanism=share(noise="1"))
        number += 1
    with pytest.raises(BudgetExhausted):
        asked(ledger, number=number, mechanism=share(noise="1"))
    spent = ledger.spent(delta=DELTA)
    assert spent.epsilon_rdp <= CAP
    assert spent.releases_private == number > 3
    assert kinds(ledger)[-1] == Kind.REFUSE
    assert spent.refusals == 1


def test_releases_of_all_studies_count_together(ledger):
    other = ledgers.study(noise="1").hash()
    ledger.record_study(other, title="Another")
    asked(ledger)
    one = ledger.spent(delta=DELTA).epsilon_rdp
    asked(ledger, number=2, study=other, mechanism=share(noise="1"))
    both = ledger.spent(delta=DELTA).epsilon_rdp
    assert both == accounting.round_up(accounting.epsilon_rdp([share(), share(noise="1")], delta=DELTA)) > one


def test_exact_statistics_cost_nothing_and_are_listed(ledger):
    receipt = asked(ledger, mechanism=GRAM)
    assert ledger.spent(delta=DELTA).releases_exact == 0
    ledger.release(receipt, sha256=SHA, size_bytes=5)
    spent = ledger.spent(delta=DELTA)
    assert (spent.epsilon_rdp, spent.releases_exact, spent.releases_private) == (0, 1, 0)


def test_delta_above_the_cap_is_refused_and_recorded(ledger):
    with pytest.raises(BudgetExhausted, match="delta"):
        asked(ledger, delta=Decimal("2e-5"))
    assert kinds(ledger)[-1] == Kind.REFUSE


def test_a_void_round_stays_charged_and_an_aborted_one_is_given_back_in_ledgers_of_this_format(ledger):
    voided, aborted = asked(ledger), asked(ledger, number=2)
    ledger.release(voided, sha256=SHA, size_bytes=5)
    ledger.void(voided.reservation)
    with pytest.raises(ReservationConflict):
        ledger.commit(voided.reservation)
    with pytest.raises(OutsidePolicy):
        ledgers.give_back(ledger, aborted.reservation, reason="the loss was NaN")
    ledgers.give_back(ledger, aborted.reservation)
    ledger.void(aborted.reservation)
    assert ledger.spent(delta=DELTA).releases_private == 1
    assert ledger.spent(delta=DELTA).epsilon_rdp == accounting.round_up(accounting.epsilon_rdp([share()], delta=DELTA))
    with pytest.raises(ReservationConflict):
        ledger.release(aborted, sha256=SHA, size_bytes=5)
    with pytest.raises(ReservationConflict):
        asked(ledger, number=2)
    with pytest.raises(ReservationConflict):
        ledgers.give_back(ledger, voided.reservation)


def test_what_was_left_reserved_is_forfeited_at_the_next_start(ledger_path):
    with ledgers.create(ledger_path) as first:
        receipt = asked(first)
    with ledgers.reopen(ledger_path) as again:
        assert kinds(again)[-1] == Kind.FORFEIT
        assert again.spent(delta=DELTA).releases_private == 1
        with pytest.raises(ReservationConflict):
            again.release(receipt, sha256=SHA, size_bytes=5)
        again.void(receipt.reservation)
        assert kinds(again)[-1] == Kind.FORFEIT


def test_looking_forfeits_nothing_and_writes_nothing(ledger_path, ledger):
    receipt = asked(ledger)
    with Ledger.look(ledger_path, origin=ledgers.ORIGIN, key=ledgers.LEDGER_KEY, clock=ledgers.clock) as reader:
        assert reader.spent(delta=DELTA) == ledger.spent(delta=DELTA)
        assert note.verify(reader.checkpoint(), keys=[note.parse_key(reader.verify_key)])
        with pytest.raises(RecordUnwritable):
            reader.refuse(code="E-REFUSED", study=None, round_number=None)
    ledger.release(receipt, sha256=SHA, size_bytes=5)


def test_refusals_hold_codes_and_hashes_only(ledger):
    ledger.refuse(code="E-REFUSED-STUDY", study="Doe^John", round_number=-1)
    ledger.refuse(code="E-REFUSED-STUDY", study=HASH, round_number=3)
    said = [dict(events.decode(line).fields) for line in ledger.entries()][-2:]
    salts = {fields.pop("salt") for fields in said}
    assert len(salts) == 2, "the hashes of equal refusals are equal: a witness could tell by trial which one it is"
    assert said[0] == {"code": "E-REFUSED-STUDY", "study": None, "round": None}
    assert said[1] == {"code": "E-REFUSED-STUDY", "study": HASH, "round": 3}
    with pytest.raises(OutsidePolicy):
        ledger.refuse(code="John Doe", study=None, round_number=None)


@pytest.mark.parametrize(
    "bad",
    [
        {"delta": Decimal(0)},
        {"delta": Decimal("NaN")},
        {"epsilon_cap": Decimal("Infinity")},
        {"epsilon_cap": Decimal(-1)},
        {"mechanism": share(noise="0")},
        {"mechanism": share(rate="1.5")},
        {"mechanism": share(noise="NaN")},
        {"roster": ("aalen", "berlin")},
        {"roster": ("aalen", "aalen", "berlin")},
        {"purpose": "Not A Name"},
        {"round_number": -1},
    ],
)
def test_malformed_values_are_refused_and_change_nothing(ledger, bad):
    before = ledger.size()
    with pytest.raises(OutsidePolicy):
        asked(ledger, **bad)
    assert ledger.size() == before


def test_an_unregistered_study_is_refused(ledger):
    with pytest.raises(StudyNotApproved):
        asked(ledger, study="f" * 64)
    assert ledger.studies() == (HASH,)


def test_huge_or_foreign_text_does_not_enter(ledger):
    with pytest.raises(OutsidePolicy):
        ledger.record_policy({"note": "x" * 70_000})
    with pytest.raises(OutsidePolicy):
        ledger.record_policy({"epsilon_cap": 8.0})
    with pytest.raises(OutsidePolicy):
        ledger.record_study("a" * 64, title="x" * 201)
    with pytest.raises(OutsidePolicy):
        ledger.record_study("not a hash", title="x")


def test_a_new_policy_is_an_entry(ledger):
    caps = {"delta_cap": Decimal("1e-5")}
    for cap in (7, 6):  # lower than CAP: nobody signs for that
        ledger.record_policy({**caps, "epsilon_cap": Decimal(cap)})
    said = [events.decode(entry).fields for entry in list(ledger.entries())[-2:]]
    assert [one["policy"]["epsilon_cap"] for one in said] == ["7", "6"]
    assert [one.keys() for one in said] == [{"policy", "salt"}] * 2
    salts = {bytes.fromhex(one["salt"]) for one in said}
    assert [len(salt) for salt in salts] == [16, 16]  # two, and not the same
