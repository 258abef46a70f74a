"""The journal: events as they were written, in order, each on disk when `write` returns."""

import json

import pytest

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
    journal.write({"n": 1})
    whole = (tmp_path / "journal.jsonl").read_bytes()
    line = json.dumps({"n": 2}).encode()
    for size in range(len(line) + 1):
        (tmp_path / "journal.jsonl").write_bytes(whole + line[:size])
        assert list(journal.events()) == [{"n": 1}]


@pytest.mark.parametrize("event", [{"x": b"bytes"}, {"x": {1}}, {("a",): 1}])
def test_an_event_that_is_no_json_writes_nothing(event, tmp_path):
    journal = Journal(tmp_path / "journal.jsonl")
    journal.write({"n": 1})
    with pytest.raises(TypeError):
        journal.write(event)
    assert list(journal.events()) == [{"n": 1}]


def test_a_folder_that_is_not_there_is_an_error(tmp_path):
    with pytest.raises(OSError):
        Journal(tmp_path / "none" / "journal.jsonl").write({})
