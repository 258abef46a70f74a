"""A study in memory: what comes out is what the pooled table gives, nothing else came out, and nothing was forgotten."""

import hashlib
import json
import logging
from decimal import Decimal

import numpy as np
import pytest
import statsmodels.api as sm

from client import config
from common import announcement, wire
from common.audit import verify
from common.crypto.adding import Adder
from common.errors import BadEnvelope, HospitalMissing
from server import messages
from server.journal import Journal
from tests import carriers, federation, phantoms
from tests.federation import HOSPITALS, kind
from tests.written import entries, exported, refusals, round_of


@pytest.fixture(params=carriers.KINDS)
def carried(make_federation, request, monkeypatch):
    """A federation whose envelopes are carried by a call, by the lane, or by Flower's messages."""
    monkeypatch.setattr(messages, "POLL_S", 0.01)
    one = make_federation()
    one.carrying = request.param
    return one


def opened(result):
    return [event for event in result["rounds"] if event["state"] == "opened"]


def codes(one):
    """Every code that a hospital gave, as the coordinator's journal has them."""
    found = {}
    for journal in one.folder.glob("run-*/journal.jsonl"):
        for event in Journal(journal).events():
            for name, code in {**event.get("missing", {}), **event.get("codes", {})}.items():
                found.setdefault(name, []).append(code)
    return found


def test_federated_statistics_equal_those_of_the_pooled_table(carried):
    one, wanted = carried, federation.study(patience_s=30)
    one.approve(wanted)
    result = one.run(wanted)
    assert [event["state"] for event in result["rounds"]] == ["opened"] * 4
    pooled = np.concatenate([vault.prepare(wanted.hash()).table for vault in one.vaults.values()])
    assert result["patients"] == len(pooled) == 4 * federation.PATIENTS
    assert np.abs(np.array(result["correlation"]["r"]) - np.corrcoef(pooled, rowvar=False)).max() < 1e-10
    fitted = sm.OLS(pooled[:, 3], sm.add_constant(pooled[:, :2])).fit(method="qr")
    for column, theirs in (("estimate", fitted.params), ("standard_error", fitted.bse), ("p", fitted.pvalues)):
        ours = np.array([row[column] for row in result["ols"]["rows"]])
        assert np.abs(ours / theirs - 1).max() < 1e-10, column


def test_everything_that_left_was_written_down_before(make_federation):
    one, wanted = make_federation(), federation.study()
    one.approve(wanted)
    seen_in_time = []

    def after(name, data):
        if kind(data) == "upload":
            released = {leaf["sha256"] for leaf in entries(one, name, "release")}
            seen_in_time.append(hashlib.sha256(data).hexdigest() in released)
        return data

    one.after = after
    one.run(wanted)
    assert len(seen_in_time) == 4 * 4
    assert all(seen_in_time)
    assert {kind(data) for _, data in one.sent} == {"bundle", "sealed", "upload", "closed"}


def test_the_bundles_of_a_run_verify(make_federation, tmp_path):
    one, wanted = make_federation(), federation.study()
    one.approve(wanted)
    result = one.run(wanted)
    for name in HOSPITALS:
        verdict = verify.verify(exported(one, wanted, name, tmp_path / f"{name}.zip"), roster_hash=one.roster.hash())
        assert verdict.epsilon_pld is not None
        assert abs(Decimal(result["training"]["epsilon"]) - verdict.epsilon_pld) < Decimal("0.001")


def test_a_hospital_that_misses_a_step_voids_it_and_is_left_out_and_returns(carried):
    one, wanted = carried, federation.study(training={"steps": 5}, patience_s=30)
    one.approve(wanted)
    one.after = lambda name, data: None if name == "hosp-b" and kind(data) == "upload" and round_of(data) == 3 else data
    result = one.run(wanted)
    told = [(event["round"], event["state"], len(event["hospitals"])) for event in result["rounds"]]
    assert told[2] == (3, "void", 4)
    assert told[3] == (4, "opened", 3)
    assert told[5] == (6, "opened", 4)
    assert len(opened(result)) == 7
    by_hospital = result["hospital_epsilon"]
    assert by_hospital["hosp-a"]["private_releases"] == 6  # the void round is charged too
    types = [leaf["type"] for leaf in entries(one, "hosp-a")]
    assert types.count("void") == 1


