"""The auditor: an honest bundle holds; every lie of a hospital, and every spoilt file, is found."""

import io
import json
import subprocess
import sys
import zipfile
from decimal import Decimal

import pytest

from common import canonical, cli
from common.audit import bundle, ending, recompute, show, verify
from common.errors import AccountantsDisagree, CapPassed, ConfigError, RecordDamaged
from common.ledger import accounting, events, merkle, note
from common.ledger.events import Event, Kind
from tests import ledgers
from tests.ledgers import CAP, DELTA, GRAM, HASH, Ask, share

ROSTER_HASH = ledgers.roster().hash()


@pytest.fixture(scope="module")
def honest(tmp_path_factory):
    """A bundle of one exact statistic and 12 private rounds."""
    folder = tmp_path_factory.mktemp("honest")
    with ledgers.create(folder / "ledger.sqlite") as ledger:
        ledgers.run_rounds(ledger, rounds=1, mechanism=GRAM, start=1)
        ledgers.run_rounds(ledger, rounds=11)
        void = Ask(number=20, mechanism=share()).to(ledger)
        ledger.release(void, sha256="a" * 64, size_bytes=9)
        ledger.void(void.reservation)
        ledger.refuse(code="E-REFUSED-STUDY", study=None, round_number=None)
        ledgers.export(folder / "aalen.zip", ledger)
    return folder / "aalen.zip"


def forged(*said, studies=None, roster=None, hospital="aalen", key=ledgers.LEDGER_KEY):
    """A bundle whose entries a dishonest hospital wrote itself, and signed with its real key."""
    plan = ledgers.study()
    vkey = note.key_of(ledgers.ORIGIN, key=key).vkey
    begin = (
        (Kind.GENESIS, {"origin": ledgers.ORIGIN, "key": vkey}),
        (Kind.POLICY, {"policy": {"epsilon_cap": CAP, "delta_cap": DELTA}}),
        (Kind.PLAN, {"study": plan.hash(), "title": plan.title}),
    )
    lines = tuple(
        events.encode(Event(seq=seq, kind=kind, ts=1000 + seq, fields=fields))
        for seq, (kind, fields) in enumerate((*begin, *said))
    )
    return signed(lines, studies=studies, roster=roster, hospital=hospital, key=key)


def signed(lines, *, studies=None, roster=None, hospital="aalen", key=ledgers.LEDGER_KEY):
    plan = ledgers.study()
    root = merkle.root([merkle.leaf_hash(line) for line in lines])
    text = note.Checkpoint(origin=ledgers.ORIGIN, size=len(lines), root=root).text()
    return bundle.Bundle(
        entries=lines,
        checkpoint=note.sign(text, name=ledgers.ORIGIN, key=key),
        roster=(roster or ledgers.roster()).bytes(),
        studies={plan.hash(): plan.canonical_bytes()} if studies is None else studies,
        hospital=hospital,
    )


def reserve(number=1, **changes):
    fields = {
        "id": f"run/{number}/aalen",
        "study": HASH,
        "purpose": "lesion-cnn",
        "mech": share().entry(),
        "round": number,
        "roster": list(ledgers.HOSPITALS),
        "epsilon_cap": CAP,
        "delta_cap": DELTA,
        "delta": DELTA,
    }
    return Kind.RESERVE, fields | changes


def release(number=1):
    return Kind.RELEASE, {"id": f"run/{number}/aalen", "sha256": "a" * 64, "bytes": 5}


def process(*arguments):
    """Run `motet-audit` as a process."""
    program = "import sys; from common.cli import main; sys.argv = ['motet-audit', *sys.argv[1:]]; main()"
    return subprocess.run([sys.executable, "-c", program, *map(str, arguments)], capture_output=True, text=True, check=False)


