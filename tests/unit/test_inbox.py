"""Claims about the inbox: whole files only, named by content, nothing replaced; and about folders that are watched."""

import errno
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from pynetdicom.ae import ApplicationEntity as AE

from client.sources.folder import Watch
from client.sources.inbox import OBJECT_BYTES_MOST, REMAINS_S, Inbox, Put, Tally
from client.sources.network import Tls, context
from client.sources.wanted import wanted
from client.sources.web import parts
from common.errors import ConfigError, PullFailed

RECEIVE = "from client.sources import cli as pulls; pulls.TELL_S = 0.5; from client.cli import main; main()"
OBJECT = bytes(128) + b"DICM" + b"what a scanner wrote"


def names(inbox: Inbox) -> list[str]:
    return sorted(str(path.relative_to(inbox.scans)) for path in inbox.scans.rglob("*") if path.is_file())


def test_an_object_appears_whole_once_and_under_a_name_that_it_did_not_choose(tmp_path: Path) -> None:
    inbox = Inbox(tmp_path)
    assert [inbox.put(OBJECT), inbox.put(OBJECT), inbox.put(OBJECT + b"2")] == [Put.STORED, Put.AGAIN, Put.STORED]
    assert len(names(inbox)) == 2
    for path in inbox.scans.rglob("*.dcm"):
        assert path.read_bytes().startswith(OBJECT)
        assert path.stat().st_mode & 0o007 == 0
        assert len(path.stem) == 32
    assert not list(inbox.unfinished.iterdir())


def test_what_is_no_dicom_file_too_large_or_too_much_for_the_disk_is_not_kept(tmp_path: Path) -> None:
    inbox = Inbox(tmp_path)
    assert inbox.put(b"") == Put.NOT_DICOM
    assert inbox.put(b"<html>" * 100) == Put.NOT_DICOM
    assert inbox.put(OBJECT + bytes(OBJECT_BYTES_MOST)) == Put.TOO_LARGE
    assert Inbox(tmp_path, free_bytes_least=1 << 60).put(OBJECT) == Put.DISK_FULL
    assert names(inbox) == []


def test_what_a_killed_receiver_left_unfinished_is_never_seen_and_cleared_away(tmp_path: Path) -> None:
    inbox = Inbox(tmp_path)
    (inbox.unfinished / "half").write_bytes(OBJECT[:140])
    assert names(inbox) == []
    an_hour_ago = time.time() - REMAINS_S - 1
    os.utime(inbox.unfinished / "half", (an_hour_ago, an_hour_ago))
    assert list(Inbox(tmp_path).unfinished.iterdir()) == []


def test_a_second_process_that_opens_the_inbox_takes_away_nothing_that_the_first_still_writes(tmp_path: Path) -> None:
    inbox = Inbox(tmp_path)
    (inbox.unfinished / "at-work").write_bytes(OBJECT[:140])
    Inbox(tmp_path)
    assert (inbox.unfinished / "at-work").exists()


def test_an_inbox_that_cannot_be_used_says_so(tmp_path: Path) -> None:
    (tmp_path / "scans").write_text("a file")
    with pytest.raises(ConfigError, match="inbox"):
        Inbox(tmp_path)


