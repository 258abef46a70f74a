"""Starting and ending children: a signal that falls into a start is kept until the child is noted."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from common.processes import end, uninterrupted


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_within_a_start_comes_after_the_child_is_noted(number):
    heard: list[int] = []
    before = signal.signal(number, lambda got, _: heard.append(got))
    children = []
    try:
        with uninterrupted():
            signal.raise_signal(number)
            children.append(subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"], start_new_session=True))
            assert heard == []
        assert heard == [number]
        assert signal.getsignal(number) is not before
    finally:
        signal.signal(number, before)
    end(children[0])
    assert children[0].returncode == -signal.SIGTERM  # the child does not inherit what was kept


def test_keyboard_interrupt_is_raised_once_the_block_ends():
    noted = []

    def start():
        with uninterrupted():
            signal.raise_signal(signal.SIGINT)
            noted.append("child")

    with pytest.raises(KeyboardInterrupt):
        start()
    assert noted == ["child"]


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a child of its parent's death")
def test_a_child_ends_when_its_parent_is_killed():
    child = "import subprocess, sys, time; from common.processes import end_with_parent\n"
    child += "one = subprocess.Popen(['sleep', '60'], preexec_fn=end_with_parent, start_new_session=True)\n"
    child += "print(one.pid, flush=True); time.sleep(60)"
    parent = subprocess.Popen([sys.executable, "-c", child], stdout=subprocess.PIPE)
    pid = int(parent.stdout.readline())
    assert Path(f"/proc/{pid}/stat").exists()
    parent.kill()
    parent.communicate()
    until = time.monotonic() + 5
    while Path(f"/proc/{pid}/cmdline").exists() and Path(f"/proc/{pid}/cmdline").read_bytes() and time.monotonic() < until:
        time.sleep(0.02)
    assert not Path(f"/proc/{pid}/cmdline").exists() or not Path(f"/proc/{pid}/cmdline").read_bytes()
