"""A run on a terminal: it ends when the journal says so, and says why when it failed."""

import io

import pytest
from rich.console import Console

from common.errors import HospitalMissing
from server.follow import follow
from server.journal import Journal
from tests import federation

STUDY = federation.study()


def followed(tmp_path, *events, alive=True):
    journal = Journal(tmp_path / "journal.jsonl")
    for event in events:
        journal.write(event)
    console = Console(file=io.StringIO(), width=200, force_terminal=False)
    follow(journal, study=STUDY, alive=lambda: alive, console=console)
    return console.file.getvalue()


def round_event(number, *, state="opened", missing=None):
    return {"type": "round", "round": number, "task": "train", "index": 1, "state": state, "missing": missing or {}}


def test_a_finished_run_ends_it_and_shows_void_rounds_and_absent_hospitals(tmp_path):
    said = followed(
        tmp_path,
        {"type": "start"},
        {"type": "stage", "stage": "set-up"},
        {"type": "missing", "codes": {"hosp-b": "E-OFFLINE"}},
        round_event(1, state="void", missing={"hosp-c": "E-TIMEOUT"}),
        round_event(2),
        {"type": "done"},
    )
    assert "hosp-b" in said
    assert "E-OFFLINE" in said
    assert "round 1 (train step 1) is void" in said
    assert "round 2: train step 1" in said


def test_a_failed_run_raises_with_the_reason(tmp_path):
    with pytest.raises(HospitalMissing, match="too few hospitals"):
        followed(tmp_path, {"type": "failed", "code": "E-MISSING", "what": "too few hospitals"})


def test_a_run_that_flower_ended_silently_is_not_followed_for_ever(tmp_path, monkeypatch):
    monkeypatch.setattr("server.follow.SILENCE_S", 0.1)
    with pytest.raises(HospitalMissing, match="without a result"):
        followed(tmp_path, {"type": "start"}, alive=False)


def test_a_run_that_goes_on_after_a_silence_is_not_given_up(tmp_path, monkeypatch):
    monkeypatch.setattr("server.follow.SILENCE_S", 0.1)
    journal, answers = Journal(tmp_path / "journal.jsonl"), iter([False, True])
    journal.write({"type": "start"})

    def alive():  # no: it was killed; then yes: `serve` went on with it, and it ends
        answer = next(answers)
        if answer:
            journal.write({"type": "resumed"})
            journal.write({"type": "done"})
        return answer

    follow(journal, study=STUDY, alive=alive, console=Console(file=io.StringIO()))
    assert next(answers, None) is None