@pytest.fixture
def audit(monkeypatch, capsys):
    """Run `motet-audit` here: it ends with SystemExit and nothing else, in a fraction of a process's time."""

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["motet-audit", *map(str, arguments)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as ending:
            cli.main()
        said = capsys.readouterr()
        return subprocess.CompletedProcess(arguments, ending.value.code or 0, said.out, said.err)

    return run


def test_an_honest_bundle_holds(honest):
    verdict = verify.verify(bundle.read(honest), roster_hash=ROSTER_HASH)
    charged = [share()] * 12
    assert verdict.epsilon_rdp == accounting.round_up(accounting.epsilon_rdp(charged, delta=DELTA))
    assert verdict.epsilon_pld == accounting.round_up(accounting.epsilon_pld(charged, delta=DELTA))
    assert abs(verdict.epsilon_pld - verdict.epsilon_pld_independent) < Decimal("2e-5")
    assert verdict.epsilon_pld < verdict.epsilon_rdp <= verdict.epsilon_cap == CAP
    assert [(item.statistic, item.hospitals, item.round_number) for item in verdict.exact] == [("gram", 3, 1)]
    assert (verdict.releases_private, verdict.releases_void, verdict.refusals, verdict.forfeited) == (12, 1, 1, 0)
    assert verdict.pld_withheld is None


def test_a_ledger_without_private_releases_has_spent_nothing(tmp_path):
    with ledgers.create(tmp_path / "ledger.sqlite") as ledger:
        ledgers.export(tmp_path / "b.zip", ledger)
    verdict = verify.verify(bundle.read(tmp_path / "b.zip"), roster_hash=None)
    assert (verdict.epsilon_pld, verdict.epsilon_rdp, verdict.delta, verdict.roster_pinned) == (0, 0, None, False)


def test_the_same_ledger_gives_the_same_bundle(honest, tmp_path):
    read = bundle.read(honest)
    bundle.write(
        tmp_path / "again.zip",
        entries=iter(read.entries),
        checkpoint=read.checkpoint,
        roster=read.roster,
        studies=read.studies,
        hospital=read.hospital,
    )
    assert (tmp_path / "again.zip").read_bytes() == honest.read_bytes()


def test_a_ledger_that_grew_is_cut_at_its_checkpoint_and_a_shorter_one_is_refused(honest, tmp_path):
    read = bundle.read(honest)
    parts = {"checkpoint": read.checkpoint, "roster": read.roster, "studies": read.studies, "hospital": read.hospital}
    bundle.write(tmp_path / "b.zip", entries=[*read.entries, b"later"], **parts)
    assert (tmp_path / "b.zip").read_bytes() == honest.read_bytes()
    with pytest.raises(RecordDamaged, match="more entries"):
        bundle.write(tmp_path / "c.zip", entries=read.entries[:-1], **parts)
    assert not (tmp_path / "c.zip").exists()


def test_another_roster_is_refused(honest):
    with pytest.raises(RecordDamaged, match="another roster than yours"):
        verify.verify(bundle.read(honest), roster_hash="0" * 64)


def test_a_bundle_of_somebody_else_is_refused():
    with pytest.raises(RecordDamaged, match="not in the roster"):
        verify.verify(forged(hospital="delft"), roster_hash=None)
    with pytest.raises(RecordDamaged, match="expected key"):
        verify.verify(forged(hospital="berlin"), roster_hash=None)
    with pytest.raises(RecordDamaged, match="expected key"):
        verify.verify(forged(key=ledgers.key(5)), roster_hash=None)


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
    verify.verify(forged(reserve(), release(), (Kind.COMMIT, {"id": "run/1/aalen"})), roster_hash=ROSTER_HASH)


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
    verdict = verify.verify(forged((Kind.POLICY, {"policy": {}}), *_capped(too_many)), roster_hash=ROSTER_HASH)
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


def refused(data):
    try:
        bundle.parse(data)
    except RecordDamaged:
        return True
    return False


def test_a_study_that_was_approved_but_never_run_may_be_in_the_bundle():
    plan, unused = ledgers.study(), ledgers.study(noise="2")
    plans = {item.hash(): item.canonical_bytes() for item in (plan, unused)}
    allowed = (Kind.POLICY, {"policy": {"allowed_studies": sorted(plans)}})
    assert verify.verify(forged(allowed, studies=plans), roster_hash=ROSTER_HASH).entries == 4
    with pytest.raises(RecordDamaged, match="studies"):
        verify.verify(forged(studies=plans), roster_hash=ROSTER_HASH)
    with pytest.raises(RecordDamaged, match="studies"):
        verify.verify(forged((Kind.POLICY, {"policy": {"allowed_studies": 7}}), studies=plans), roster_hash=ROSTER_HASH)


def rezip(parts, *, compression=zipfile.ZIP_STORED):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression=compression) as archive:
        for name, content in parts:
            archive.writestr(name, content)
    return buffer.getvalue()