def test_a_void_step_is_charged_at_a_hospital_whose_upload_got_lost(make_federation):
    one, wanted = make_federation(), federation.study()
    one.approve(wanted)
    one.after = lambda name, data: None if name == "hosp-b" and kind(data) == "upload" and round_of(data) == 2 else data
    one.run(wanted)
    assert sum(leaf["type"] == "release" for leaf in entries(one, "hosp-b")) == 1 + 1 + 0 + 1  # gram, lost, away, evaluation
    assert one.vaults["hosp-b"].ledger.spent(delta=Decimal("1e-5")).releases_private == 1


def test_a_late_exact_statistic_is_answered_again_with_identical_bytes(carried):
    one, wanted = carried, federation.study(patience_s=30)
    one.approve(wanted)
    lost, uploads = [], []

    def after(name, data):
        if kind(data) != "upload" or round_of(data) != 1 or name != "hosp-c":
            return data
        uploads.append(data)
        if not lost:
            lost.append(data)
            return None
        return data

    one.after = after
    result = one.run(wanted)
    assert result["rounds"][0]["state"] == "opened"
    assert len(uploads) == 2
    assert uploads[0] == uploads[1]


def test_an_exact_statistic_is_not_answered_over_nearly_the_same_roster(make_federation):
    one, wanted = make_federation(), federation.study()
    one.approve(wanted)
    one.after = lambda name, data: None if name == "hosp-c" and kind(data) == "upload" and round_of(data) == 1 else data
    with pytest.raises(HospitalMissing, match="hosp-c: E-LATE"):
        one.run(wanted)


def test_a_hospital_at_its_cap_refuses_and_the_others_go_on(make_federation):
    one, wanted = make_federation(), federation.study(training={"steps": 3})
    one.approve(wanted)
    home = one.homes["hosp-d"]
    home.site_file.write_text(home.site_file.read_text().replace("epsilon_cap = 10", "epsilon_cap = 3"))
    result = one.run(wanted)
    assert codes(one)["hosp-d"] == ["E-REFUSED-BUDGET"]
    assert [event["hospitals"] for event in opened(result)][-1] == ["hosp-a", "hosp-b", "hosp-c"]
    assert refusals(one, "hosp-d") == ["E-REFUSED-BUDGET"]
    assert one.vaults["hosp-d"].ledger.spent(delta=Decimal("1e-5")).epsilon_rdp <= 3


def test_no_cap_is_passed_over_several_runs(make_federation):
    one, wanted = make_federation(epsilon_cap=Decimal(4)), federation.study()
    one.approve(wanted)
    one.run(wanted)  # 2.94 of 4
    with pytest.raises(HospitalMissing):
        one.run(wanted)
    for vault in one.vaults.values():
        assert vault.ledger.spent(delta=Decimal("1e-5")).epsilon_rdp <= 4


def test_a_study_that_is_not_approved_is_refused_and_the_refusal_is_written_down(carried):
    one, wanted = carried, federation.study(patience_s=30)
    with pytest.raises(HospitalMissing):
        one.run(wanted)
    assert codes(one) == {name: ["E-REFUSED-STUDY"] for name in HOSPITALS}
    for name in HOSPITALS:
        assert refusals(one, name) == ["E-REFUSED-STUDY"]


@pytest.mark.parametrize(
    ("changed", "code"),
    [
        ({"privacy": {"colluders": 0}}, "E-REFUSED-PARAMETERS"),
        ({"privacy": {"delta": Decimal("1e-3")}}, "E-REFUSED-PARAMETERS"),
        ({"hospitals_min": 2}, "E-REFUSED-ROSTER-SIZE"),
    ],
)
def test_an_approved_study_below_the_policy_is_still_refused(make_federation, changed, code):
    one, wanted = make_federation(), federation.study(**changed)
    one.approve(wanted)
    with pytest.raises(HospitalMissing):
        one.run(wanted)
    assert codes(one) == {name: [code] for name in HOSPITALS}


