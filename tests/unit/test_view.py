"""The live state: what the journal of a real run adds up to, and what a damaged or foreign journal cannot do."""

import io
import json
import os
import shutil
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from common.errors import ConfigError, NotSetUp
from server import glance, metrics, run, state, watch, words
from server.glance import Glance
from server.state import Link, Phase
from server.view import view
from tests import federation, journals

STUDY = federation.study(patience_s=60)
HASH = "a" * 64


@pytest.fixture(scope="module")
def told(tmp_path_factory, phantom_scans, cohort_cache):
    """A finished run with a void round: (folder, study, result)."""
    one = federation.Federation(tmp_path_factory.mktemp("view") / "f", phantom_scans, cache=cohort_cache)
    yield journals.run(one)
    one.close()


def seen(*events, now=1_000.0, study=STUDY, hospitals=("hosp-a", "hosp-b", "hosp-c")):
    return view(list(events), run="r", study=study, hospitals=hospitals, now=now)


def round_event(number, *, time, index=None, task="train", opened=True, missing=None, seconds=1.0, mechanism=None):
    return {
        "type": "round",
        "time": time,
        "round": number,
        "task": task,
        "index": number if index is None else index,
        "mechanism": mechanism or {"name": "none", "statistic": "gram", "ring_bits": 128},
        "hospitals": ["hosp-a", "hosp-b", "hosp-c"],
        "uploaded": [name for name in ("hosp-a", "hosp-b", "hosp-c") if name not in (missing or {})],
        "state": "opened" if opened else "void",
        "missing": missing or {},
        "seconds": seconds,
    }


def test_a_finished_run_is_told_as_its_result_tells_it(told):
    folder, wanted, result = told
    one = Glance(folder).state(now=2e9)
    assert one.phase is Phase.DONE
    assert one.ended
    assert [(item.number, item.opened) for item in one.rounds] == [
        (event["round"], event["state"] == "opened") for event in result["rounds"]
    ]
    assert (one.rounds_void, one.steps_done, one.steps) == (1, 5, 5)
    rounded = Decimal(result["training"]["epsilon_rdp"]).quantize(Decimal("0.001"))
    assert abs(one.epsilon - rounded) <= Decimal("0.001")
    for hospital in one.hospitals:
        told_of = result["hospital_epsilon"][hospital.name]
        assert (hospital.releases_private, hospital.releases_exact) == (told_of["private_releases"], told_of["exact_releases"])
    assert one.delta == wanted.privacy.delta
    assert list(one.curve) == [(point["step"], point["auc"]) for point in result["training"]["curve"]]
    (refusal,) = one.refusals
    assert (refusal.hospital, refusal.code, refusal.step) == ("hosp-b", "E-LATE", f"round {journals.LOST_ROUND}")
    assert one.codes == {"hosp-b": {"E-LATE": 1}}
    assert one.left_s is None
    assert one.lines_unreadable == 0


def test_epsilon_grows_with_the_rounds_and_the_forecast_is_what_it_becomes(told):
    folder, wanted, _ = told
    events, names = journals.events(folder), federation.HOSPITALS
    states = [view(events[:count], run="r", study=wanted, hospitals=names, now=2e9) for count in range(len(events) + 1)]
    epsilons = [one.epsilon for one in states]
    assert epsilons == sorted(epsilons)
    assert len(set(epsilons)) == 1 + 6  # nothing, five steps, one of them twice because its round was void
    trained = next(one for one in states if one.steps_done == 4)
    assert trained.epsilon_at_end == epsilons[-1]
    assert states[0].phase is Phase.WAITING
    assert states[0].epsilon_at_end is None


