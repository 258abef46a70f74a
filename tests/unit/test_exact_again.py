"""A study's Gram over the identical rows and roster counts once over all runs; whatever could tell something new does not."""

import csv

import pytest

from client import config, exact
from common import roster
from common.errors import AlreadyAnswered, HospitalMissing, RecordDamaged
from tests import federation
from tests.asking import gram, set_up
from tests.federation import HOSPITALS, kind
from tests.written import refusals


@pytest.fixture
def capped(make_federation):
    """Hospitals that let two exact sums leave: what one run of the study needs."""
    one, wanted = make_federation(exact_releases_max=2), federation.study()
    one.approve(wanted)
    return one, wanted


def spent(one, name="hosp-a"):
    vault = one.vaults[name]
    return vault.ledger.spent(delta=config.read_site(vault.home).policy.delta_cap)


def test_a_run_that_ended_after_its_gram_does_not_cost_the_study(capped):
    one, wanted = capped
    for name in ("first", "second"):
        gram(set_up(one, wanted, name))
    assert (spent(one).exact_counted, spent(one).releases_exact) == (1, 2)
    for name in HOSPITALS:
        one.restart(name)
    result = one.run(wanted)
    assert result["training"]["auc"] is not None
    assert refusals(one) == []
    assert (spent(one).exact_counted, spent(one).releases_exact) == (2, 4)


def test_the_same_bits_leave_each_time(capped):
    one, wanted = capped
    first, second = (gram(set_up(one, wanted, name))[1] for name in ("first", "second"))
    assert first.tolist() == second.tolist()


def test_histograms_of_other_models_count_each_time(capped):
    one, wanted = capped
    one.run(wanted)
    assert one.run(wanted)["training"]["auc"] is None
    assert refusals(one) == ["E-REFUSED-EXACT"]


def test_the_gram_of_another_study_counts_although_its_columns_were_summed(capped):
    one, wanted = capped
    one.run(wanted)
    other = federation.study(title="another study")
    one.approve(other)
    with pytest.raises(HospitalMissing):
        gram(set_up(one, other, "other"))
    assert refusals(one) == ["E-REFUSED-EXACT"]


def test_a_gram_again_over_other_rows_is_refused(capped, tmp_path):
    one, wanted = capped
    gram(set_up(one, wanted, "first"))
    home = one.homes["hosp-a"]
    site = config.read_site(home)
    with site.clinical.open() as file:
        rows = list(csv.reader(file))
    fewer = tmp_path / "clinical.csv"
    with fewer.open("w", newline="") as file:
        csv.writer(file).writerows(rows[:-1])
    home.site_file.write_text(home.site_file.read_text().replace(str(site.clinical), str(fewer)))
    one.restart("hosp-a")
    with pytest.raises(HospitalMissing):
        gram(set_up(one, wanted, "second"))
    assert refusals(one) == ["E-REFUSED-REPEAT"]


def test_a_record_that_forgot_a_gram_of_the_ledger_answers_nothing(capped):
    one, wanted = capped
    gram(set_up(one, wanted, "first"))
    (one.homes["hosp-a"].state / "exact.json").unlink()
    before = len([data for _, data in one.sent if kind(data) == "upload"])
    with pytest.raises(HospitalMissing):
        gram(set_up(one, wanted, "second"))
    assert refusals(one) == ["E-AUDIT-INTEGRITY"]
    assert len([1 for name, data in one.sent[before:] if name == "hosp-a" and kind(data) == "upload"]) == 1  # the first


def test_a_gram_again_under_a_roster_with_another_key_is_refused(capped):
    one, wanted = capped
    gram(set_up(one, wanted, "first"))
    members = [
        roster.Member.from_plain({**member.plain(), "node": "ssh-ed25519 another"}) if member.name == "hosp-d" else member
        for member in one.roster.members
    ]
    one.roster = roster.sign(federation="phantoms", coordinator=one.roster.coordinator, key=one.key, members=tuple(members))
    for home in one.homes.values():
        config.approve_roster(home, data=one.roster.bytes(), expected_hash=one.roster.hash())
    with pytest.raises(HospitalMissing):
        gram(set_up(one, wanted, "second"))
    assert {name: refusals(one, name) for name in HOSPITALS} == {name: ["E-REFUSED-REPEAT"] for name in HOSPITALS}


def test_what_the_ledger_knows_must_stand_in_the_record(tmp_path):
    path, asked = tmp_path / "exact.json", {"q1": b"rows", "q2": b"rows"}
    names = ("a", "b", "c")
    with pytest.raises(RecordDamaged, match="does not know"):
        exact.check(path, questions=asked, roster=names, secret=b"k", under="r1", again=True)
    exact.save(path, exact.check(path, questions=asked, roster=names, secret=b"k", under="r1"))
    exact.check(path, questions=asked, roster=names, secret=b"k", under="r1", again=True)
    with pytest.raises(RecordDamaged, match="does not know"):
        exact.check(path, questions={**asked, "q3": b""}, roster=names, secret=b"k", under="r1", again=True)
    with pytest.raises(AlreadyAnswered, match="other keys"):
        exact.check(path, questions=asked, roster=names, secret=b"k", under="r2", again=True)
    for changed in ({"questions": {"q1": b"others"}}, {"roster": ("a", "b")}):
        with pytest.raises(AlreadyAnswered):
            exact.check(path, **{"questions": asked, "roster": names, "secret": b"k", "under": "r1", "again": True, **changed})
