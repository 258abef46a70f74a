"""motet-coordinator: how a run stands, begins, is stopped and ends, and what does not begin at all."""

import json
import re
import socket
import sys
from functools import partial

import pytest
from typer.testing import CliRunner

from common import locks
from common.errors import AlreadyRunning
from server import cli
from server.journal import Journal
from tests import commands, federation
from tests.commands import COORDINATOR, STUDY_FILE, request
from tests.commands import coordinator as motet

ask = partial(commands.ask, cli.app)


@pytest.fixture
def home(tmp_path):
    ask("init", "--home", tmp_path / "hub", *COORDINATOR)
    return tmp_path / "hub"


def test_status_tells_once_how_coordinator_and_last_run_stand(home, tmp_path):
    empty = json.loads(ask("status", "--home", home, "--json"))
    assert (empty["serving"], empty["roster"], empty["hospitals"], empty["run"]) == (False, None, [], None)
    assert "There is no roster yet." in ask("status", "--home", home)
    ask("enrol", "--home", home, *(request(tmp_path, name) for name in ("a", "b", "c")))
    run = home / "runs" / "0123"
    run.mkdir()
    (run / "study.json").write_bytes(federation.study().canonical_bytes())
    Journal(run / "journal.jsonl").write({"type": "stopped", "time": 1.0})
    told = json.loads(ask("status", "--home", home, "--json"))
    assert (told["hospitals"], told["run"]["phase"], told["run"]["run"]) == (["a", "b", "c"], "stopped", "0123")
    said = ask("status", "--home", home)
    assert "serve does not run" in said
    assert "The run was stopped before its end." in said
    assert re.search(r"ended +1970-01-01", said)


def test_a_study_does_not_run_without_the_superlink(home, tmp_path):
    ask("enrol", "--home", home, *(request(tmp_path, name) for name in ("a", "b", "c")))
    proposed = json.loads(ask("propose", "--home", home, STUDY_FILE, "--json"))
    code, said = motet("run", "--home", home, proposed["hash"])
    assert code == 12
    assert "SuperLink is not running" in said
    assert not list((home / "runs").iterdir())


def test_a_study_does_not_run_beside_one_that_serve_goes_on_with(home, tmp_path):
    ask("enrol", "--home", home, *(request(tmp_path, name) for name in ("a", "b", "c")))
    proposed = json.loads(ask("propose", "--home", home, STUDY_FILE, "--json"))
    (home / "runs" / "0123").mkdir()
    Journal(home / "runs" / "0123" / "journal.jsonl").write({"type": "start"})
    with locks.hold(home / "serve.lock", busy=""), locks.hold(home / "runs" / "0123" / "run.lock", busy=""):
        code, said = motet("run", "--home", home, proposed["hash"])
    assert (code, "runs already" in said) == (AlreadyRunning.exit_code, True), said
    assert [path.name for path in (home / "runs").iterdir()] == ["0123"]


def test_a_run_that_nobody_follows_is_stopped_by_the_command(home):
    code, said = motet("stop", "--home", home)
    assert (code, "no run" in said) == (12, True), said
    for name, kinds in (("0123", ["start"]), ("4567", ["start", "done"])):
        (home / "runs" / name).mkdir()
        (home / "runs" / name / "study.json").write_bytes(federation.study().canonical_bytes())
        for kind in kinds:
            Journal(home / "runs" / name / "journal.jsonl").write({"type": kind, "time": 1.0})
    assert motet("stop", "--home", home, "4567")[0] == 12  # it has ended
    told = json.loads(CliRunner().invoke(cli.app, ["stop", "--home", str(home), "--json"]).stdout)
    assert (told["run"], told["charged"]) == ("0123", {"training": 0, "exact": 0, "other": 0})
    assert "Stopped at round 0" in told["words"]
    journal = Journal(home / "runs" / "0123" / "journal.jsonl")
    assert ([event["type"] for event in journal.events()], (home / "runs" / "0123" / "stop").exists()) == (
        ["start", "stopped"],
        True,
    )
    assert motet("stop", "--home", home, "0123")[0] == 12  # once is enough
    assert motet("stop", "--home", home, "../x")[0] == 12