def test_the_journal_is_read_on_while_it_is_written_and_is_never_changed(told, tmp_path):
    folder = shutil.copytree(told[0], tmp_path / "run")
    journal = folder / "journal.jsonl"
    lines = journal.read_bytes().splitlines(keepends=True)
    journal.write_bytes(b"")
    one, counts = Glance(folder), []
    with journal.open("ab", buffering=0) as file:
        for line in lines:
            file.write(line[:20])
            half = journal.read_bytes()
            counts.append(len(one.state(now=2e9).rounds))
            assert journal.read_bytes() == half  # the half line is the writer's
            file.write(line[20:])
    assert one.state(now=2e9) == Glance(folder).state(now=2e9)
    assert counts == sorted(counts)
    journal.write_bytes(b"".join(lines[:3]))
    assert len(one.state(now=2e9).rounds) == 0  # a shorter file is read from its beginning
    other = journal.with_name("other")
    other.write_bytes(b"".join(lines))
    other.replace(journal)
    assert len(one.state(now=2e9).rounds) == len(Glance(folder).state(now=2e9).rounds) > 0


def test_a_round_told_twice_counts_once(told):
    folder, wanted, _ = told
    events = journals.events(folder)
    once, twice = seen(*events, study=wanted), seen(*events[:8], *events[4:], study=wanted)
    for name in ("rounds", "epsilon", "codes", "refusals", "hospitals"):
        assert getattr(once, name) == getattr(twice, name)


def test_links_come_and_go():
    up = {"type": "link", "hospital": "hosp-a", "state": "up", "time": 10.0}
    lost = {**up, "state": "lost", "time": 20.0}
    assert [one.link for one in seen(up).hospitals] == [Link.UP, Link.UNKNOWN, Link.UNKNOWN]
    gone = seen(up, lost).hospitals[0]
    assert (gone.link, gone.seen, gone.away, words.link(gone)) == (Link.LOST, 10.0, True, "lost")
    assert not seen(up, lost, {**up, "time": 30.0}).hospitals[0].away


def test_a_hospital_that_answers_again_is_no_longer_away():
    void = round_event(1, time=10, opened=False, missing={"hosp-b": "E-LATE"})
    assert words.link(seen(void).hospitals[1]) == "away"
    back = seen(void, round_event(2, time=11)).hospitals[1]
    assert (words.link(back), back.code, back.rounds_missed) == ("answers", "E-LATE", 1)


def test_what_the_coordinator_computes_between_rounds_is_shown(told):
    reading = {"type": "stage", "stage": run.READING, "time": 11.0}
    one = seen({"type": "start", "time": 5.0}, round_event(1, time=10.0, task="gram"), reading)
    assert (one.phase, one.doing) == (Phase.ROUNDS, run.READING)
    stages = [event["stage"] for event in journals.events(told[0]) if event["type"] == "stage"]
    assert run.READING in stages
    assert stages[-1] == "hospitals closed the study; the result is made"


def test_a_failed_run_that_is_resumed_goes_on():
    failed = {"type": "failed", "code": "E-MISSING", "what": "Two hospitals are missing."}
    assert seen({"type": "start", "time": 5.0}, failed).failure == "E-MISSING: Two hospitals are missing."
    one = seen({"type": "start", "time": 5.0}, failed, {"type": "resumed", "time": 9.0})
    assert (one.phase, one.failure, one.resumed, one.started) == (Phase.SET_UP, None, 1, 5.0)


def test_a_stopped_run_is_over_until_it_is_resumed():
    stopped = {"type": "stopped", "time": 9.0}
    one = seen(round_event(1, time=5.0), stopped)
    assert (one.phase, one.ended, one.left_s, one.epsilon_at_end) == (Phase.STOPPED, True, None, None)
    assert not seen(stopped, {"type": "resumed", "time": 10.0}).ended


def test_no_end_is_promised_before_there_is_a_pace_and_none_when_it_stands_still():
    study = federation.study(training={"steps": 10}, patience_s=60)
    rounds = [round_event(number, time=100.0 + number, seconds=0.9) for number in range(1, 8)]
    assert seen(*rounds[:2], study=study, now=102.0).left_s is None
    quick, slow = seen(*rounds, study=study, now=107.0).left_s
    assert quick <= slow
    assert quick == pytest.approx(3 + 3, abs=0.5)  # three steps, the statistics, the evaluation, the close; a second each
    later = seen(*rounds, study=study, now=109.0).left_s
    assert later[1] == pytest.approx(slow - 2, abs=0.01)
    assert seen(*rounds, study=study, now=130.0).left_s is None
    assert not seen(*rounds, study=study, now=130.0).silent
    assert seen(*rounds, study=study, now=107.0 + study.patience_s + 1).silent


