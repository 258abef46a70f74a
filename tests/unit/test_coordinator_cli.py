"""motet-coordinator and motet-audit: every command explains itself; every mistake has the documented exit code."""

import json
import re
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest

from common import cli as audit
from common import roster
from server import cli
from server.journal import Journal
from tests import commands
from tests.commands import COORDINATOR, STUDY_FILE, request
from tests.commands import coordinator as motet

OPTIONS = {
    "plan": {"--home", "--hospitals", "--json", "--link-mbit-s", "--patients", "--round-s", "--step-s", "STUDY_FILE"},
    "init": {"--home", "--name", "--federation", "--address"},
    "door": {"--home"},
    "doctor": {"--home", "--json"},
    "enrol": {"--home", "--json", "--replace", "REQUESTS"},
    "revoke": {"--home", "--json", "HOSPITAL"},
    "serve": {"--home"},
    "propose": {"--home", "--json", "STUDY_FILE"},
    "run": {"--home", "--json", "STUDY_HASH"},
    "status": {"--home", "--json"},
    "stop": {"--home", "--json", "[RUN]"},
    "watch": {"--home", "--json", "--page", "[RUN]"},
    "report": {"--home", "--json", "RUN_NAME"},
}
AUDIT_OPTIONS = {
    "replay": {"--roster-hash", "--json", "RUN"},
    "verify": {"--roster-hash", "--witnessed", "--witnesses", "--json", "BUNDLE"},
    "show": {"--json", "BUNDLE"},
    "recompute": {"--roster-hash", "--json", "BUNDLE"},
    "reconcile": {"--run", "--roster-hash", "--json", "BUNDLE"},
    "prove": {"--out", "BUNDLE"},
    "verify-proof": {"--key", "--json", "PROOF"},
    "report": {"--out", "--lang", "--html", "--pdf", "--json", "--attacks", "--roster-hash", "BUNDLE"},
    "registry": {"--roster-hash", "BUNDLE"},
}

ask = partial(commands.ask, cli.app)


@pytest.fixture
def home(tmp_path):
    ask("init", "--home", tmp_path / "hub", *COORDINATOR)
    return tmp_path / "hub"


def test_the_commands_start_without_torch_and_statistics():
    asked = "import sys, server.cli; print([name for name in ('torch', 'scipy.stats') if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", asked], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "[]"


def test_every_command_is_listed_here():
    for app, options in ((cli.app, OPTIONS), (audit.app, AUDIT_OPTIONS)):
        assert {command.name or command.callback.__name__ for command in app.registered_commands} == set(options)


@pytest.mark.parametrize("command", sorted(OPTIONS))
def test_help_mentions_every_option(command):
    said = ask(command, "--help")
    assert {option for option in OPTIONS[command] if option not in said and option.lower() not in said} == set()


@pytest.mark.parametrize("command", sorted(AUDIT_OPTIONS))
def test_help_of_the_auditor_mentions_every_option(command):
    said = commands.ask(audit.app, command, "--help")
    assert {option for option in AUDIT_OPTIONS[command] if option not in said} == set()


def test_help_names_the_order_and_the_exit_codes():
    said = ask("--help")
    assert all(command in said for command in OPTIONS)
    assert "64 usage" in said


