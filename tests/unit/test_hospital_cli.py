"""motet-hospital: every command explains itself; every mistake is one sentence and the documented exit code."""

import json
import re
import shutil
from functools import partial

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from typer.testing import CliRunner

from client import cli
from common import enrolment, roster
from common.roster import Member
from tests import commands, federation
from tests.commands import HOSPITAL as CHOICES
from tests.commands import hospital as motet

STUDY = federation.study()
OPTIONS = {
    "init": {*CHOICES[::2], "--home"},
    "enrol": {"--home", "--json", "REQUEST"},
    "approve": {"--home", "--roster", "--study", "--hash", "--json"},
    "vault": {"--home"},
    "relay": {"--folder", "--superlink", "--ca", "--lane"},
    "status": {"--home", "--json"},
    "doctor": {"--home", "--folder", "--superlink", "--ca", "--lane", "--json"},
    "bundle": {"--home", "PATH"},
    "officer": {"KEY"},
    "sign-policy": {"--home", "--key"},
    "scans": {"--home", "--paths-to", "--json"},
    "receive": {"--inbox", "--aet", "--allow", "--host", "--port", "--certificate", "--key", "--ca", "--plain", "--json"},
    "deidentify": {"--home", "FOLDER", "--json"},
    "parameters": {"--home", "--table-to", "--json"},
    "preview": {"--home", "--study", "--series", "FOLDER", "--json"},
}


ask = partial(commands.ask, cli.app)


@pytest.fixture
def home(tmp_path):
    ask("init", "--home", tmp_path / "hosp", *CHOICES)
    return tmp_path / "hosp"


def test_enrol_says_the_identity_in_the_groups_that_the_coordinator_sees(home, tmp_path):
    said = ask("enrol", "--home", home, tmp_path / "request.json")
    identity = enrolment.parse((tmp_path / "request.json").read_bytes()).identity
    assert roster.in_groups(identity) in said
    again = tmp_path / "again.json"
    assert json.loads(ask("enrol", "--home", home, again, "--json")) == {
        "request": str(again),
        "hospital": enrolment.parse(again.read_bytes()).name,
        "identity": identity,
    }


def make_roster(home, tmp_path):
    ask("enrol", "--home", home, tmp_path / "request.json")
    own = enrolment.parse((tmp_path / "request.json").read_bytes())
    key = Ed25519PrivateKey.generate().public_key().public_bytes_raw().hex()
    other = Member(name="hosp-b", identity=key, ledger_key="x", node_key="x", relay_certificate="")
    made = roster.sign(federation="fed", coordinator="hub", key=Ed25519PrivateKey.generate(), members=(own, other))
    (tmp_path / "roster.json").write_bytes(made.bytes())
    return made


def test_every_command_is_listed_here():
    assert {command.name or command.callback.__name__ for command in cli.app.registered_commands} == set(OPTIONS)


@pytest.mark.parametrize("command", sorted(OPTIONS))
def test_help_mentions_every_option(command):
    said = ask(command, "--help")
    assert {option for option in OPTIONS[command] if option not in said and option.lower() not in said} == set()


def test_help_names_the_order_and_the_exit_codes():
    said = ask("--help")
    assert all(command in said for command in OPTIONS)
    assert "64 usage" in said


def test_no_privacy_setting_has_a_default(tmp_path):
    for at in range(0, len(CHOICES), 2):
        fewer = (*CHOICES[:at], *CHOICES[at + 2 :])
        result = CliRunner().invoke(cli.app, ["init", "--home", str(tmp_path / "hosp"), *fewer])
        assert result.exit_code == 2  # the usage error that `main` turns into 64
    assert not (tmp_path / "hosp").exists()


def test_a_hospital_enrols_approves_and_shows_its_state(home, tmp_path):
    made = make_roster(home, tmp_path)
    (tmp_path / "study.json").write_bytes(STUDY.canonical_bytes())
    assert "hosp-a, hosp-b" in ask("approve", "--home", home, "--roster", tmp_path / "roster.json", "--hash", made.hash())
    assert "phantom-study" in ask("approve", "--home", home, "--study", tmp_path / "study.json", "--hash", STUDY.hash())
    shown = json.loads(ask("status", "--home", home, "--json"))
    assert shown["hospital"] == "hosp-a"
    assert shown == {
        "hospital": "hosp-a",
        "vault_runs": False,
        "approved_roster": made.hash(),
        "approved_studies": [STUDY.hash()],
        "epsilon_spent_rdp": "0",
        "epsilon_cap": "3",
        "delta_cap": "0.000001",
        "releases_private": 0,
        "releases_exact": 0,
        "exact_counted": 0,
        "exact_releases_max": 9,
        "refusals": 0,
        "cohorts": [],
    }


def test_the_same_commands_end_alike_as_processes(tmp_path):
    assert commands.as_process("motet-hospital", "init", "--home", tmp_path / "hosp", *CHOICES)[0] == 0
    assert commands.as_process("motet-hospital", "init", "--home", tmp_path / "hosp", *CHOICES)[0] == 11
    assert commands.as_process("motet-hospital", "vault", "--home", tmp_path / "none")[0] == 12