def test_void_rounds_make_the_end_later():
    study = federation.study(training={"steps": 20}, patience_s=60)
    good = [round_event(number, time=100.0 + number) for number in range(1, 9)]
    bad = [round_event(number, time=100.0 + number, opened=number % 2 == 0) for number in range(1, 9)]
    assert seen(*bad, study=study, now=108.0).left_s[0] > seen(*good, study=study, now=108.0).left_s[0]


def test_a_mechanism_that_nobody_can_account_for_is_not_called_cheap():
    one = seen(round_event(1, time=1.0, mechanism={"name": "laplace"}))
    assert one.epsilon == Decimal("Infinity")
    assert words.epsilon(one.epsilon) == words.NONE
    assert state.plain(one)["epsilon"] is None
    assert b"motet_hospital_epsilon{" not in metrics.text(one)


@pytest.mark.parametrize(
    "event",
    [
        {},
        {"type": "round"},
        round_event(0, time=1.0),
        round_event(1, time=float("nan")),
        round_event(1, time=1.0, seconds=float("inf")),
        {**round_event(1, time=1.0), "missing": None},
        {"type": "missing", "codes": [], "time": 1.0},
        {"type": "link", "hospital": "no name!", "state": "up", "time": 1.0},
        {"type": "link", "hospital": "hosp-a", "state": "sideways", "time": 1.0},
        {"type": "stage", "time": 1.0},
        {"type": "done", "time": "late"},
        {"type": "done"},
    ],
    ids=str,
)
def test_a_malformed_event_is_counted_and_changes_nothing_that_was_told(event):
    before = round_event(7, time=5.0) if event != {"type": "done"} else {}
    one = seen(*filter(None, [before]), event)
    assert one.lines_unreadable == 1
    assert [item.number for item in one.rounds] == ([7] if before else [])
    assert one.phase is (Phase.ROUNDS if before else Phase.WAITING)


def test_an_unknown_event_is_harmless():
    assert seen({"type": "novelty", "time": 3.0, "what": [1]}) == seen()


def test_foreign_text_cannot_steer_a_terminal_or_name_a_hospital():
    one = seen(
        {"type": "stage", "stage": "\x1b[2J[red]set-up", "time": 1.0},
        {"type": "missing", "codes": {"\x1b[31m": "E-LATE", "hosp-a": "[bold]\x07"}, "time": 1.0},
        now=3.0,
    )
    assert [item.name for item in one.hospitals] == ["hosp-a", "hosp-b", "hosp-c"]
    assert one.codes == {"hosp-a": {"E-UNKNOWN": 1}}
    text = screen(one)
    assert "[red]set-up" in text  # shown, not obeyed
    assert "\x1b" not in text
    assert "\x07" not in text


KINDS = ["round", "link", "missing", "failed", "stage", "invited", "done"]
VALUES = st.one_of(st.none(), st.integers(), st.floats(), st.text(max_size=5), st.sampled_from(KINDS), st.lists(st.integers()))
KEYS = st.sampled_from(["type", "time", "round", "codes", "hospital", "hospitals", "state", "stage", "what"])


@given(st.lists(st.dictionaries(KEYS, VALUES), max_size=6))
def test_no_journal_ends_the_view(events):
    one = seen(*events)
    json.dumps(state.plain(one), allow_nan=False)
    metrics.text(one)
    screen(one)


def screen(one, *, width=80):
    console = Console(file=io.StringIO(), width=width, force_terminal=False)
    console.print(watch.drawn(one))
    return console.file.getvalue()


@pytest.mark.parametrize("width", [40, 80, 200])
def test_the_terminal_shows_hospitals_rounds_and_epsilon(told, width):
    one = Glance(told[0]).state(now=2e9)
    text = screen(one, width=width)
    assert all(part in text for part in ("epsilon", "hosp", "rounds", "opened"))
    assert max(len(line) for line in text.splitlines()) <= width
    if width == 200:
        assert all(part in text for part in (*federation.HOSPITALS, "E-LATE", "step 5 of 5", "7 opened, 1 void"))
        assert words.epsilon(one.epsilon) in text