def test_a_run_that_flower_does_not_take_is_stopped_for_good(home, tmp_path, monkeypatch):
    ask("enrol", "--home", home, *(request(tmp_path, name) for name in ("a", "b", "c")))
    proposed = json.loads(ask("propose", "--home", home, STUDY_FILE, "--json"))
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "flwr").write_text("#!/bin/sh\necho no\n")
    (tmp_path / "bin" / "flwr").chmod(0o700)
    monkeypatch.setattr(sys, "executable", str(tmp_path / "bin" / "python"))
    with locks.hold(home / "serve.lock", busy=""):
        code, said = motet("run", "--home", home, proposed["hash"])
    assert (code, "did not take the run" in said) == (10, True), said
    (run,) = (home / "runs").iterdir()
    assert (run / "stop").exists()  # should Flower begin it later, it asks nothing of anybody
    assert json.loads(ask("status", "--home", home, "--json"))["run"]["phase"] == "stopped"


FLOWER = """#!/bin/sh
name=$(echo "$*" | sed 's/.*run="\\([0-9a-f]*\\)".*/\\1/')
echo '{"type": "start", "time": 1.0}\n{"type": "done", "time": 2.0}' > "HOME/runs/$name/journal.jsonl"
echo '{"run-id": 1}'
"""


def test_a_run_that_ends_says_in_json_where_its_result_is_and_nothing_else_on_stdout(home, tmp_path, monkeypatch):
    ask("enrol", "--home", home, *(request(tmp_path, name) for name in ("a", "b", "c")))
    proposed = json.loads(ask("propose", "--home", home, STUDY_FILE, "--json"))
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "flwr").write_text(FLOWER.replace("HOME", str(home)))
    (tmp_path / "bin" / "flwr").chmod(0o700)
    monkeypatch.setattr(sys, "executable", str(tmp_path / "bin" / "python"))
    with locks.hold(home / "serve.lock", busy=""):
        ended = CliRunner().invoke(cli.app, ["run", "--home", str(home), proposed["hash"], "--json"])
    (run,) = (home / "runs").iterdir()
    assert (ended.exit_code, ended.exception) == (0, None)
    assert json.loads(ended.stdout) == {
        "run": run.name,
        "result": str(run / "result.json"),
        "report": str(run / "report.html"),
    }


@pytest.mark.parametrize(
    ("names", "unseen", "says"),
    [
        ("ab", "", "The roster has 2 hospitals, a round of this study needs 3."),
        ("abc", "c", "The roster, without the unseen ones, has 2 hospitals, a round of this study needs 3."),
    ],
)
def test_a_roster_that_is_too_small_for_the_study_does_not_run(names, unseen, says, home, tmp_path):
    ask("enrol", "--home", home, *(request(tmp_path, name) for name in names))
    wanted = tmp_path / "study.toml"
    wanted.write_text(STUDY_FILE.read_text() + (f'\n[evaluation]\nunseen = ["{unseen}"]\n' if unseen else ""))
    proposed = json.loads(ask("propose", "--home", home, wanted, "--json"))
    code, said = motet("run", "--home", home, proposed["hash"])
    assert (code, says in said) == (10, True), said
    assert not list((home / "runs").iterdir())


@pytest.mark.parametrize(
    "result",
    [
        {},
        [],
        {"study": {}},
        {"study": {"title": "t"}, "training": {}, "seconds": {}},
        {"study": {"title": "t"}, "hospitals": ["a"], "training": {"auc": None}, "ols": {}, "patients": 3, "seconds": {}},
    ],
)
def test_a_result_of_another_structure_is_a_file_to_restore_and_no_bug(result, home):
    (home / "runs" / "0123").mkdir()
    (home / "runs" / "0123" / "result.json").write_text(json.dumps(result))
    code, said = motet("report", "--home", home)
    assert (code, "structure of result.json" in said) == (10, True), said


def test_a_taken_port_is_13(tmp_path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        ask("init", "--home", tmp_path / "hub", *COORDINATOR[:4], "--address", f"127.0.0.1:{port}")
        ask("enrol", "--home", tmp_path / "hub", *(request(tmp_path, name) for name in ("a", "b", "c")))
        code, said = commands.as_process("motet-coordinator", "serve", "--home", tmp_path / "hub")
    assert code == 13
    assert f"Port {port} is in use" in said
