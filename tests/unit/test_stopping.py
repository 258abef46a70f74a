"""Ctrl-C in `run`: at most the round under way is charged, the journal ends with `stopped`, and one line says what was paid."""

import contextlib
import json
import threading
import time

import pytest
from rich.console import Console

from common import locks, wire
from common.errors import RecordDamaged
from server import ending, keeper, run_commands, stopping
from server.journal import Journal
from server.run import run_study
from server.state import Phase
from server.stopping import Stoppable
from server.view import view
from tests import federation, journals
from tests.federation import HOSPITALS, kind

RUN = "stopped"
AT = 3  # the round that is under way
STEPS = 5


@pytest.fixture(scope="module")
def interrupted(tmp_path_factory, phantom_scans, cohort_cache):
    """A run whose folder gets the mark while round AT is under way; its folder, its study and what reached the vaults."""
    one = federation.Federation(tmp_path_factory.mktemp("stop"), phantom_scans, cache=cohort_cache)
    wanted = federation.study(training={"steps": STEPS})
    one.approve(wanted)
    folder = one.folder / RUN
    folder.mkdir()
    asked = []

    def before(_name, data):
        if kind(data) == "announce":
            asked.append(wire.peek(data).body["announcement"]["round"])
            if asked[-1] == AT:
                stopping.mark(folder).touch()
        return data

    one.before = before
    with pytest.raises(KeyboardInterrupt):
        go_on(one, wanted, folder)
    yield one, wanted, folder, asked
    one.close()


def go_on(one, wanted, folder):
    carrier = Stoppable(carrier=one, folder=folder)
    run_study(study=wanted, roster=one.roster, key=one.key, carrier=carrier, folder=folder, run=RUN)


def kinds(folder):
    return [event["type"] for event in Journal(folder / "journal.jsonl").events()]


def stop(folder, *, end=lambda: None):
    stopping.stop(folder, lock=folder / "run.lock", end=end)


def test_no_round_after_the_one_under_way_is_announced_or_charged(interrupted):
    one, _, folder, asked = interrupted
    assert asked.count(AT) == len(HOSPITALS)
    assert max(asked) == AT
    rounds = Journal(folder / "journal.jsonl").rounds()
    assert (max(rounds), rounds[AT]["state"], rounds[AT]["uploaded"]) == (AT, "opened", list(HOSPITALS))
    for vault in one.vaults.values():
        assert sum(leaf["type"] == "reserve" for leaf in map(json.loads, vault.ledger.entries())) == AT


def test_a_run_that_was_stopped_asks_nothing_when_it_is_begun_again(interrupted):
    one, wanted, folder, asked = interrupted
    before = len(asked)
    with pytest.raises(KeyboardInterrupt):
        go_on(one, wanted, folder)
    assert len(asked) == before


def test_the_journals_last_word_is_stopped_once_and_nobody_goes_on_with_it(interrupted, tmp_path):
    one, wanted, folder, _ = interrupted
    ended = []
    for _ in range(2):
        stop(folder, end=lambda: ended.append(kinds(folder)[-1]))
    assert kinds(folder)[-1] == "stopped"
    assert kinds(folder).count("stopped") == 1
    assert ended[0] != "stopped"  # Flower is told before the journal is
    state = view(journals.events(folder), run=RUN, study=wanted, hospitals=one.roster.names, now=time.time())
    assert (state.phase, state.rounds_opened, state.steps_done) == (Phase.STOPPED, AT, AT - 1)
    home = journals.coordinator(tmp_path, run=folder)
    assert list(keeper.unfinished(home)) == []


def test_a_round_that_ends_after_the_stop_does_not_bring_the_run_back(interrupted):
    one, wanted, folder, _ = interrupted
    events = journals.events(folder)
    late = next(event for event in events if event["type"] == "round" and event["round"] == AT)
    told = [event for event in events if event is not late and event["type"] != "stopped"]
    told += [{"type": "stopped", "time": late["time"]}, late]
    state = view(told, run=RUN, study=wanted, hospitals=one.roster.names, now=time.time())
    assert (state.phase, state.rounds_opened) == (Phase.STOPPED, AT)


def test_what_was_charged_is_said_in_one_line(interrupted):
    said = stopping.told(interrupted[2])
    assert said.startswith(f"Stopped at round {AT}: {AT} rounds opened.")
    assert f"{AT - 1} steps of training, 1 exact sum." in said
    assert "not gone on with" in said
    assert "\n" not in said


def test_a_round_that_was_announced_and_not_ended_is_told(tmp_path):
    journal = Journal(tmp_path / "journal.jsonl")
    journal.write({"type": "start", "time": 1.0})
    journal.write({"type": "announced", "time": 2.0, "announcement": {"round": 7}})
    assert "Round 7 was under way" in stopping.told(tmp_path)
    assert stopping.told(tmp_path).startswith("Stopped at round 7: 0 rounds opened.")


@pytest.mark.parametrize("last", ["done", "failed"])
def test_a_run_that_ended_by_itself_is_not_called_stopped(tmp_path, last):
    journal = Journal(tmp_path / "journal.jsonl")
    for kind_ in ("start", last):
        journal.write({"type": kind_, "time": 1.0})
    stop(tmp_path)
    assert kinds(tmp_path) == ["start", last]