def test_a_coordinator_enrols_and_proposes(home, tmp_path):
    enrolled = json.loads(ask("enrol", "--home", home, *(request(tmp_path, name) for name in ("b", "a", "c")), "--json"))
    signed = roster.parse((home / "roster.json").read_bytes())
    assert enrolled["hospitals"] == list(signed.names) == ["a", "b", "c"]
    assert enrolled["hash"] == signed.hash()
    proposed = json.loads(ask("propose", "--home", home, STUDY_FILE, "--json"))
    again = json.loads(ask("propose", "--home", home, STUDY_FILE, "--json"))
    assert proposed == again
    assert Path(proposed["study"]).name == f"{proposed['hash']}.study.json"


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        ((), 64, "init"),
        (("nothing",), 64, "No such command"),
        (("report",), 64, "--home"),
        (("report", "--home", "HOME", "--colour"), 64, "No such option"),
        (("init", "--home", "HOME", *COORDINATOR), 11, "exists already"),
        (("init", "--home", "NEW", *COORDINATOR[:4], "--address", "hub"), 10, "HOST:PORT"),
        (("init", "--home", "NEW", *COORDINATOR[:4], "--address", "hub:many"), 10, "HOST:PORT"),
        (("init", "--home", "NEW", *COORDINATOR[:4], "--address", ":1"), 10, "HOST:PORT"),
        (("init", "--home", "NEW", *COORDINATOR[:4], "--address", "hub:99999"), 10, "HOST:PORT"),
        (("init", "--home", "NEW", "--name", "Hub", *COORDINATOR[2:]), 10, "lower-case"),
        (("enrol", "--home", "NONE", "x"), 12, "init"),
        (("enrol", "--home", "HOME"), 64, "REQUESTS"),
        (("enrol", "--home", "HOME", "NONE"), 10, "cannot be read"),
        (("enrol", "--home", "HOME", "HOME"), 10, "cannot be read"),
        (("enrol", "--home", "HOME", "HOME/coordinator.json"), 10, "coordinator.json: An enrolment is malformed"),
        (("enrol", "--home", "HOME", "/dev/zero"), 10, "/dev/zero is longer than"),
        (("plan", str(STUDY_FILE), "--hospitals", "2"), 10, "3 (hospitals_min) to 64"),
        (("watch", "--home", "HOME", "--page", "0", "--json"), 10, "not both"),
        (("revoke", "--home", "NONE", "a"), 12, "init"),
        (("revoke", "--home", "HOME", "a"), 12, "no roster"),
        (("serve", "--home", "NONE"), 12, "init"),
        (("serve", "--home", "HOME"), 12, "no roster"),
        (("propose", "--home", "NONE", "x"), 12, "init"),
        (("propose", "--home", "HOME", "NONE"), 10, "cannot be read"),
        (("propose", "--home", "HOME", "HOME/coordinator.json"), 10, "not TOML"),
        (("run", "--home", "HOME", "0" * 64), 12, "proposed"),
        (("run", "--home", "HOME", "../../x"), 12, "proposed"),
        (("status", "--home", "NONE"), 12, "init"),
        (("watch", "--home", "HOME"), 12, "There is no run yet"),
        (("watch", "--home", "HOME", "--json", "../x"), 12, "no name of a run"),
        (("watch", "--home", "HOME", "--page", "0", "3333"), 12, "no such run"),
        (("watch", "--home", "HOME", "--page", "65536"), 64, "--page"),
        (("watch", "--home", "NONE"), 12, "init"),
        (("report", "--home", "HOME"), 12, "no such finished run"),
        (("report", "--home", "NONE"), 12, "init"),
        (("report", "--home", "HOME", "../x"), 12, "no such finished run"),
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


def test_a_coordinator_at_an_ipv6_address_has_a_certificate_for_it(tmp_path):
    ask("init", "--home", tmp_path / "hub", *COORDINATOR[:4], "--address", "[::1]:18443")
    settings = json.loads((tmp_path / "hub" / "coordinator.json").read_bytes())
    assert (settings["superlink"], settings["lane"]) == ("[::1]:18443", "[::1]:18444")
    found = json.loads(ask("doctor", "--home", tmp_path / "hub", "--json"))
    assert {"check": "server.crt", "state": "ok", "what": "It is for ::1.", "mend": ""} in found


def test_one_hospital_or_one_name_twice_is_no_roster(home, tmp_path):
    one, other = request(tmp_path, "a"), request(tmp_path, "a")
    copy = tmp_path / "copy.json"
    copy.write_bytes(one.read_bytes())
    for requests, says in (
        ((one,), "2 to 64 hospitals"),
        ((one, one), f"{one} was given twice"),
        ((one, copy), f"{one} and {copy} are the same request of a."),
        ((one, other), f"{one} and {other} are requests of two hospitals that are both called a."),
        ((one, request(tmp_path, "hub")), "share a name"),
    ):
        code, said = motet("enrol", "--home", home, *requests)
        assert (code, says in said) == (10, True), said
        assert "Ask the coordinator" not in said
    assert not (home / "roster.json").exists()


