"""A cap is raised by two of the hospital's own officers, and a ledger that raised one without them is found."""

import sys
from decimal import Decimal

import pytest

from client import cli, config
from client.config import Home
from client.ledger import Ledger
from client.officers import signatures
from client.origin import ledger_origin
from common.audit import bundle, verify
from common.errors import CapPassed, ConfigError, OutsidePolicy
from common.ledger import events, officers
from common.ledger.events import Kind
from tests import ledgers
from tests.ledgers import DELTA, clock

PI, DPO, STRANGER = ledgers.key(31), ledgers.key(32), ledgers.key(33)
OFFICERS = [key.public_key().public_bytes_raw().hex() for key in (PI, DPO)]


def policy(cap="8", **changes):
    return {"epsilon_cap": cap, "delta_cap": str(DELTA), "exact_releases_max": 5, "officers": OFFICERS, **changes}


def signed(ledger, after, *keys):
    before, entry = ledger.policy()
    return dict(officers.sign(before, after, origin=ledgers.ORIGIN, entry=entry, key=key) for key in keys)


@pytest.fixture
def ledger(tmp_path):
    with Ledger.create(tmp_path / "ledger.sqlite", origin=ledgers.ORIGIN, key=ledgers.LEDGER_KEY, clock=clock) as made:
        made.record_policy(policy())
        made.record_study(ledgers.HASH, title=ledgers.study().title)
        yield made


@pytest.mark.parametrize("after", [policy("9"), policy(exact_releases_max=6), policy(delta_cap="0.1"), policy(officers=[])])
def test_raising_a_cap_or_changing_the_officers_needs_two_signatures(ledger, after):
    size = ledger.size()
    for keys in ((), (PI,), (PI, STRANGER), (STRANGER, STRANGER)):
        with pytest.raises(OutsidePolicy):
            ledger.record_policy(after, signatures=signed(ledger, after, *keys))
    assert ledger.size() == size
    other = policy("8.5")
    with pytest.raises(OutsidePolicy):  # signatures of another step
        ledger.record_policy(after, signatures=signed(ledger, other, PI, DPO))
    ledger.record_policy(after, signatures=signed(ledger, after, PI, DPO))
    assert ledger.policy()[0] == after


@pytest.mark.parametrize("lowered", ["7", "8"])  # 8: what it was when they signed
def test_signatures_do_not_raise_a_cap_again_after_it_was_lowered(ledger, lowered):
    raised = policy("9")
    both = signed(ledger, raised, PI, DPO)
    ledger.record_policy(raised, signatures=both)
    ledger.record_policy(policy(lowered))  # lowering needs nobody
    with pytest.raises(OutsidePolicy):
        ledger.record_policy(raised, signatures=both)
    ledger.record_policy(raised, signatures=signed(ledger, raised, PI, DPO))


def test_a_missing_cap_is_a_raised_one_and_a_first_policy_needs_nobody():
    after = {name: value for name, value in policy().items() if name != "epsilon_cap"}
    assert officers.must_sign(policy(), after) == set(OFFICERS)
    assert officers.must_sign(None, policy("99")) == set()
    officers.check(None, policy("99"), origin=ledgers.ORIGIN, entry=0, signatures={})


def bare(path):
    made = Ledger.create(path, origin=ledgers.ORIGIN, key=ledgers.LEDGER_KEY, clock=clock)
    made.record_policy(policy(officers=[]))
    return made


@pytest.mark.parametrize("after", [policy("9", officers=[]), policy("9"), policy(exact_releases_max=6, officers=[])])
def test_without_officers_no_cap_is_raised_until_they_are_named(tmp_path, after):
    with bare(tmp_path / "bare.sqlite") as ledger:
        size = ledger.size()
        for signatures_ in ({}, signed(ledger, after, PI, DPO)):
            with pytest.raises(OutsidePolicy, match="no officers"):
                ledger.record_policy(after, signatures=signatures_)
        assert ledger.size() == size
        ledger.record_policy(policy("7", officers=[]))  # lowering needs nobody
        ledger.record_policy(policy("7"))  # nor does naming the first
        raised = {**after, "officers": OFFICERS}
        ledger.record_policy(raised, signatures=signed(ledger, raised, PI, DPO))
        assert ledger.policy()[0] == raised


