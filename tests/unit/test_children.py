"""The demo's children are ended in an order in which each can still sign off."""

import os
import signal
import threading

import pytest
from rich.console import Console

from deploy.demo.children import children

SUPERLINK = """
import pathlib, signal, sys, time

def leave(*_):
    pathlib.Path(sys.argv[1]).unlink(missing_ok=True)
    sys.exit(0)

signal.signal(signal.SIGTERM, leave)
pathlib.Path(sys.argv[1]).touch()
print("up", flush=True)
time.sleep(60)
"""
RELAY = """
import pathlib, signal, sys, time

def leave(*_):
    time.sleep(0.3)  # a SuperLink that was told at the same time is gone by now
    print("signed off" if pathlib.Path(sys.argv[1]).exists() else "nobody answers", flush=True)
    sys.exit(0)

signal.signal(signal.SIGTERM, leave)
print("up", flush=True)
time.sleep(60)
"""
RELAYS = ("hosp-a-relay", "hosp-b-relay")


def started(running, answers):
    running.start("superlink", "python", "-c", SUPERLINK, answers)
    for name in RELAYS:
        running.start(name, "python", "-c", RELAY, answers)
    for name in ("superlink", *RELAYS):
        running.wait_for(name, "up", timeout_s=30)


def all_signed_off(running, answers):
    assert [running.said(name).splitlines()[-1] for name in RELAYS] == ["signed off"] * 2
    assert all(child.returncode is not None for child in running.running.values())
    assert not answers.exists()


def test_relays_end_while_the_superlink_still_answers(tmp_path):
    with children(tmp_path, console=Console(quiet=True)) as running:
        started(running, tmp_path / "answers")
    all_signed_off(running, tmp_path / "answers")


def test_an_interruption_ends_them_in_the_same_order(tmp_path):
    kept = []

    def interrupted():
        with children(tmp_path, console=Console(quiet=True)) as running:
            kept.append(running)
            started(running, tmp_path / "answers")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    all_signed_off(kept[0], tmp_path / "answers")


def test_a_second_interruption_leaves_nobody_behind(tmp_path):
    kept = []

    def interrupted():
        with children(tmp_path, console=Console(quiet=True)) as running:
            kept.append(running)
            started(running, tmp_path / "answers")
            threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGINT)).start()  # while the relays still sign off
            raise KeyboardInterrupt

    try:
        with pytest.raises(KeyboardInterrupt):
            interrupted()
        all_signed_off(kept[0], tmp_path / "answers")
    finally:
        kept[0].end_all()