def parts_of(path):
    with zipfile.ZipFile(path) as archive:
        return [(name, archive.read(name)) for name in archive.namelist()]


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_a_hostile_zip_is_refused(honest):
    parts = parts_of(honest)
    hostile = {
        "nothing": b"",
        "no zip": b"PK\x03\x04" + b"\x00" * 100,
        "a bomb": rezip([*parts, ("studies/" + "0" * 64 + ".json", b"\x00" * (8 << 20))], compression=zipfile.ZIP_DEFLATED),
        "compressed": rezip(parts, compression=zipfile.ZIP_DEFLATED),
        "traversal": rezip([*parts, ("../../evil", b"x")]),
        "absolute": rezip([*parts, ("/evil", b"x")]),
        "unknown name": rezip([*parts, ("readme.txt", b"x")]),
        "twice": rezip([*parts, parts[0]]),
        "missing": rezip(parts[1:]),
        "too many": rezip([*parts, *((f"studies/{number:064x}.json", b"") for number in range(1001))]),
        "too large": rezip([(name, b"x" * (1 << 21) if name == "roster.json" else content) for name, content in parts]),
        "other dates": rezip(parts),
        "appended": honest.read_bytes() + b"\x00",
        "prepended": b"\x00" + honest.read_bytes(),
    }
    accepted = [name for name, data in hostile.items() if not refused(data)]
    assert accepted == []


def test_a_bundle_that_is_not_there_is_a_mistake_of_the_caller(tmp_path):
    with pytest.raises(ConfigError):
        bundle.read(tmp_path / "absent.zip")
    with pytest.raises(ConfigError):
        bundle.read(tmp_path)


def test_show_says_every_entry_and_no_control_characters(honest):
    rows = list(show.rows(bundle.read(honest)))
    assert [row.seq for row in rows] == list(range(len(rows)))
    assert any("EXACT gram" in row.says for row in rows)
    said = show.rows(forged((Kind.POLICY, {"policy": {"x": "\x1b[2J"}})))
    assert all(row.says.isprintable() for row in said)


def test_the_command_line_verifies(honest, audit):
    plain = process("verify", honest, "--roster-hash", ROSTER_HASH)
    assert (plain.returncode, plain.stderr) == (0, "")
    assert "holds" in plain.stdout
    assert "EXACT gram" in plain.stdout
    result = json.loads(audit("verify", honest, "--json").stdout)
    assert result[0]["holds"] is True
    assert Decimal(result[0]["epsilon_pld"]) < CAP
    assert len(json.loads(audit("show", honest, "--json").stdout)) == result[0]["entries"]


def test_exit_codes_and_no_traceback(honest, tmp_path, audit):
    spoilt, passed = tmp_path / "spoilt.zip", tmp_path / "passed.zip"
    spoilt.write_bytes(honest.read_bytes()[:-1])
    over = forged(*(reserve(number) for number in range(1, 90)))
    bundle.write(
        passed,
        entries=over.entries,
        checkpoint=over.checkpoint,
        roster=over.roster,
        studies=over.studies,
        hospital=over.hospital,
    )
    for arguments, code in (
        (["verify", spoilt], 1),
        (["verify", passed], 2),
        (["verify", passed, spoilt, honest], 1),
        (["verify", tmp_path / "absent"], 64),
        (["verify"], 64),
        (["verify", honest, "--roster-hash", "zz"], 64),
        (["verify", honest, "--roster-hash", "0" * 64], 1),
        (["show", spoilt], 1),
        (["gossip"], 64),
    ):
        done = audit(*arguments)
        assert done.returncode == code, (arguments, done.stdout, done.stderr)
        assert "Traceback" not in done.stderr + done.stdout
    done = process("verify", passed, spoilt, honest)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr + done.stdout
    said = " ".join(audit("verify", "--help").stdout.split())
    assert all(text in said for text in ("0 all hold", "1 integrity", "2 over", "4 the accountants", "64 usage"))


def test_the_auditor_needs_no_torch_no_flower_and_no_dicom(honest):
    program = (
        "import sys; from common.audit import bundle, verify; from pathlib import Path; import common.cli;"
        "verify.verify(bundle.read(Path(sys.argv[1])), roster_hash=None);"
        "print({'torch', 'opacus', 'flwr', 'pydicom'} & {name.split('.')[0] for name in sys.modules})"
    )
    done = subprocess.run([sys.executable, "-c", program, str(honest)], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_entries_are_canonical_json_of_at_most_64_kib(honest):
    for line in bundle.read(honest).entries:
        assert canonical.encode(canonical.decode(line)) == line
        assert len(line) <= 65_535