def test_two_threads_may_put_the_same_object(tmp_path: Path) -> None:
    inbox, tally = Inbox(tmp_path), Tally.empty()
    threads = [
        threading.Thread(target=lambda n=n: [tally.add(inbox.put(OBJECT + bytes([i]))) for i in range(n, n + 20)])
        for n in (0, 10)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(names(inbox)) == 30
    assert sum(tally.counts.values()) == 40


def test_a_watched_file_is_taken_once_when_it_has_settled_and_again_when_it_changes(tmp_path: Path) -> None:
    source, inbox = tmp_path / "export", Inbox(tmp_path / "in")
    (source / "study").mkdir(parents=True)
    watch = Watch(source, inbox, settled_s=10)
    growing = source / "study" / "a.dcm"
    growing.write_bytes(OBJECT[:135])
    watch.look(now=0)
    growing.write_bytes(OBJECT)
    watch.look(now=9)
    watch.look(now=15)
    assert watch.tally.counts == {}
    watch.look(now=19)
    watch.look(now=40)
    assert watch.tally.counts == {"STORED": 1}
    growing.write_bytes(OBJECT + b"more")
    watch.look(now=50)
    watch.look(now=61)
    assert watch.tally.counts == {"STORED": 2}


def test_links_pipes_and_other_files_of_a_watched_folder_do_no_harm(tmp_path: Path) -> None:
    source, inbox = tmp_path / "export", Inbox(tmp_path / "in")
    source.mkdir()
    (tmp_path / "secret.dcm").write_bytes(OBJECT)
    (source / "link.dcm").symlink_to(tmp_path / "secret.dcm")
    (source / "up").symlink_to(tmp_path)
    os.mkfifo(source / "pipe")
    (source / "text").write_text("no scan")
    watch = Watch(source, inbox, settled_s=0)
    for now in range(3):
        watch.look(now=now)
    assert watch.tally.counts == {"NOT_DICOM": 1}
    assert names(inbox) == []


def test_what_cannot_be_read_is_counted_and_tried_again_when_it_can(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, inbox = tmp_path / "export", Inbox(tmp_path / "in")
    source.mkdir()
    (source / "a.dcm").write_bytes(OBJECT)
    watch = Watch(source, inbox, settled_s=0)
    opened = os.open

    def refusing(path: Any, *rest: Any, **more: Any) -> int:
        if str(path).endswith("a.dcm"):
            raise PermissionError(13, "Permission denied", str(path))
        return opened(path, *rest, **more)

    with monkeypatch.context() as patch:  # root may read everything
        patch.setattr(os, "open", refusing)
        for now in range(4):
            watch.look(now=now)
    assert watch.tally.counts == {"UNREADABLE": 1}
    (source / "a.dcm").chmod(0o640)
    for now in range(4, 7):
        watch.look(now=now)
    assert watch.tally.counts == {"UNREADABLE": 1, "STORED": 1}
    for _ in range(2):
        watch._cannot_open(PermissionError(13, "Permission denied", "closed"))
        watch._cannot_open(FileNotFoundError(2, "No such file", "gone"))
    assert watch.tally.counts["UNREADABLE"] == 2


def test_a_disk_that_is_full_and_a_folder_that_refuses_are_told_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    inbox = Inbox(tmp_path / "in")
    for number, expected in ((errno.ENOSPC, Put.DISK_FULL), (errno.EACCES, Put.NOT_WRITTEN), (errno.EROFS, Put.NOT_WRITTEN)):

        def refusing(_descriptor: int, number: int = number) -> None:
            raise OSError(number, os.strerror(number))

        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", refusing)
            assert inbox.put(OBJECT) == expected
    assert names(inbox) == []
    assert list(inbox.unfinished.iterdir()) == []


def test_once_takes_what_is_there_and_gives_up_what_never_settles(tmp_path: Path) -> None:
    source, inbox = tmp_path / "export", Inbox(tmp_path / "in")
    source.mkdir()
    for number in range(3):
        (source / f"{number}.dcm").write_bytes(OBJECT + bytes([number]))
    watch, now = Watch(source, inbox, settled_s=1), iter(range(1000))

    def clock() -> float:
        (source / "2.dcm").write_bytes(OBJECT + os.urandom(8))
        return float(next(now))

    watch.once(threading.Event(), every_s=0, clock=clock)
    assert watch.tally.counts == {"STORED": 2, "NOT_SETTLED": 1}
    watch = Watch(source, inbox, settled_s=0)
    watch.once(threading.Event(), every_s=0, clock=lambda: 0.0)
    assert watch.tally.counts == {"AGAIN": 2, "STORED": 1}
    stop, watch = threading.Event(), Watch(source, inbox, settled_s=1)
    stop.set()  # Ctrl-C before anything has settled: what is left is not passed over in silence
    watch.once(stop, every_s=0, clock=lambda: 0.0)
    assert watch.tally.counts == {"NOT_SETTLED": 3}


def body(*objects: bytes, boundary: bytes = b"mark", end: bytes = b"--\r\n") -> bytes:
    head = b"\r\nContent-Type: application/dicom\r\n\r\n"
    return b"".join(b"--" + boundary + head + one + b"\r\n" for one in objects) + b"--" + boundary + end


@pytest.mark.parametrize("size", [1, 2, 3, 7, 64, 10_000])
@pytest.mark.parametrize("preamble", [b"", b"\r\n", b"ignored\r\n"])
def test_a_multipart_answer_comes_apart_whatever_the_pieces(size: int, preamble: bytes) -> None:
    objects = [OBJECT, b"", b"\r\n--mar" * 20, bytes(300)]
    whole = preamble + body(*objects)
    assert list(parts((whole[i : i + size] for i in range(0, len(whole), size)), boundary=b"mark")) == objects


@pytest.mark.parametrize(
    "spoiled", [b"", b"nothing", body(OBJECT, end=b""), body(OBJECT)[:100], b"--mark\r\nno head\r\n--mark--"]
)
def test_a_multipart_answer_that_is_cut_or_malformed_is_an_error(spoiled: bytes) -> None:
    with pytest.raises(PullFailed):
        list(parts(iter([spoiled]), boundary=b"mark"))


def test_studies_come_from_a_file_or_from_dates_and_nothing_else(tmp_path: Path) -> None:
    named = tmp_path / "studies.txt"
    named.write_text("1.2.3\n\n1.2.4\n1.2.3\n")
    assert wanted(studies=named, dates=None, modalities=["CT"]).studies == ("1.2.3", "1.2.4")
    for spoiled in ("", "Doe^Jane\n", "1.2.3\n1..2\n", "../../etc\n"):
        named.write_text(spoiled)
        with pytest.raises(ConfigError) as error:
            wanted(studies=named, dates=None, modalities=["CT"])
        assert "Doe" not in str(error.value)
    for studies, dates, modalities in (
        (named, "20260101-20260102", ["CT"]),
        (None, None, ["CT"]),
        (None, "2026", ["CT"]),
        (None, "20260101-20260102", ["*"]),
    ):
        with pytest.raises(ConfigError):
            wanted(studies=studies, dates=dates, modalities=modalities)


def test_a_receiver_says_where_it_listens_as_whom_and_once_a_minute_what_came(tmp_path: Path) -> None:
    call = [sys.executable, "-c", RECEIVE, "receive", "--inbox", str(tmp_path), "--aet", "MOTET", "--allow", "PACS", "--plain"]
    with subprocess.Popen([*call, "--port", "0", "--json"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as run:
        try:
            assert run.stdout is not None
            assert run.stderr is not None
            heard = run.stderr.readline()
            assert re.fullmatch(r"receiving as MOTET on 127\.0\.0\.1:\d+\n", heard)
            caller = AE("STRANGER")
            caller.add_requested_context("1.2.840.10008.1.1")
            assert caller.associate("127.0.0.1", int(heard.rsplit(":", 1)[1]), ae_title="MOTET").is_rejected
            lines = [json.loads(run.stderr.readline()) for _ in range(2)]
            assert [line["event"] for line in lines] == ["association-rejected", "so-far"]
            assert (lines[1]["state"], lines[1]["objects"]) == ("REJECTED", 1)
            run.send_signal(signal.SIGTERM)
            assert json.loads(run.stdout.read()) == {"counts": {"REJECTED": 1}}  # with --json nothing else is on stdout
            assert run.wait(timeout=20) == 0
        finally:
            run.kill()


def test_the_tls_file_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    (tmp_path / "junk").write_text("no certificate")
    absent = Tls(certificate=tmp_path / "absent", key=tmp_path / "junk", ca=tmp_path / "junk")
    with pytest.raises(ConfigError, match=r"--certificate with --key cannot be used \(No such file"):
        context(absent, serving=True)
    with pytest.raises(ConfigError, match="no matching PEM"):
        context(Tls(certificate=tmp_path / "junk", key=tmp_path / "junk", ca=tmp_path / "junk"), serving=True)