def test_the_auditor_finds_a_cap_that_was_raised_where_nobody_could_sign(tmp_path, monkeypatch):
    with bare(tmp_path / "bare.sqlite") as ledger:
        ledger.record_study(ledgers.HASH, title=ledgers.study().title)
        monkeypatch.setattr(officers, "check", lambda *_args, **_named: None)  # a hospital whose program does not ask
        ledger.record_policy(policy("10", officers=[]))
        ledgers.export(tmp_path / "bad.zip", ledger)
        monkeypatch.undo()
        with pytest.raises(CapPassed, match=r"Entry 3: .* names no officers"):
            verify.verify(bundle.read(tmp_path / "bad.zip"), roster_hash=None)


def test_the_auditor_finds_a_cap_that_was_raised_without_them(tmp_path, ledger, monkeypatch):
    after = policy("9")
    ledger.record_policy(after, signatures=signed(ledger, after, PI, DPO))
    ledgers.export(tmp_path / "good.zip", ledger)
    assert verify.verify(bundle.read(tmp_path / "good.zip"), roster_hash=None).entries == ledger.size()
    monkeypatch.setattr(officers, "check", lambda *_args, **_named: None)  # a hospital whose program does not ask
    ledger.record_policy(policy("10"))
    ledgers.export(tmp_path / "bad.zip", ledger)
    monkeypatch.undo()
    with pytest.raises(CapPassed, match="officers"):
        verify.verify(bundle.read(tmp_path / "bad.zip"), roster_hash=None)


def test_malformed_signatures_are_no_entry(ledger):
    event = events.decode(list(ledger.entries())[1])
    for wrong in ({}, {"x": "y"}, [], {OFFICERS[0]: "0" * 127}):
        with pytest.raises(ValueError, match="signatures"):
            events.encode(events.Event(seq=1, kind=event.kind, ts=1, fields={**event.fields, "signatures": wrong}))


def run(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["motet-hospital", *map(str, arguments)])
    with pytest.raises(SystemExit) as ending:
        cli.main()
    return ending.value.code


def test_two_officers_sign_what_site_toml_states(tmp_path, monkeypatch, capsys):
    home = Home(tmp_path / "h")
    site = config.create(
        home.folder, name="aalen", scans=tmp_path, clinical=tmp_path / "c.csv", epsilon_cap=Decimal(8), delta_cap=DELTA,
        hospitals_min=3, colluders_min=1, patients_min=1, exact_releases_max=5,
    )  # fmt: skip
    public = []
    for name in ("pi", "dpo"):
        assert run(monkeypatch, "officer", tmp_path / f"{name}.pem") == 0
        public.append(capsys.readouterr().out.strip())
    named = "\n".join(f'  "{key}",' for key in public)
    text = home.site_file.read_text().replace("allowed_studies = []", f"officers = [\n{named}\n]\nallowed_studies = []")
    home.site_file.write_text(text)

    def opened():
        return Ledger.open(home.ledger, origin=ledger_origin(site.name), key=config.ledger_key(home), clock=clock)

    with opened() as ledger:
        ledger.record_policy(config.read_site(home).policy.snapshot())
    home.site_file.write_text(text.replace("epsilon_cap = 8", "epsilon_cap = 9"))
    wanted = config.read_site(home).policy.snapshot()
    for number, name in enumerate(("pi", "dpo"), start=1):
        with opened() as ledger, pytest.raises(OutsidePolicy):
            ledger.record_policy(wanted, signatures=signatures(home))
        assert run(monkeypatch, "sign-policy", "--home", home.folder, "--key", tmp_path / f"{name}.pem") == 0
        assert f"{number} of 2" in capsys.readouterr().out
    with opened() as ledger:
        ledger.record_policy(wanted, signatures=signatures(home))
    assert run(monkeypatch, "sign-policy", "--home", home.folder, "--key", tmp_path / "pi.pem") == ConfigError.exit_code
    home.site_file.write_text(text.replace("epsilon_cap = 8", "epsilon_cap = 10"))
    assert run(monkeypatch, "sign-policy", "--home", home.folder, "--key", tmp_path / "pi.pem") == 0
    assert "1 of 2" in capsys.readouterr().out  # the other one's signature is of the step before


@pytest.mark.parametrize("cap", ["NaN", "sNaN", "many", None, [1], True])
def test_a_cap_that_is_no_number_is_a_raised_one_and_stops_no_auditor(cap):
    told = Kind.POLICY, {"policy": {"epsilon_cap": cap, "delta_cap": str(DELTA)}}
    with pytest.raises(CapPassed, match="Entry 3"):
        verify.verify(ledgers.forged(told), roster_hash=None)


def test_one_officer_alone_or_twice_is_refused(tmp_path):
    with pytest.raises(ValueError, match="officers"):
        config.Policy._two_or_none(("0" * 64,))
    with pytest.raises(ValueError, match="officers"):
        config.Policy._two_or_none(("0" * 64, "0" * 64))
