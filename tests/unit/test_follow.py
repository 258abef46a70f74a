"""A run on a terminal: it ends when the journal says so, says why when it failed, and says who is waited for meanwhile."""

import contextlib
import io
import json
import threading
import time

import pytest
from rich.console import Console

from common import locks
from common.errors import HospitalMissing
from server import follow as following
from server.follow import follow
from server.glance import Glance
from server.journal import Journal
from server.state import Phase
from tests import federation
from tests.federation import HOSPITALS

STUDY = federation.study(patience_s=600)
AT = 1_700_000_000.0


@pytest.fixture
def folder(tmp_path):
    """A coordinator's folder with one run that was prepared."""
    run = tmp_path / "hub" / "runs" / "0123"
    run.mkdir(parents=True)
    (run / "study.json").write_bytes(STUDY.canonical_bytes())
    return run


def write(folder, *events):
    journal = Journal(folder / "journal.jsonl")
    for event in events:
        journal.write({"time": AT, **event})


def followed(folder, *events, alive=True):
    write(folder, *events)
    console = Console(file=io.StringIO(), width=200, force_terminal=False)
    follow(folder, alive=lambda: alive, console=console)
    return console.file.getvalue()


def announced(number, *, task="train", index=1):
    asked = {"round": number, "task": task, "index": index, "hospitals": list(HOSPITALS)}
    return {"type": "announced", "announcement": asked}


def round_event(number, *, state="opened", missing=None, task="train", index=1):
    return {
        "type": "round", "round": number, "task": task, "index": index, "state": state, "missing": missing or {},
        "mechanism": {"name": "none"}, "hospitals": list(HOSPITALS), "uploaded": list(HOSPITALS), "seconds": 1.0,
    }  # fmt: skip


def link(name, state, *, at=AT):
    return {"type": "link", "hospital": name, "state": state, "time": at}


def seen(folder, *events, now=AT + 60):
    write(folder, *events)
    return Glance(folder).state(now=now)


UP = [link(name, "up") for name in HOSPITALS]


def test_a_finished_run_ends_it_and_shows_void_rounds_and_absent_hospitals(folder):
    said = followed(
        folder,
        {"type": "start"},
        {"type": "stage", "stage": "set-up"},
        {"type": "missing", "codes": {"hosp-b": "E-OFFLINE"}},
        round_event(1, state="void", missing={"hosp-c": "E-TIMEOUT"}),
        round_event(2),
        {"type": "done"},
    )
    assert "not there: hosp-b E-OFFLINE" in said
    assert "round 1 (train step 1) is void: hosp-c E-TIMEOUT" in said


def test_a_failed_run_raises_with_the_reason(folder):
    with pytest.raises(HospitalMissing, match="too few hospitals"):
        followed(folder, {"type": "failed", "code": "E-MISSING", "what": "too few hospitals"})


def test_a_run_that_was_stopped_from_elsewhere_ends_it(folder):
    with pytest.raises(KeyboardInterrupt):
        followed(folder, {"type": "start"}, {"type": "stopped"})


@contextlib.contextmanager
def holding(path):
    with locks.hold(path, busy=""):
        yield


def test_a_run_that_flower_ended_silently_is_not_followed_for_ever(folder, monkeypatch):
    monkeypatch.setattr(following, "SILENCE_S", 0.1)
    with holding(folder.parent.parent / "serve.lock"), pytest.raises(HospitalMissing, match="without a result"):
        followed(folder, {"type": "start"}, alive=False)


def test_a_run_is_not_given_up_while_serve_is_down(folder, monkeypatch):
    monkeypatch.setattr(following, "SILENCE_S", 0.1)
    (folder / "run.lock").touch()  # somebody held it, and was killed with `serve`
    back = threading.Timer(3.0, lambda: write(folder, {"type": "resumed"}, {"type": "done"}))
    back.start()
    said = followed(folder, {"type": "start"}, alive=False)
    assert "The coordinator's process is away" in said
    assert "start `motet-coordinator serve`, which resumes it" in said
    assert "The coordinator is back and resumes the run." in said
    back.join()


