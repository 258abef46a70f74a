"""Starting and ending children: a signal that falls into a start is kept until the child is noted."""

import signal
import subprocess
import sys

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
