"""The ledger's file: kills, two processes at the limit, full disks, hostile hands, a clock that goes back."""

import hashlib
import os
import resource
import signal
import sqlite3

import pytest

from client.leaves import Leaves
from client.ledger import Ledger
from common.errors import (
    AlreadyExists,
    BudgetExhausted,
    InternalError,
    NotSetUp,
    RecordDamaged,
    RecordUnwritable,
)
from common.ledger import accounting, events, merkle, note
from common.ledger.events import Kind
from tests import ledgers
from tests.ledgers import DELTA, GRAM, asked, kinds, share

SHA = hashlib.sha256(b"bytes").hexdigest()


def test_an_existing_ledger_is_never_overwritten(ledger_path, ledger):
    before = ledger_path.read_bytes()
    with pytest.raises(AlreadyExists):
        Ledger.create(ledger_path, origin=ledgers.ORIGIN, key=ledgers.LEDGER_KEY, clock=ledgers.clock)
    assert ledger_path.read_bytes() == before
    assert ledger_path.stat().st_mode & 0o777 == 0o600
    assert [file.name for file in ledger_path.parent.iterdir() if file.name.endswith(".new")] == []


def test_a_missing_ledger_or_one_of_another_key_is_not_opened(ledger_path, ledger):
    with pytest.raises(NotSetUp):
        ledgers.reopen(ledger_path.with_name("absent.sqlite"))
    with pytest.raises(RecordDamaged):
        Ledger.open(ledger_path, origin=ledgers.ORIGIN, key=ledgers.key(2), clock=ledgers.clock)
    with pytest.raises(RecordDamaged):
        Ledger.open(ledger_path, origin="motet.example/ledger/berlin", key=ledgers.LEDGER_KEY, clock=ledgers.clock)


def test_a_closed_ledger_says_so(ledger_path):
    ledger = ledgers.create(ledger_path)
    ledger.close()
    ledger.close()
    with pytest.raises(InternalError):
        ledger.size()


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE leaf SET data = x'00' WHERE seq = 1",
        "DELETE FROM leaf WHERE seq = 1",
        "INSERT OR REPLACE INTO leaf VALUES (1, x'00', x'00')",
        "INSERT INTO leaf VALUES (99, x'00', x'00')",
    ],
)
def test_the_database_itself_refuses_to_change_an_entry(ledger_path, ledger, statement):
    connection = sqlite3.connect(ledger_path)
    with pytest.raises(sqlite3.IntegrityError, match="append-only"):
        connection.execute(statement)
    connection.close()


@pytest.mark.parametrize(
    "tamper",
    [
        "UPDATE leaf SET data = CAST(replace(CAST(data AS TEXT), '1795340123', '1795340124') AS BLOB) WHERE seq = 1",
        "DELETE FROM leaf WHERE seq = 2",
        "DELETE FROM leaf",
        "UPDATE leaf SET hash = x'00' WHERE seq = 0",
    ],
)
def test_tampering_behind_the_triggers_is_found_at_open(ledger_path, tamper):
    with ledgers.create(ledger_path) as ledger:
        ledgers.run_rounds(ledger, rounds=1)
    connection = sqlite3.connect(ledger_path, isolation_level=None)
    triggers = connection.execute("SELECT name, sql FROM sqlite_master WHERE type = 'trigger'").fetchall()
    for name, _ in triggers:
        connection.execute(f"DROP TRIGGER {name}")
    connection.execute(tamper)
    for _, sql in triggers:
        connection.execute(sql)
    connection.close()
    with pytest.raises(RecordDamaged):
        ledgers.reopen(ledger_path)


def test_missing_triggers_and_garbage_are_found_at_open(ledger_path, tmp_path):
    ledgers.create(ledger_path).close()
    connection = sqlite3.connect(ledger_path, isolation_level=None)
    connection.execute("DROP TRIGGER no_update")
    connection.close()
    with pytest.raises(RecordDamaged, match="tables"):
        ledgers.reopen(ledger_path)
    for name, content in (("empty", b""), ("garbage", b"garbage" * 1000)):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(RecordDamaged):
            ledgers.reopen(tmp_path / name)


def test_the_checkpoint_covers_exactly_the_entries(ledger):
    ledgers.run_rounds(ledger, rounds=3)
    text = note.verify(ledger.checkpoint(), keys=[note.parse_key(ledger.verify_key)])
    expected = merkle.root([merkle.leaf_hash(line) for line in ledger.entries()])
    assert note.parse_checkpoint(text) == note.Checkpoint(origin=ledgers.ORIGIN, size=ledger.size(), root=expected)