def test_a_run_that_goes_on_after_a_silence_is_not_given_up(folder, monkeypatch):
    monkeypatch.setattr(following, "SILENCE_S", 0.1)
    answers = iter([False, True])
    write(folder, {"type": "start"})

    def alive():  # no: it was killed; then yes: `serve` went on with it, and it ends
        answer = next(answers)
        if answer:
            write(folder, {"type": "resumed"}, {"type": "done"})
        return answer

    with holding(folder.parent.parent / "serve.lock"):
        follow(folder, alive=alive, console=Console(file=io.StringIO()))
    assert next(answers, None) is None


def test_hospitals_that_did_not_connect_are_named_and_no_time_is_guessed(folder):
    state = seen(folder, link("hosp-a", "up"), link("hosp-b", "up"), link("hosp-b", "lost", at=AT + 50), now=AT + 56)
    assert state.phase is Phase.WAITING
    assert following.doing(state) == "waiting for hosp-b (link lost 6 s ago)"
    assert following.left(state) == ""


@pytest.mark.parametrize(
    ("then", "said"),
    [
        ((), "hosp-b, hosp-d"),
        ((link("hosp-b", "lost", at=AT + 54),), "hosp-b (link lost 6 s ago), hosp-d"),
        ((link("hosp-d", "away", at=AT + 39),), "hosp-b, hosp-d (its vault does not answer since 21 s)"),
        ((link("hosp-d", "away"), link("hosp-d", "up", at=AT + 39)), "hosp-b, hosp-d"),
    ],
)
def test_who_has_not_answered_a_round_is_named_with_its_reason(folder, then, said):
    place = folder / "rounds" / "000002"
    place.mkdir(parents=True)
    for name in ("hosp-a", "hosp-c"):
        (place / f"{name}.envelope").touch()
    state = seen(folder, *UP, {"type": "start"}, round_event(1), announced(2), *then)
    assert following.doing(state) == f"round 2 (train step 1) is under way, waiting for {said}"
    assert following.left(state) == ""


def test_nobody_is_waited_for_in_the_first_seconds_or_after_the_end(folder):
    assert following.doing(seen(folder, *UP, round_event(1), announced(2), now=AT + 1)) == "round 2 (train step 1) is under way"
    assert "waiting" not in following.doing(seen(folder, {"type": "done"}))


def test_a_resumed_run_says_where_it_stands_and_not_that_nothing_is_left(folder):
    state = seen(
        folder, *UP, round_event(1), announced(2, task="evaluate", index=2), {"type": "resumed"},
        {"type": "stage", "stage": "set-up 2 of 2: pair keys"}, now=AT + 1,
    )  # fmt: skip
    assert following.doing(state) == "resuming: set-up 2 of 2: pair keys; round 2 (evaluate) was under way"
    assert following.left(state) == ""
    done, total = following.waves(state)
    assert done < total
    again = seen(folder, round_event(2, task="evaluate", index=2), now=AT + 1)
    assert "resuming" not in following.doing(again)


def test_a_coordinator_that_is_away_is_said_within_seconds(folder):
    (folder / "run.lock").touch()
    state = seen(folder, *UP, {"type": "start"}, round_event(1), announced(2), now=AT + 4)
    assert "the last news is 4 s old; start `motet-coordinator serve`" in following.doing(state)
    assert following.left(state) == ""
    with holding(folder.parent.parent / "serve.lock"):
        state = seen(folder, now=AT + 4)
        assert "`serve` resumes it" in following.doing(state)
        with holding(folder / "run.lock"):
            assert "away" not in following.doing(seen(folder, now=AT + 4))
    assert json.loads((folder / "journal.jsonl").read_bytes().splitlines()[-1])["type"] == "announced"
    assert time.time() > AT
