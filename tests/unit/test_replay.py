"""Replay: anybody adds a run's signed uploads again and gets the same bits; any change in what was kept is found."""

import json
import shutil

import pytest

from common import cli
from common.audit import replay
from common.errors import MotetError, RecordDamaged
from tests import federation
from tests.federation import kind


@pytest.fixture(scope="module")
def run(tmp_path_factory, phantom_scans, cohort_cache):
    """A run with a void round in it, finished."""
    one = federation.Federation(tmp_path_factory.mktemp("replay") / "f", phantom_scans, cache=cohort_cache)
    wanted = federation.study(training={"steps": 3})
    one.approve(wanted)
    lost = []

    def after(name, data):
        if name == "hosp-b" and kind(data) == "upload" and not lost and b'"round":2' in data[:4000]:
            lost.append(1)
            return None
        return data

    one.after = after
    result = one.run(wanted)
    one.close()
    (folder,) = one.folder.glob("run-*")
    return folder, one.roster.hash(), result


@pytest.fixture
def copy(run, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(run[0], folder)
    return folder


def test_every_sum_is_recomputed_bit_for_bit_and_void_rounds_stay_closed(run):
    folder, roster_hash, result = run
    rounds = list(replay.replay(folder, roster_hash=roster_hash))
    assert [one.round for one in rounds] == [event["round"] for event in result["rounds"]]
    assert [one.sum_sha256 is None for one in rounds] == [event["state"] == "void" for event in result["rounds"]]
    assert [one.missing for one in rounds if one.sum_sha256 is None] == [("hosp-b",)]


def test_the_command_prints_every_round(run, capsys, monkeypatch):
    folder, roster_hash, _ = run
    monkeypatch.setattr("sys.argv", ["motet-audit", "replay", str(folder), "--roster-hash", roster_hash, "--json"])
    with pytest.raises(SystemExit) as ending:
        cli.main()
    assert ending.value.code == 0
    assert len(json.loads(capsys.readouterr().out)) == 6


def changed(data, at):
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


@pytest.mark.parametrize("at", [0.01, 0.3, 0.6, 0.99])
@pytest.mark.parametrize(
    "name",
    [
        "roster.json",
        "rounds/setup/hosp-a.envelope",
        "rounds/000001/announcement.json",
        "rounds/000001/hosp-c.envelope",
        "rounds/000003/hosp-a.envelope",
    ],
)
def test_any_changed_byte_is_found(run, copy, name, at):
    path = copy / name
    data = path.read_bytes()
    path.write_bytes(changed(data, int(at * (len(data) - 1))))
    with pytest.raises(MotetError):
        list(replay.replay(copy, roster_hash=run[1]))


@pytest.mark.parametrize(
    "damage",
    [
        lambda folder: shutil.rmtree(folder / "rounds" / "000001"),
        lambda folder: (folder / "rounds" / "000001" / "hosp-a.envelope").unlink(),
        lambda folder: (folder / "rounds" / "setup" / "hosp-a.envelope").unlink(),
        lambda folder: shutil.copy(folder / "rounds/000001/hosp-a.envelope", folder / "rounds/000003/hosp-a.envelope"),
        lambda folder: shutil.copy(folder / "rounds/000001/hosp-b.envelope", folder / "rounds/000001/hosp-a.envelope"),
        lambda folder: shutil.copytree(folder / "rounds/000001", folder / "rounds/000099"),
        lambda folder: (folder / "journal.jsonl").write_text(""),
        lambda folder: (folder / "journal.jsonl").write_text("[" * 100_000),
        lambda folder: (folder / "journal.jsonl").unlink(),
        lambda folder: (folder / "roster.json").unlink(),
    ],
)
def test_anything_missing_moved_or_added_is_found(run, copy, damage):
    damage(copy)
    with pytest.raises(RecordDamaged):
        list(replay.replay(copy, roster_hash=run[1]))


def test_a_journal_that_tells_another_sum_is_found(run, copy):
    path = copy / "journal.jsonl"
    text = path.read_text()
    (first,) = [json.loads(line) for line in text.splitlines() if '"round": 1,' in line and '"type": "round"' in line]
    path.write_text(text.replace(first["sum_sha256"], "0" * 64))
    with pytest.raises(RecordDamaged, match="Round 1"):
        list(replay.replay(copy, roster_hash=run[1]))


def test_another_roster_than_the_approved_one_is_refused(run):
    with pytest.raises(RecordDamaged, match="another one than yours"):
        list(replay.replay(run[0], roster_hash="0" * 64))
