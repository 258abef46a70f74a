"""Bundles, journals and witnesses' files that hostile people wrote: refused in little memory, and nobody innocent is blamed."""

import json
import tracemalloc

import pytest

from common.audit import accountants, bundle, exact_cap, reconcile, verify, witnessed
from common.errors import RecordDamaged
from common.ledger import note
from tests import ledgers
from tests.ledgers import GRAM, Ask


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("hostile")
    with ledgers.create(folder / "ledger.sqlite") as ledger:
        ledger.release(Ask(number=1, mechanism=GRAM).to(ledger), sha256="a" * 64, size_bytes=1)
        ledgers.export(folder / "aalen.zip", ledger)
        return bundle.read(folder / "aalen.zip"), ledger.checkpoint()


def zipped(entries):
    read = bundle.Bundle(entries=(), checkpoint=b"x", roster=b"{}", studies={}, hospital="aalen")
    return bundle._zip({**bundle._parts(read), "entries.jsonl": entries})


@pytest.mark.parametrize("line", [b"\n", b"{}\n", b'{"seq":1}\n'])
def test_millions_of_lines_that_are_no_entries_do_not_fill_the_memory(line):
    data = zipped(line * (4_000_000 // len(line)))
    tracemalloc.start()
    with pytest.raises(RecordDamaged, match="too short"):
        bundle.parse(data)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 4 * len(data)


def test_entries_one_inside_the_other_are_refused(made):
    read, _ = made
    deep = b'{"fields":' + b"[" * 30_000 + b"]" * 30_000 + b"}"
    with pytest.raises(RecordDamaged):
        verify._replay((*read.entries[:1], deep), plans={}, hospital="aalen")


def test_a_forged_line_in_the_witnesses_file_does_not_speak_against_the_hospital(made):
    read, signed = made
    text, lines = note.split(signed)
    name, raw = lines[0]
    forged = f"{text}\n{note.DASH}{name} {note._base64(raw[:4] + bytes(64))}\n".encode()
    with pytest.raises(RecordDamaged, match="nothing against the hospital"):
        verify.verify(read, roster_hash=None, notes=[forged])


@pytest.mark.parametrize("cap", ["5", True, 2.5, [], {}])
def test_a_cap_on_exact_sums_that_cannot_be_counted_against_is_no_cap_and_is_said(made, cap):
    read, _ = made
    (reserved,) = accountants.replayed(read).reservations.values()
    with pytest.raises(RecordDamaged, match="no number"):
        exact_cap.ExactCap().reserve(reserved, policy={"exact_releases_max": cap})


@pytest.mark.parametrize("uploaded", [5, "aalen", {"aalen": 1}, None])
def test_a_journal_with_a_malformed_round_is_damage_and_no_bug(made, tmp_path, uploaded):
    read, _ = made
    (tmp_path / "rounds").mkdir()
    events = [{"type": "start", "run": "run"}, {"type": "round", "round": 1, "uploaded": uploaded}]
    (tmp_path / "journal.jsonl").write_text("".join(json.dumps(event) + "\n" for event in events))
    with pytest.raises(RecordDamaged):
        list(reconcile.reconcile({"aalen": read}, folders=[tmp_path], roster=ledgers.roster()))


def test_a_witnesses_file_without_an_end_is_not_read_to_the_end(monkeypatch):
    monkeypatch.setattr(witnessed, "FILE_BYTES_MOST", 1 << 16)
    with pytest.raises(RecordDamaged, match="too large"):
        witnessed.read([witnessed.Path("/dev/zero")])