def test_too_few_patients_are_refused(make_federation):
    one, wanted = make_federation(patients_min=50), federation.study()
    one.approve(wanted)
    with pytest.raises(HospitalMissing):
        one.run(wanted)
    assert codes(one) == {name: ["E-REFUSED"] for name in HOSPITALS}
    inside = refusals(one, "hosp-a")
    assert inside == ["E-REFUSED-PATIENTS"]  # the exact reason stays in the hospital's own ledger


def test_a_hospital_without_exact_statistics_gives_none(make_federation):
    one, wanted = make_federation(exact_releases_max=0), federation.study()
    one.approve(wanted)
    with pytest.raises(HospitalMissing):
        one.run(wanted)
    assert {kind(data) for _, data in one.sent} == {"bundle", "sealed", "refusal"}


def test_a_vault_that_restarts_goes_on_where_it_was(make_federation):
    one, wanted = make_federation(), federation.study(training={"steps": 3})
    one.approve(wanted)

    def before(name, data):
        if name == "hosp-a" and kind(data) == "announce" and round_of(data) == 3:
            one.restart("hosp-a")
        return data

    one.before = before
    result = one.run(wanted)
    assert [event["state"] for event in result["rounds"]] == ["opened"] * 5


def test_a_vault_that_is_asked_twice_answers_with_the_same_bytes_and_charges_once(make_federation):
    one, wanted = make_federation(), federation.study()
    one.approve(wanted)
    doubled = []

    def before(name, data):
        if kind(data) == "announce":
            doubled.append((one.vaults[name].answer(data), one.vaults[name].answer(data)))
        return data

    one.before = before
    one.run(wanted)
    assert len(doubled) == 4 * 4
    assert all(first == second for first, second in doubled)
    assert one.vaults["hosp-a"].ledger.spent(delta=Decimal("1e-5")).releases_private == wanted.training.steps


def test_a_second_story_about_a_round_is_refused(make_federation):
    one, wanted = make_federation(), federation.study()
    one.approve(wanted)
    refused = []

    def before(name, data):
        if name == "hosp-a" and kind(data) == "announce" and round_of(data) == 2:
            one.vaults[name].answer(data)
            other = wire.peek(data)
            body = {**other.body, "outcomes": {}}
            lie = wire.seal(
                wire.Envelope(
                    **{**{f: getattr(other, f) for f in ("kind", "sender", "recipient", "run", "blob")}, "body": body}
                ),
                key=one.key,
            )
            refused.append(wire.peek(one.vaults[name].answer(lie)))
        return data

    one.before = before
    one.run(wanted)
    assert [(reply.kind, reply.body["code"]) for reply in refused] == [("refusal", "E-ROUND")]


def test_hospitals_that_were_told_different_models_are_named_before_any_sum(make_federation, monkeypatch):
    one, wanted = make_federation(), federation.study(privacy={"rounds_void_allowed": 0})
    one.approve(wanted)
    summed = []
    real = Adder.total

    def watched(adder, heads):
        total = real(adder, heads)
        summed.append(adder._announcement.task)
        return total

    monkeypatch.setattr(Adder, "total", watched)

    def before(name, data):
        if name != "hosp-b" or kind(data) != "announce" or round_of(data) != 2:
            return data
        told = wire.peek(data)
        plain = dict(told.body["announcement"])
        blob = bytearray(told.blob)
        blob[-1] ^= 1
        plain["blob_sha256"] = hashlib.sha256(bytes(blob)).hexdigest()
        announcement.parse(plain)
        lie = wire.Envelope(
            kind="announce", sender=told.sender, recipient=name, run=told.run,
            body={**told.body, "announcement": plain}, blob=bytes(blob),
        )  # fmt: skip
        return wire.seal(lie, key=one.key)

    one.before = before
    with pytest.raises(HospitalMissing):
        one.run(wanted)
    assert summed == ["gram"]


