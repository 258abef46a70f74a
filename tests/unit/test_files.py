"""Files: whole or absent, private from the first byte, never overwritten by accident."""

import os
import resource
import signal
import stat

import pytest

from common import files
from common.errors import AlreadyExists


@pytest.fixture(params=[0o000, 0o077, 0o022], ids=oct)
def umask(request):
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


def mode(path):
    return stat.S_IMODE(path.stat().st_mode)


@pytest.mark.parametrize("write", [files.write, files.write_new])
def test_a_private_file_is_for_its_owner_under_any_umask(write, umask, tmp_path):
    write(tmp_path / "key", b"secret", private=True)
    assert mode(tmp_path / "key") == 0o600


@pytest.mark.parametrize("write", [files.write, files.write_new])
def test_a_public_file_can_be_changed_by_its_owner_only(write, umask, tmp_path):
    write(tmp_path / "file", b"public")
    assert mode(tmp_path / "file") == 0o644 & ~umask


def test_a_private_file_replaces_a_public_one_and_is_private(umask, tmp_path):
    (tmp_path / "key").write_bytes(b"old")
    (tmp_path / "key").chmod(0o644)
    files.write(tmp_path / "key", b"new", private=True)
    assert mode(tmp_path / "key") == 0o600


def test_a_file_is_replaced_and_nothing_is_left_beside_it(tmp_path):
    for data in (b"", b"one", b"\0" * 100_000, b"two"):
        files.write(tmp_path / "file", data)
        assert (tmp_path / "file").read_bytes() == data
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.fixture
def full():
    """A disk that takes a thousand bytes of a file."""
    handler, before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN), resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)
    signal.signal(signal.SIGXFSZ, handler)


@pytest.mark.parametrize("write", [files.write, files.write_new])
def test_a_full_disk_leaves_no_half_of_a_file(write, full, tmp_path):
    with pytest.raises(OSError, match="File too large"):
        write(tmp_path / "file", bytes(5000))
    assert list(tmp_path.iterdir()) == []


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(tmp_path):
    files.write(tmp_path / "file", b"old")
    with pytest.raises(TypeError):
        files.write(tmp_path / "file", "not bytes")
    with pytest.raises(OSError):
        files.write(tmp_path / "none" / "file", b"new")
    (tmp_path / "folder").mkdir()
    with pytest.raises(OSError):
        files.write(tmp_path / "folder", b"new")
    assert (tmp_path / "file").read_bytes() == b"old"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder"]


def test_a_link_is_replaced_and_what_it_points_to_is_not_touched(tmp_path):
    (tmp_path / "other").write_bytes(b"other")
    (tmp_path / "file").symlink_to("other")
    files.write(tmp_path / "file", b"new", private=True)
    assert not (tmp_path / "file").is_symlink()
    assert (tmp_path / "other").read_bytes() == b"other"


@pytest.mark.parametrize("there", ["file", "folder", "link"])
def test_a_new_file_never_replaces_what_is_there(there, tmp_path):
    (tmp_path / "file").write_bytes(b"old")
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to("nowhere")
    with pytest.raises(AlreadyExists, match="exists already"):
        files.write_new(tmp_path / there, b"new", private=True)
    assert (tmp_path / "file").read_bytes() == b"old"
    assert not (tmp_path / "nowhere").exists()


def test_files_written_together_are_replaced_whole_and_in_order(umask, tmp_path):
    first, second = tmp_path / "reply", tmp_path / "state"
    for data in (b"", b"one", os.urandom(100_000)):
        files.write_together({first: data, second: data[::-1]}, private=True)
        assert (first.read_bytes(), second.read_bytes()) == (data, data[::-1])
        assert {mode(first), mode(second)} == {0o600}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["reply", "state"]
    before = second.stat().st_ino
    files.write_together({first: b"new"})
    assert (first.read_bytes(), second.stat().st_ino) == (b"new", before)


def test_files_written_together_are_all_left_alone_when_one_cannot_be_written(tmp_path):
    files.write(tmp_path / "reply", b"old")
    with pytest.raises(TypeError):
        files.write_together({tmp_path / "reply": b"new", tmp_path / "state": "not bytes"})
    with pytest.raises(ValueError):
        files.write_together({tmp_path / "reply": b"new", tmp_path / "none" / "state": b"new"})
    with pytest.raises(OSError):
        files.write_together({tmp_path / "none" / "reply": b"new", tmp_path / "none" / "state": b"new"})
    assert (tmp_path / "reply").read_bytes() == b"old"
    assert [path.name for path in tmp_path.iterdir()] == ["reply"]
