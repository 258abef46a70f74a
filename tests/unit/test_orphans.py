"""A run that began and did not end is found by the keeper and begun again: once, with patience, one after another."""

import itertools
from types import SimpleNamespace

import pytest

from common import locks
from server import config, keeper
from server.journal import Journal


@pytest.mark.parametrize(
    ("kinds", "left"),
    [
        ([], False),
        (["start"], True),
        (["start", "stage", "round"], True),
        (["start", "round", "done"], False),
        (["start", "failed"], False),
        (["start", "stopped", "link"], False),
        (["start", "failed", "resumed"], True),
        (["start", "failed", "resumed", "round", "done"], False),
        (["link"], True),
    ],
)
def test_a_run_that_began_and_did_not_end_is_unfinished(tmp_path, kinds, left):
    home = config.Home(tmp_path)
    journal = Journal(home.runs / "r1" / "journal.jsonl")
    journal.path.parent.mkdir(parents=True)
    journal.path.touch()
    for one in kinds:
        journal.write({"type": one})
    assert list(keeper.unfinished(home)) == ["r1"] * left
    with locks.hold(home.run_lock("r1"), busy=""):
        assert list(keeper.unfinished(home)) == []
    journal.write({"type": "done"})
    assert list(keeper.unfinished(home)) == []


@pytest.mark.parametrize("junk", [b"\0" * 100 + b"\n", b"[]\n", b"{}\n", b"junk\n", b'{"type": 5}\n', b"\xff\n"])
def test_a_damaged_journal_does_not_end_the_keeper(tmp_path, junk, caplog):
    home = config.Home(tmp_path)
    for run in ("r1", "r2"):
        (home.runs / run).mkdir(parents=True)
        Journal(home.runs / run / "journal.jsonl").write({"type": "start"})
    with (home.runs / "r1" / "journal.jsonl").open("ab") as file:
        file.write(junk)
    assert list(keeper.unfinished(home)) in (["r2"], ["r1", "r2"])
    assert list(keeper.unfinished(home))[-1] == "r2"
    assert caplog.text.count("run r1 cannot be read") <= 1  # not at every look


@pytest.fixture
def flower(monkeypatch):
    """What would be handed to Flower's own command, which starts a process elsewhere: (time, run). Everything of ours is real.

    `flower.now` is the clock's time in s.
    """
    seen = SimpleNamespace(now=0.0, handed=[])
    monkeypatch.setattr(keeper.time, "monotonic", lambda: seen.now)
    monkeypatch.setattr(keeper.superlink, "submit", lambda _home, *, run: seen.handed.append((seen.now, run)))
    return seen


def test_a_run_that_lost_its_process_is_handed_to_flower_once_and_with_patience(tmp_path, flower):
    home = config.Home(tmp_path)
    (home.runs / "r1").mkdir(parents=True)
    Journal(home.runs / "r1" / "journal.jsonl").write({"type": "start"})
    said = []
    orphans = keeper.Orphans(home)
    for _ in range(40):
        orphans.adopt(say=said.append)
        flower.now += 1.0
    assert [run for _, run in flower.handed] == ["r1"]
    assert flower.handed[0][0] > keeper.ORPHANED_S
    assert said == ["Run r1 lost its process; it is begun again where it stood, which takes up to a minute."]
    with locks.hold(home.run_lock("r1"), busy=""):
        orphans.adopt(say=said.append)
        orphans.adopt(say=said.append)
    assert said[1:] == ["Run r1 goes on."]
    flower.now += 1.0
    orphans.adopt(say=said.append)
    assert len(flower.handed) == 1  # counted from when it was let go


def test_a_run_with_the_stop_mark_is_not_said_to_go_on(tmp_path, flower):
    home = config.Home(tmp_path)
    (home.runs / "r1").mkdir(parents=True)
    Journal(home.runs / "r1" / "journal.jsonl").write({"type": "start"})
    (home.runs / "r1" / "stop").touch()
    said, orphans = [], keeper.Orphans(home)
    for _ in range(10):
        orphans.adopt(say=said.append)
        flower.now += 1.0
    assert said == ["Run r1 lost its process; it is begun again to be stopped, which takes up to a minute."]


def test_runs_that_lost_their_process_are_begun_again_one_after_another_and_not_beside_one_at_work(tmp_path, flower):
    home = config.Home(tmp_path)
    for name in ("r1", "r2", "r3"):
        (home.runs / name).mkdir(parents=True)
        Journal(home.runs / name / "journal.jsonl").write({"type": "start"})
    orphans = keeper.Orphans(home)

    def pass_s(seconds):
        for _ in range(seconds):
            orphans.adopt(say=lambda _: None)
            flower.now += 1.0
        return [run for _, run in flower.handed]

    with locks.hold(home.run_lock("r3"), busy=""):
        assert pass_s(30) == [], "the lane is taken"
    assert pass_s(20) == ["r1"], "Flower takes its time to start it"
    with locks.hold(home.run_lock("r1"), busy=""):
        assert pass_s(100) == ["r1"]
        Journal(home.runs / "r1" / "journal.jsonl").write({"type": "done"})
    assert pass_s(3) == ["r1", "r2"]


def test_a_run_that_dies_again_and_again_before_a_round_is_given_longer_pauses(tmp_path, flower):
    home = config.Home(tmp_path)
    (home.runs / "r1").mkdir(parents=True)
    journal = Journal(home.runs / "r1" / "journal.jsonl")
    journal.write({"type": "start"})
    orphans, handed = keeper.Orphans(home), flower.handed

    def pass_s(seconds):
        before = len(handed)
        for _ in range(seconds):
            orphans.adopt(say=lambda _: None)
            flower.now += 1.0
            if len(handed) > before:  # it begins, and dies at once
                before = len(handed)
                with locks.hold(home.run_lock("r1"), busy=""):
                    orphans.adopt(say=lambda _: None)

    pass_s(8 * 3600)
    assert 10 <= len(handed) <= 24
    assert max(after - first for (first, _), (after, _) in itertools.pairwise(handed)) < 3600 + 60
    journal.write({"type": "round", "round": 1})
    times = len(handed)
    pass_s(2 * 3600)  # it made progress: the pauses begin anew
    assert len(handed) - times >= 5
