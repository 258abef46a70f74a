"""The auditor: an honest bundle holds; a spoilt, foreign or hostile file is refused; the commands say so."""

import io
import json
import subprocess
import sys
import zipfile
from decimal import Decimal

import pytest

from common import canonical
from common.audit import bundle, show, verify
from common.errors import ConfigError, RecordDamaged
from common.ledger import accounting
from common.ledger.events import Kind
from tests import ledgers
from tests.commands import audit
from tests.ledgers import CAP, DELTA, GRAM, Ask, forged, reserve, share

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


def process(*arguments):
    """Run `motet-audit` as a process."""
    program = "import sys; from common.cli import main; sys.argv = ['motet-audit', *sys.argv[1:]]; main()"
    return subprocess.run([sys.executable, "-c", program, *map(str, arguments)], capture_output=True, text=True, check=False)


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


def refused(data):
    try:
        bundle.parse(data)
    except RecordDamaged:
        return True
    return False


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


def test_the_command_line_verifies(honest):
    plain = process("verify", honest, "--roster-hash", ROSTER_HASH)
    assert (plain.returncode, plain.stderr) == (0, "")
    assert "holds" in plain.stdout
    assert "EXACT gram" in plain.stdout
    result = json.loads(audit("verify", honest, "--json").stdout)
    assert result[0]["holds"] is True
    assert Decimal(result[0]["epsilon_pld"]) < CAP
    assert len(json.loads(audit("show", honest, "--json").stdout)) == result[0]["entries"]


def test_exit_codes_and_no_traceback(honest, tmp_path):
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
    done = process("verify", spoilt)
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