def test_a_stop_waits_for_the_round_under_way_and_no_longer(tmp_path, monkeypatch):
    monkeypatch.setattr(stopping, "ROUND_S", 0.6)
    lock, let_go, holds = tmp_path / "run.lock", threading.Event(), threading.Event()

    def work():
        with locks.hold(lock, busy=""):
            holds.set()
            let_go.wait(5)

    worker = threading.Thread(target=work)
    worker.start()
    assert holds.wait(5)
    began = time.monotonic()
    stop(tmp_path)
    assert 0.5 < time.monotonic() - began < 3
    assert kinds(tmp_path) == ["stopped"]
    let_go.set()
    worker.join()


class Held:
    """A process that works on a run, as its lock tells: in a thread, until it is let go."""

    def __init__(self, lock):
        self.holds, self.let_go = threading.Event(), threading.Event()
        self.thread = threading.Thread(target=self._work, args=(lock,))
        self.thread.start()
        assert self.holds.wait(5)

    def _work(self, lock):
        with locks.hold(lock, busy=""):
            self.holds.set()
            self.let_go.wait(20)

    def end(self):
        self.let_go.set()
        self.thread.join()


def test_a_run_of_which_only_the_result_is_left_is_waited_for_and_told_as_done(tmp_path, monkeypatch):
    monkeypatch.setattr(stopping, "ROUND_S", 0.2)
    journal = Journal(tmp_path / "journal.jsonl")
    journal.write({"type": "start", "time": 1.0})
    worker, ended = Held(tmp_path / "run.lock"), []
    stopping.past_stopping(journal)
    stopper = threading.Thread(
        target=lambda: ended.append(stopping.stop(tmp_path, lock=tmp_path / "run.lock", end=lambda: None))
    )
    stopper.start()
    stopper.join(0.8)
    assert stopper.is_alive()  # four times as long as a round is given
    journal.write({"type": "done", "time": 2.0})
    worker.end()
    stopper.join(5)
    assert ended == [False]
    assert kinds(tmp_path) == ["start", "stage", "done"]
    assert stopping.told(tmp_path).startswith("Done, before it could be stopped,")
    assert "result stands" in stopping.told(tmp_path)
    assert "not gone on with" not in stopping.told(tmp_path)


def test_a_run_that_dies_over_its_result_is_stopped(tmp_path):
    journal = Journal(tmp_path / "journal.jsonl")
    journal.write({"type": "start", "time": 1.0})
    stopping.past_stopping(journal)
    assert stopping.stop(tmp_path, lock=tmp_path / "run.lock", end=lambda: None)
    assert kinds(tmp_path) == ["start", "stage", "stopped"]


def test_a_stop_that_came_to_its_end_first_leaves_no_result(tmp_path, phantom_scans, cohort_cache):
    one = federation.Federation(tmp_path / "f", phantom_scans, cache=cohort_cache)
    wanted = federation.study(training={"steps": 1})
    one.approve(wanted)
    folder = one.folder / RUN
    folder.mkdir()

    def before(_name, data):
        if kind(data) == "close" and not stopping.mark(folder).exists():
            stop(folder)  # as after ROUND_S, with the last wave still under way
        return data

    one.before = before
    try:
        with ending.recorded(folder):  # ends without an error: the stop was asked for
            go_on(one, wanted, folder)
        assert kinds(folder)[-1] == "stopped"
        assert kinds(folder).count("stopped") == 1
        assert not (folder / "result.json").exists()
    finally:
        one.close()


def test_a_run_that_was_handed_on_before_it_was_stopped_does_not_come_back(interrupted, tmp_path):
    one, wanted, _, _ = interrupted
    folder = tmp_path / RUN
    folder.mkdir()
    journal = Journal(folder / "journal.jsonl")
    journal.write({"type": "start", "time": 1.0, "roster": one.roster.hash()})
    stopping.past_stopping(journal)  # killed here: all that is left is on disk, nothing need be asked again
    stop(folder)
    with ending.recorded(folder):
        go_on(one, wanted, folder)
    assert kinds(folder) == ["start", "stage", "stopped"]


@pytest.mark.parametrize(("how", "goes_on"), [("done", True), ("failed", False), ("stopped", False)])
def test_an_interrupted_run_goes_on_to_its_result_only_where_it_is_done(tmp_path, how, goes_on):
    for kind_ in ("start", how):
        Journal(tmp_path / "journal.jsonl").write({"type": kind_, "time": 1.0})
    (tmp_path / "result.json").write_text("{}")  # whose report could not be written, where it failed
    with contextlib.nullcontext() if goes_on else pytest.raises(KeyboardInterrupt):
        run_commands._interrupted(tmp_path, stop=lambda: stop(tmp_path), said=Console(quiet=True))


def test_an_error_after_a_stop_does_not_change_how_the_run_ended(tmp_path):
    Journal(tmp_path / "journal.jsonl").write({"type": "start", "time": 1.0})
    stop(tmp_path)
    with pytest.raises(RecordDamaged), ending.recorded(tmp_path):
        raise RecordDamaged("A round is damaged.", action="Begin anew.")
    assert kinds(tmp_path) == ["start", "stopped"]


def test_a_damaged_journal_still_takes_why_the_run_failed(tmp_path):
    (tmp_path / "journal.jsonl").write_bytes(b"nothing\n")
    with pytest.raises(RecordDamaged), ending.recorded(tmp_path):
        Journal(tmp_path / "journal.jsonl").ended()
    assert b'"failed"' in (tmp_path / "journal.jsonl").read_bytes()
