"""Locks: one holder at a time, released when it ends however it ends."""

import signal
import subprocess
import sys
import threading

import pytest

from common.errors import AlreadyRunning, ConfigError, NotSetUp
from common.locks import held, hold

HOLD = """
import pathlib, sys, time
from common.locks import hold
with hold(pathlib.Path(sys.argv[1]), busy="x"):
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_second_holder_is_refused_with_the_given_sentence(tmp_path):
    path = tmp_path / "lock"
    assert not held(path)
    with hold(path, busy="A vault runs."):
        assert held(path)
        with pytest.raises(AlreadyRunning, match="A vault runs"), hold(path, busy="A vault runs."):
            pytest.fail("two holders")
    assert not held(path)


def test_a_lock_that_cannot_be_written_is_not_said_to_be_missing(tmp_path):
    with pytest.raises(NotSetUp), hold(tmp_path / "none" / "lock", busy="x"):
        pytest.fail("held")
    with pytest.raises(ConfigError, match="cannot be written") as wrong, hold(tmp_path, busy="x"):
        pytest.fail("held")
    assert not isinstance(wrong.value, NotSetUp)


def test_a_lock_is_released_when_its_holder_raises(tmp_path):
    path = tmp_path / "lock"
    with pytest.raises(KeyError), hold(path, busy="x"):
        raise KeyError
    with hold(path, busy="x"):
        assert held(path)


def test_a_lock_is_released_when_its_holder_is_killed(tmp_path):
    path = tmp_path / "lock"
    with subprocess.Popen([sys.executable, "-c", HOLD, str(path)], stdout=subprocess.PIPE) as child:
        assert child.stdout.readline() == b"held\n"
        assert held(path)
        child.send_signal(signal.SIGKILL)
        child.wait(10)
    assert not held(path)


def test_a_lock_in_a_folder_that_is_not_there_is_a_missing_set_up(tmp_path):
    path = tmp_path / "none" / "lock"
    with pytest.raises(NotSetUp, match="init"), hold(path, busy="x"):
        pytest.fail("held")
    assert not held(path)


def test_whoever_asks_all_the_time_does_not_keep_the_holder_out(tmp_path):
    path, done = tmp_path / "lock", threading.Event()
    path.touch()

    def ask():
        while not done.is_set():
            held(path)

    asking = [threading.Thread(target=ask) for _ in range(2)]
    for one in asking:
        one.start()
    try:
        for _ in range(300):
            with hold(path, busy="asked"):
                pass
    finally:
        done.set()
        for one in asking:
            one.join()


def test_asking_leaves_nothing_behind(tmp_path):
    assert not held(tmp_path / "lock")
    assert not (tmp_path / "lock").exists()
