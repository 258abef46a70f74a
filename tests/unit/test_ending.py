"""Why a run's process ended stands in its journal; an interruption that nobody asked for leaves the run to be gone on with."""

import errno

import pytest

from common.errors import HospitalMissing
from server import ending, keeper, stopping
from server.config import Home
from server.journal import Journal


@pytest.fixture
def folder(tmp_path):
    made = tmp_path / "runs" / "run"
    made.mkdir(parents=True)
    Journal(made / "journal.jsonl").write({"type": "start", "time": 1.0})
    return made


def end_by(folder, error):
    with ending.recorded(folder):
        raise error


def last(folder):
    return list(Journal(folder / "journal.jsonl").events())[-1]


def unfinished(folder):
    return list(keeper.unfinished(Home(folder.parent.parent)))


@pytest.mark.parametrize(
    "error", [KeyboardInterrupt(), SystemExit(1), OSError(errno.ENOSPC, "full"), OSError(errno.EDQUOT, "")]
)
def test_what_is_as_a_kill_leaves_the_run_to_be_gone_on_with(folder, error):
    with pytest.raises(type(error)):
        end_by(folder, error)
    assert last(folder)["type"] == "start"
    assert unfinished(folder) == ["run"]


def test_an_interruption_that_was_asked_for_is_a_stop(folder):
    stopping.mark(folder).touch()
    end_by(folder, KeyboardInterrupt())
    assert last(folder)["type"] == "stopped"
    assert unfinished(folder) == []


@pytest.mark.parametrize(
    ("error", "code", "what"),
    [
        (HospitalMissing("Too few are left.", action="Wait."), "E-MISSING", "Too few are left."),
        (OSError(errno.EIO, "sector 7"), "E-INTERNAL", "OSError"),
        (ValueError("a patient's value"), "E-INTERNAL", "ValueError"),
    ],
)
def test_a_failure_is_told_by_its_code_and_no_foreign_text(folder, error, code, what):
    with pytest.raises(type(error)):
        end_by(folder, error)
    event = last(folder)
    assert (event["type"], event["code"]) == ("failed", code)
    assert event["what"].startswith(what)
    assert "sector" not in event["what"]
    assert "patient" not in event["what"]
    assert unfinished(folder) == []


def test_a_run_that_ends_well_gets_no_word_more(folder):
    with ending.recorded(folder):
        pass
    assert last(folder)["type"] == "start"