@pytest.mark.parametrize(
    "damage", [lambda d: b"", lambda d: d[:40], lambda d: d[:-1] + bytes([d[-1] ^ 1]), lambda d: b"\x00" * 1000]
)
def test_junk_costs_the_sender_an_error_and_nothing_else(make_federation, damage):
    one, wanted = make_federation(), federation.study()
    one.approve(wanted)
    junk = []

    def before(name, data):
        if not junk:
            junk.append(1)
            with pytest.raises(BadEnvelope):
                one.vaults[name].answer(damage(data))
        return data

    one.before = before
    assert len(opened(one.run(wanted))) == 4


def test_a_stranger_with_a_key_of_his_own_is_not_answered(make_federation):
    one, other = make_federation(), make_federation()
    wanted = federation.study()
    one.approve(wanted)
    one.before = lambda _name, data: wire.seal(wire.peek(data), key=other.key)
    with pytest.raises(HospitalMissing):
        one.run(wanted)
    assert one.sent == []


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"study": 5, "roster": None},
        {"announcement": [], "inbox": 3, "outcomes": "x"},
        {"announcement": {"round": True}, "inbox": {}, "outcomes": {}},
        {"bundles": {"hosp-a": "zz"}},
        {"outcomes": {"1": ["opened"]}, "announcement": {"run": {}}, "inbox": {}},
    ],
)
@pytest.mark.parametrize("what", ["invite", "keys", "announce", "close", "upload", "bundle"])
def test_malformed_requests_are_refused_with_a_code(make_federation, what, body):
    one, wanted = make_federation(), federation.study()
    one.approve(wanted)
    request = wire.Envelope(kind=what, sender=federation.COORDINATOR, recipient="hosp-a", run="r0", body=body)
    reply = wire.peek(one.vaults["hosp-a"].answer(wire.seal(request, key=one.key)))
    assert reply.kind == "refusal"
    assert reply.body["code"].startswith("E-")
    assert not any(leaf["type"] in {"reserve", "release"} for leaf in entries(one, "hosp-a"))


def test_no_identifier_is_in_anything_that_left_or_was_logged(tmp_path, phantom_scans, caplog, capsys):
    caplog.set_level(logging.DEBUG)
    one = federation.Federation(tmp_path / "f", phantom_scans, cache=tmp_path / "cache")  # the scans are read here
    wanted = federation.study(training={"steps": 1})
    one.approve(wanted)
    one.run(wanted)
    one.close()
    ledgers = b"".join(home.ledger.read_bytes() for home in one.homes.values())
    kept = b"".join(path.read_bytes() for path in one.folder.rglob("*") if path.is_file() and "cohorts" not in path.parts)
    said = (caplog.text + "".join(capsys.readouterr())).encode()
    everything = b"".join(data for _, data in one.sent) + ledgers + kept + said
    scan = b"".join(path.read_bytes() for path in sorted((phantom_scans / "hosp-a").rglob("*.dcm"))[:50])
    assert all(value.encode() in scan for value in phantoms.PLANTED.values())
    needles = {part for value in phantoms.PLANTED.values() for part in (value, *value.split("^"))}
    needles |= {f"{name.upper()}-{number:03d}" for name in HOSPITALS for number in range(federation.PATIENTS)}
    assert [needle for needle in needles if needle.encode() in everything] == []


def test_closing_a_run_erases_its_keys(make_federation):
    one, wanted = make_federation(), federation.study()
    one.approve(wanted)
    one.run(wanted)
    for home in one.homes.values():
        for path in home.state.glob("*.run.json"):
            state = json.loads(path.read_bytes())
            assert state["pair_keys"] == {}
            assert state["setup_key"] == ""
            assert state["sent_secrets"] == {}
            assert path.stat().st_mode & 0o777 == 0o600


def test_a_changed_policy_is_in_the_ledger(make_federation):
    one, wanted = make_federation(), federation.study()
    one.approve(wanted)
    one.run(wanted)
    policies = [leaf["policy"] for leaf in entries(one, "hosp-a", "policy")]
    assert [wanted.hash() in policy["allowed_studies"] for policy in policies] == [False, True]
    assert config.read_site(one.homes["hosp-a"]).policy.epsilon_cap == Decimal(policies[-1]["epsilon_cap"])
