"""The journal: events as they were written, in order, each on disk when `write` returns."""

import json

import pytest

from common.errors import RecordDamaged
from server.journal import Journal


def test_events_are_read_back_in_order_and_by_another_reader(tmp_path):
    journal = Journal(tmp_path / "journal.jsonl")
    assert list(journal.events()) == []
    written = [{"type": "round", "round": number, "text": "é\n\u2028"} for number in range(5)]
    for event in written:
        journal.write(event)
        assert list(Journal(tmp_path / "journal.jsonl").events())[-1] == event
    assert list(journal.events()) == written


def test_one_event_is_one_line(tmp_path):
    journal = Journal(tmp_path / "journal.jsonl")
    journal.write({"b": "line\nline", "a": 1})
    assert (tmp_path / "journal.jsonl").read_bytes().count(b"\n") == 1


def test_a_half_written_last_line_is_left_out(tmp_path):
    journal = Journal(tmp_path / "journal.jsonl")
    journal.write({"type": "x", "n": 1})
    whole = (tmp_path / "journal.jsonl").read_bytes()
    line = json.dumps({"type": "x", "n": 2}).encode()
    for size in range(len(line) + 1):
        (tmp_path / "journal.jsonl").write_bytes(whole + line[:size])
        assert list(journal.events()) == [{"type": "x", "n": 1}]


@pytest.mark.parametrize("line", [b"", b"{", b"[]", b"1", b'{"n": 1}', b'{"type": 7}', b"\xff", b"[" * 100_000])
def test_a_damaged_line_is_told_by_its_number(line, tmp_path):
    journal = Journal(tmp_path / "journal.jsonl")
    journal.path.write_bytes(b'{"type": "start"}\n' + line + b'\n{"type": "done"}\n')
    with pytest.raises(RecordDamaged, match="Line 2 of the run's journal"):
        list(journal.events())
    with pytest.raises(RecordDamaged):
        journal.ended()


def test_a_run_has_ended_when_it_did_since_it_was_last_resumed(tmp_path):
    journal = Journal(tmp_path / "journal.jsonl")
    seen = []
    for kind in ("start", "round", "failed", "resumed", "round", "done"):
        journal.write({"type": kind})
        seen.append((journal.ended(), len(journal.life())))
    assert seen == [(False, 1), (False, 2), (True, 3), (False, 1), (False, 2), (True, 3)]


@pytest.mark.parametrize("event", [{"x": b"bytes"}, {"x": {1}}, {("a",): 1}])
def test_an_event_that_is_no_json_writes_nothing(event, tmp_path):
    journal = Journal(tmp_path / "journal.jsonl")
    journal.write({"type": "x", "n": 1})
    with pytest.raises(TypeError):
        journal.write(event)
    assert list(journal.events()) == [{"type": "x", "n": 1}]


def test_a_folder_that_is_not_there_is_an_error(tmp_path):
    with pytest.raises(OSError):
        Journal(tmp_path / "none" / "journal.jsonl").write({})