def test_approve_without_a_hash_shows_the_file_and_approves_nothing(home, tmp_path):
    make_roster(home, tmp_path)
    before = (home / "site.toml").read_bytes()
    code, said = motet("approve", "--home", home, "--roster", tmp_path / "roster.json")
    assert code == 0
    assert "Nothing was approved" in said
    assert (home / "site.toml").read_bytes() == before
    assert not list((home / "approved").iterdir())


def test_a_new_hospital_shows_that_it_has_spent_nothing(home):
    code, said = motet("status", "--home", home)
    assert code == 0
    assert "0 / 3" in said


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        ((), 64, "init"),
        (("nothing",), 64, "No such command"),
        (("status",), 64, "--home"),
        (("status", "--home", "HOME", "--colour"), 64, "No such option"),
        (("init", "--home", "HOME", *CHOICES), 11, "exists already"),
        (("init", "--home", "NEW", *CHOICES[:6], "--epsilon-cap", "lots", *CHOICES[8:]), 64, "not a decimal"),
        (("init", "--home", "NEW", *CHOICES[:6], "--epsilon-cap", "inf", *CHOICES[8:]), 64, "not finite"),
        (("init", "--home", "NEW", *CHOICES[:6], "--epsilon-cap", "-1", *CHOICES[8:]), 10, "--epsilon-cap: "),
        (("init", "--home", "NEW", *CHOICES[:10], "--hospitals-min", "2", *CHOICES[12:]), 10, "error: --hospitals-min: "),
        (("init", "--home", "NEW", "--name", "Upper", *CHOICES[2:]), 10, "error: --name: "),
        (("status", "--home", "NONE"), 12, "init"),
        (("enrol", "--home", "NONE", "NONE/x"), 12, "init"),
        (("enrol", "--home", "HOME", "HOME/site.toml"), 11, "exists already"),
        (("approve", "--home", "HOME"), 64, "either --roster or --study"),
        (("approve", "--home", "HOME", "--roster", "a", "--study", "b"), 64, "either --roster or --study"),
        (("approve", "--home", "HOME", "--roster", "NONE", "--hash", "0"), 10, "cannot be read"),
        (("approve", "--home", "HOME", "--roster", "HOME", "--hash", "0"), 10, "cannot be read"),
        (("approve", "--home", "HOME", "--roster", "HOME/site.toml", "--hash", "0"), 10, "not valid"),
        (("approve", "--home", "HOME", "--study", "HOME/site.toml", "--hash", "0"), 10, "not valid"),
        (("bundle", "--home", "HOME", "NONE"), 23, "No roster is approved"),
        (("relay", "--folder", "HOME/relay", "--superlink", "127.0.0.1:1", "--ca", "NONE"), 10, "cannot be read"),
        (("relay", "--folder", "HOME/relay", "--superlink", "127.0.0.1:1", "--ca", "HOME/site.toml"), 15, "No vault answers"),
    ],
    ids=lambda value: " ".join(value[:3] + value[-2:]) if isinstance(value, tuple) else None,
)
def test_a_mistake_is_one_sentence_and_its_exit_code(arguments, code, says, home, tmp_path):
    places = {"HOME": str(home), "NONE": str(tmp_path / "none"), "NEW": str(tmp_path / "new")}
    filled = [re.sub("^(HOME|NONE|NEW)", lambda found: places[found[0]], argument) for argument in arguments]
    seen, said = motet(*filled)
    assert says in said
    assert seen == code
    assert not (tmp_path / "new").exists()


def test_a_wrong_hash_is_refused_and_the_real_one_is_not_shown(home, tmp_path):
    made = make_roster(home, tmp_path)
    code, said = motet("approve", "--home", home, "--roster", tmp_path / "roster.json", "--hash", "0" * 64)
    assert code == 23
    assert made.hash() not in said  # it comes from the coordinator, by another way
    (tmp_path / "study.json").write_bytes(STUDY.canonical_bytes())
    code, said = motet("approve", "--home", home, "--study", tmp_path / "study.json", "--hash", "0" * 64)
    assert code == 22
    assert STUDY.hash() not in said


def test_a_lost_relays_folder_is_told_with_what_to_do(home, tmp_path):
    (home / "relay" / "node.pub").unlink()
    code, said = motet("enrol", "--home", home, tmp_path / "request.json")
    assert code == 12
    assert "Restore the relay's folder" in said
    shutil.rmtree(home / "relay")
    code, said = motet("doctor", "--folder", home / "relay", "--superlink", "127.0.0.1:1", "--ca", home / "site.toml")
    assert code == 12
    assert "Restore the relay's folder" in said
    assert not (tmp_path / "request.json").exists()


def test_a_key_that_others_can_read_ends_a_command(home, tmp_path):
    (home / "keys" / "identity.pem").chmod(0o644)
    code, said = motet("enrol", "--home", home, tmp_path / "request.json")
    assert code == 10
    assert "chmod 600" in said
    assert not (tmp_path / "request.json").exists()