def test_watching_ends_with_the_run():
    rounds = [round_event(1, time=1.0), round_event(2, time=2.0), {"type": "done", "time": 3.0}]
    states = iter([seen(*rounds[:count], now=4.0) for count in (1, 2, 3)])
    console = Console(file=io.StringIO(), width=100, force_terminal=True)
    last = watch.watch(lambda: next(states), console=console, newest=False, sleep=lambda _s: None)
    assert last.phase is Phase.DONE
    assert "round 2" in console.file.getvalue()
    assert next(states, None) is None


def test_metrics_hold_what_the_state_holds(told):
    one = Glance(told[0]).state(now=2e9)
    lines = metrics.text(one).decode().splitlines()
    assert 'motet_rounds_total{state="void"} 1.0' in lines
    assert 'motet_hospital_codes_total{code="E-LATE",hospital="hosp-b"} 1.0' in lines
    assert f'motet_hospital_epsilon{{hospital="hosp-a"}} {float(one.epsilon)}' in lines
    assert 'motet_run_phase{phase="done"} 1.0' in lines
    assert not [line for line in lines if line.startswith("motet_run_left")]  # not known is absent
    assert metrics.text(None).decode().splitlines()[-1] == "motet_run_present 0.0"


def test_the_last_run_is_found_and_a_stranger_name_is_not(told, tmp_path):
    home = journals.coordinator(tmp_path / "hub", run=None)
    with pytest.raises(NotSetUp, match="no run yet"):
        glance.find(home, run=None)
    look = glance.newest(home, run=None)
    assert look() is None
    for age, name in enumerate(("1111", "2222")):
        (home.runs / name).mkdir()
        (home.runs / name / "study.json").write_bytes(STUDY.canonical_bytes())
        os.utime(home.runs / name / "study.json", (100 - age, 100 - age))
    assert glance.find(home, run=None).name == "1111"
    assert glance.find(home, run="2222").name == "2222"
    assert look().run == "1111"
    for name in ("3333", "../runs/1111", "*", "", "1" * 100):
        with pytest.raises(NotSetUp):
            glance.find(home, run=name)


def test_a_run_without_its_study_says_what_to_do(tmp_path):
    with pytest.raises(ConfigError, match=r"study\.json"):
        Glance(tmp_path).state(now=1.0)


def test_a_watch_that_begins_before_the_run_waits_for_it_beside_the_last_one():
    """The run before had ended: it is shown, the next one is waited for, and shown to its end."""
    before = seen({"type": "done", "time": 5.0})
    here = {"run": "next"}
    runs = [view([{"type": kind, "time": 9.0}], study=STUDY, hospitals=(), now=9.0, **here) for kind in ("start", "done")]
    looks = iter([before, before, before, *runs])
    console = Console(file=io.StringIO(), width=120, force_terminal=True)
    last = watch.watch(lambda: next(looks), console=console, newest=True, sleep=lambda _s: None)
    assert (last.run, last.phase) == ("next", Phase.DONE)
    assert "This run has ended; the next one is shown when it begins." in console.file.getvalue()
    assert next(looks, None) is None
    named = watch.watch(lambda: before, console=console, newest=False, sleep=lambda _s: None)
    assert named.run == "r"


def test_a_newer_run_without_a_result_is_found_beside_the_last_finished_one(tmp_path):
    home = journals.coordinator(tmp_path, run=None)
    for name, at in (("older", 1_000), ("newer", 2_000)):
        (home.runs / name).mkdir()
        (home.runs / name / "study.json").write_bytes(STUDY.canonical_bytes())
        os.utime(home.runs / name / "study.json", (at, at))
    (home.runs / "older" / "result.json").write_text("{}")
    assert glance.unfinished_newer(home, than=home.runs / "older") == home.runs / "newer"
    (home.runs / "newer" / "result.json").write_text("{}")
    assert glance.unfinished_newer(home, than=home.runs / "older") is None
    assert glance.unfinished_newer(home, than=home.runs / "newer") is None
