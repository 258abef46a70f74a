"""What an auditor gets wrong is said: a bundle given twice, a hospital left out, another roster, a file that is no bundle."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace

import pytest

from common import canonical
from common.audit import bundle, show
from tests import commands, federation, ledgers

ROSTER_HASH = ledgers.roster().hash()


def audit(*arguments):
    """Run `motet-audit` here; return the exit code, what it printed and what it complained of."""
    done = commands.audit(*arguments)
    return done.returncode, done.stdout, done.stderr


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """Two bundles of one hospital of three: an earlier and a later one."""
    folder = tmp_path_factory.mktemp("exported")
    with ledgers.create(folder / "ledger.sqlite") as ledger:
        ledgers.run_rounds(ledger, rounds=1, mechanism=ledgers.GRAM, start=1)
        ledgers.export(folder / "early.zip", ledger)
        ledgers.run_rounds(ledger, rounds=1)
        ledgers.export(folder / "late.zip", ledger)
    return folder


def test_a_hospital_of_the_roster_without_a_bundle_is_named(exported):
    code, said, _ = audit("verify", exported / "late.zip", "--roster-hash", ROSTER_HASH)
    assert code == 0
    assert "The roster also names berlin, cadiz: no bundle was given." in said
    (told,) = json.loads(audit("verify", exported / "late.zip", "--json")[1])
    assert (told["roster"], told["remarks"]) == (
        ["aalen", "berlin", "cadiz"],
        ["The roster also names berlin, cadiz: no bundle was given."],
    )


def test_a_bundle_given_twice_is_said(exported, tmp_path):
    shutil.copy(exported / "late.zip", tmp_path / "renamed.zip")
    code, said, _ = audit("verify", exported / "late.zip", tmp_path / "renamed.zip")
    assert code == 0
    assert "aalen: given twice, it counts as one bundle." in said
    assert said.count("given twice") == 1


def test_an_earlier_and_a_later_bundle_of_a_hospital_are_told_apart(exported):
    said = audit("verify", exported / "early.zip", exported / "late.zip")[1]
    early, late = (len(bundle.read(exported / name).entries) for name in ("early.zip", "late.zip"))
    assert f"aalen: given twice, with {early} and with {late} entries" in said


def test_two_ledgers_of_the_same_length_are_noticed(exported, tmp_path):
    with ledgers.create(tmp_path / "second.sqlite") as ledger:
        ledgers.run_rounds(ledger, rounds=1, mechanism=ledgers.Exact(statistic="score-histogram", ring_bits=64), start=1)
        ledgers.export(tmp_path / "second.zip", ledger)
    said = audit("verify", exported / "early.zip", tmp_path / "second.zip")[1]
    assert "two different ledgers" in said


def test_another_roster_is_not_called_damage_and_the_hospital_is_named(exported):
    code, said, _ = audit("verify", exported / "late.zip", "--roster-hash", "0" * 64)
    assert code == 1
    assert "another roster than yours" in said
    row = next(line for line in said.splitlines() if "another roster" in line)
    assert "aalen" in row
    assert "damaged" not in said
    assert "no bundle was given" not in said


@pytest.mark.parametrize("make", [lambda path: path.touch(), lambda path: path.write_text("hospital,epsilon\n"), None])
def test_what_is_no_bundle_is_a_mistake_of_the_caller(tmp_path, make):
    path = tmp_path / "file"
    if make:
        make(path)
    code, said, _ = audit("verify", path if make else "/dev/null")
    assert code == 64
    assert "is not a bundle" in said
    assert "damaged" not in said


def test_a_cut_bundle_is_still_damage(exported, tmp_path):
    data = (exported / "late.zip").read_bytes()
    for spoilt in (data[: len(data) // 2], b"\x00" + data[1:], data[:-1]):
        (tmp_path / "spoilt.zip").write_bytes(spoilt)
        assert audit("verify", tmp_path / "spoilt.zip")[0] == 1


def other_study(exported, folder, data, *, name=None):
    """The later bundle with `data` in place of its study, under `name`, or under the hash of `data`."""
    read = bundle.read(exported / "late.zip")
    (folder / "other.zip").write_bytes(
        bundle._zip(bundle._parts(replace(read, studies={name or hashlib.sha256(data).hexdigest(): data})))
    )
    return folder / "other.zip"


def test_a_whole_study_that_this_version_does_not_know_is_of_another_version_and_what_is_said_of_it_ends_with_a_word(
    exported, tmp_path
):
    plain = canonical.decode(ledgers.study().canonical_bytes())
    data = canonical.encode({**plain, **{f"key_of_another_version_{at:02}": at for at in range(30)}})
    code, said, _ = audit("verify", other_study(exported, tmp_path, data))
    assert code == 1
    assert "other version" in said
    assert "damaged" not in said
    assert "… Verify with the version of Motet that the hospital runs" in said
    (told,) = json.loads(audit("verify", tmp_path / "other.zip", "--json")[1])
    assert (told["holds"], told["code"]) == (False, "E-AUDIT-VERSION")


def test_a_study_that_was_changed_is_damage_and_no_other_version(exported, tmp_path):
    plain = canonical.decode(ledgers.study().canonical_bytes())
    changed = other_study(exported, tmp_path, canonical.encode({**plain, "more": 1}), name=ledgers.HASH)
    code, said, _ = audit("verify", changed)
    assert code == 1
    assert "damaged" in said
    assert "other version" not in said


@pytest.mark.parametrize("options", [(), ("--json",)])
def test_a_pipe_that_was_closed_does_not_look_like_a_record_that_was_changed(exported, options):
    ours, theirs = os.pipe()
    os.close(ours)
    call = [sys.executable, "-c", "from common.cli import main; main()", "verify", exported / "early.zip", *options]
    done = subprocess.run(call, stdout=theirs, stderr=subprocess.PIPE, check=False)
    os.close(theirs)
    assert (done.returncode, b"Traceback" in done.stderr, b"Exception ignored" in done.stderr) == (10, False, False)


def test_show_does_not_make_a_round_look_like_one_of_many(exported):
    says = [row.says for row in show.rows(bundle.read(exported / "early.zip")) if row.kind == "reserve"]
    assert says == ["run/1/aalen: EXACT gram, epsilon infinite, round 1, 3 hospitals"]


@pytest.mark.parametrize("command", [(), ("verify",), ("replay",)])
def test_help_has_the_exit_codes(command):
    said = " ".join(audit(*command, "--help")[1].split())
    assert all(text in said for text in ("0 all hold", "1 integrity", "2 over budget", "64 usage"))


@pytest.fixture(scope="module")
def run(tmp_path_factory, phantom_scans, cohort_cache):
    """The folder of a finished run."""
    one = federation.Federation(tmp_path_factory.mktemp("kept") / "f", phantom_scans, cache=cohort_cache)
    one.approve(federation.study())
    one.run(federation.study())
    one.close()
    (folder,) = one.folder.glob("run-*")
    return folder, one.roster.hash()


def test_a_replay_says_that_its_roster_was_not_pinned(run):
    assert "The roster was not pinned" in audit("replay", run[0])[1]
    assert "not pinned" not in "".join(audit("replay", run[0], "--roster-hash", run[1])[1:])
    code, said, complained = audit("replay", run[0], "--json")
    assert (code, len(json.loads(said)) > 0) == (0, True)
    assert "The roster was not pinned" in complained


@pytest.mark.parametrize("path", ["none", "/dev/null", "file", "empty"])
def test_what_is_no_runs_folder_is_a_mistake_of_the_caller(tmp_path, path):
    (tmp_path / "file").write_text("x")
    (tmp_path / "empty").mkdir()
    code, _, complained = audit("replay", tmp_path / path)
    assert code == 64
    assert "is not a run's folder" in complained


def test_a_replay_names_the_upload_that_is_missing(run, tmp_path):
    shutil.copytree(run[0], tmp_path / "run")
    (tmp_path / "run" / "rounds" / "000002" / "hosp-c.envelope").unlink()
    code, _, complained = audit("replay", tmp_path / "run", "--roster-hash", run[1])
    assert code == 1
    assert "Round 2: the upload of hosp-c is missing." in complained


def test_a_replay_without_its_rounds_is_damage(run, tmp_path):
    shutil.copytree(run[0], tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "rounds")
    code, _, complained = audit("replay", tmp_path / "run")
    assert code == 1
    assert "lacks rounds/" in complained


def test_a_replay_against_another_roster_or_half_a_hash_is_told(run):
    code, _, complained = audit("replay", run[0], "--roster-hash", "0" * 64)
    assert (code, "another one than yours" in complained) == (1, True)
    assert audit("replay", run[0], "--roster-hash", "zz")[0] == 64