def test_enrol_shows_every_identity_to_compare_by_telephone(home, tmp_path):
    requests = [request(tmp_path, name) for name in ("b", "a")]
    said = ask("enrol", "--home", home, *requests)
    told = json.loads(ask("enrol", "--home", home, *requests, "--json"))["identities"]
    for member in roster.parse((home / "roster.json").read_bytes()).members:
        assert re.search(rf"^{member.name}\n  ([0-9a-f]{{4}}( |$)){{16}}", said, re.MULTILINE)
        assert member.identity in said.replace(" ", "")
        assert told[member.name] == member.identity
    assert "by telephone" in said
    assert "Two hospitals only" in said
    assert "Two hospitals only" not in ask("enrol", "--home", home, "--replace", *requests, request(tmp_path, "c"))


def test_revoke_signs_the_roster_without_the_hospital(home, tmp_path):
    ask("enrol", "--home", home, *(request(tmp_path, name) for name in ("a", "b", "c")))
    before = roster.parse((home / "roster.json").read_bytes())
    run = Journal(tmp_path / "hub" / "runs" / "0123" / "journal.jsonl")
    run.path.parent.mkdir()
    run.write({"type": "start", "time": 1.0})
    told = json.loads(ask("revoke", "--home", home, "b", "--json"))
    after = roster.parse((home / "roster.json").read_bytes())
    assert (after.names, told["hospitals"], told["hash"]) == (("a", "c"), ["a", "c"], after.hash())
    assert {after.member(name) for name in after.names} == {before.member(name) for name in after.names}
    assert (told["stopped"], told["node_key_taken_away"]) == (["0123"], False)  # a study of the old roster does not go on
    assert [event["type"] for event in run.events()] == ["start", "stopped"]


@pytest.mark.parametrize(
    ("names", "hospital", "says"), [("abc", "x", "It names a, b, c"), ("ab", "a", "A roster needs two hospitals")]
)
def test_what_cannot_be_revoked_changes_nothing(home, tmp_path, names, hospital, says):
    ask("enrol", "--home", home, *(request(tmp_path, name) for name in names))
    before = (home / "roster.json").read_bytes()
    code, said = motet("revoke", "--home", home, hospital)
    assert (code, says in said) == (10, True), said
    assert (home / "roster.json").read_bytes() == before


def test_a_plan_is_for_the_hospitals_of_the_roster(home, tmp_path):
    def planned(*given):
        return json.loads(ask("plan", STUDY_FILE, "--json", *given))["hospitals"]

    assert planned("--home", home) == planned() == 3  # hospitals_min: nobody is enrolled
    ask("enrol", "--home", home, *(request(tmp_path, name) for name in "abcde"))
    assert planned("--home", home) == 5
    assert planned("--home", home, "--hospitals", "4") == 4


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("noise_multiplier = 4", "noise_multiplier = 0.00000001", "The noise of train cannot be made"),
        ("steps = 8", "steps = 100000", "do not fit one envelope"),
    ],
)
def test_a_study_that_could_not_be_run_to_its_end_is_not_proposed(old, new, says, home, tmp_path):
    wrong = tmp_path / "study.toml"
    wrong.write_text(STUDY_FILE.read_text().replace(old, new))
    code, said = motet("propose", "--home", home, wrong)
    assert (code, says in said) == (10, True), said
    assert not list((home / "studies").iterdir())


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (("verify",), 64),
        (("verify", "none.zip"), 64),
        (("verify", "none.zip", "--json"), 64),
        (("verify", "x", "--roster-hash", "short"), 64),
        (("verify", "x", "--colour"), 64),
        (("show",), 64),
        (("show", "none.zip"), 64),
        (("nothing",), 64),
    ],
    ids=str,
)
def test_a_mistake_of_the_auditor_is_64(arguments, code):
    assert commands.motet(*arguments, program="motet-audit")[0] == code


def test_a_file_that_is_no_bundle_is_not_verified(tmp_path):
    (tmp_path / "x.zip").write_bytes(b"PK\x03\x04 not a zip")
    for command in ("verify", "show"):
        assert commands.motet(command, tmp_path / "x.zip", program="motet-audit")[0] in {1, 64}