def in_child(work) -> int:
    """Run `work` in a child process; returns its wait status."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            work()
            status = 0
        finally:
            os._exit(status)
    return os.waitpid(child, 0)[1]


@pytest.mark.parametrize("statements", range(1, 61, 3))
def test_kill_at_any_statement_leaves_sent_within_released(ledger_path, tmp_path, statements):
    """SIGKILL just before the n-th SQL statement of a vault that reserves, releases, sends and commits."""
    with ledgers.create(ledger_path):
        pass
    sent = tmp_path / "sent"

    def work():
        ledger, left = ledgers.reopen(ledger_path), [statements]

        def countdown(_):
            left[0] -= 1
            if left[0] == 0:
                os.kill(os.getpid(), signal.SIGKILL)

        ledger._leaves._db.set_trace_callback(countdown)
        with sent.open("ab", buffering=0) as wire:
            for number in range(100):
                payload = os.urandom(8)
                receipt = asked(ledger, number=number, mechanism=share(noise="50"))
                ledger.release(receipt, sha256=hashlib.sha256(payload).hexdigest(), size_bytes=8)
                wire.write(f"{number} {hashlib.sha256(payload).hexdigest()}\n".encode())
                ledger.commit(receipt.reservation)

    assert os.WIFSIGNALED(in_child(work))
    with ledgers.reopen(ledger_path) as ledger:
        said = [events.decode(line) for line in ledger.entries()]
        released = {event.fields["id"]: event.fields["sha256"] for event in said if event.kind == Kind.RELEASE}
        reserved = {event.fields["id"] for event in said if event.kind == Kind.RESERVE}
        for line in sent.read_text().splitlines():
            number, digest = line.split()
            assert released[f"run/{number}/aalen"] == digest
        assert ledger.spent(delta=DELTA).releases_private == len(reserved)


def test_two_processes_at_the_limit_exactly_one_wins(ledger_path):
    single = share(noise="1", rate="1")
    cap = accounting.round_up(accounting.epsilon_rdp([single], delta=DELTA))
    ledgers.create(ledger_path).close()
    ready_read, ready_write = os.pipe()
    go_read, go_write = os.pipe()
    children = []
    for number in (1, 2):
        child = os.fork()
        if child == 0:
            status = 3
            try:
                ledger = ledgers.reopen(ledger_path)
                os.write(ready_write, b".")
                os.read(go_read, 1)
                asked(ledger, number=number, mechanism=single, epsilon_cap=cap)
                status = 0
            except BudgetExhausted:
                status = 1
            finally:
                os._exit(status)
        children.append(child)
    waiting = b""
    while len(waiting) < 2:
        waiting += os.read(ready_read, 2)
    os.write(go_write, b"..")
    statuses = sorted(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children)
    for descriptor in (ready_read, ready_write, go_read, go_write):
        os.close(descriptor)
    assert statuses == [0, 1]
    with ledgers.reopen(ledger_path) as ledger:
        assert ledger.spent(delta=DELTA).releases_private == 1
        assert ledger.spent(delta=DELTA).refusals == 1


def test_a_full_disk_raises_and_marks_nothing(ledger_path):
    """The kernel refuses every write beyond the file's size: nothing is released."""
    with ledgers.create(ledger_path) as ledger:
        asked(ledger, number=7)

    def work():
        ledger = Ledger.look(ledger_path, origin=ledgers.ORIGIN, key=ledgers.LEDGER_KEY, clock=ledgers.clock)
        ledger._leaves._db.execute("PRAGMA query_only = 0")
        receipt = asked(ledger, number=7)
        resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))
        for _ in range(2):
            try:
                ledger.release(receipt, sha256=SHA, size_bytes=5)
            except RecordUnwritable:
                continue
            os._exit(2)

    assert in_child(work) == 0
    with Ledger.look(ledger_path, origin=ledgers.ORIGIN, key=ledgers.LEDGER_KEY, clock=ledgers.clock) as reader:
        assert kinds(reader)[-1] == Kind.RESERVE


def test_a_read_only_ledger_raises_and_marks_nothing(ledger_path, ledger):
    receipt = asked(ledger)
    ledger._leaves._db.execute("PRAGMA query_only = 1")
    with pytest.raises(RecordUnwritable):
        ledger.release(receipt, sha256=SHA, size_bytes=5)
    assert kinds(ledger)[-1] == Kind.RESERVE
    ledger._leaves._db.execute("PRAGMA query_only = 0")
    ledger.release(receipt, sha256=SHA, size_bytes=5)
    assert kinds(ledger)[-1] == Kind.RELEASE


def test_entries_are_read_page_by_page_from_any_number_on(ledger_path, ledger, monkeypatch):
    for number in range(6):
        ledger.refuse(code="E-REFUSED", study=None, round_number=number)
    every = list(ledger.entries())
    monkeypatch.setattr("client.ledger.PAGE", 3)
    for start in range(len(every) + 1):
        assert list(ledger.entries(start=start)) == every[start:]
    reads = []
    real = Leaves.since

    def since(leaves, start, *, most=-1):
        reads.append(most)
        return real(leaves, start, most=most)

    monkeypatch.setattr(Leaves, "since", since)
    with ledgers.reopen(ledger_path) as again:
        assert (again.size(), again.checkpoint()) == (ledger.size(), ledger.checkpoint())
    assert set(reads) == {3}  # never the whole file at once


def test_a_clock_that_goes_back_is_accepted(tmp_path):
    ticks = iter([100, 50, 60, 10])
    with Ledger.create(tmp_path / "l", origin=ledgers.ORIGIN, key=ledgers.LEDGER_KEY, clock=lambda: next(ticks)) as ledger:
        for number in range(3):
            ledger.refuse(code="E-REFUSED", study=None, round_number=number)
        assert [events.decode(line).ts for line in ledger.entries()] == [100, 50, 60, 10]


def test_threads_share_one_ledger(ledger):
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda number: asked(ledger, number=number, mechanism=GRAM), range(40)))
    assert ledger.size() == 43
