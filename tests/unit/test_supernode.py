"""The relay's child: a SuperNode that ends, or says that it does and stays, is started again."""

import sys
import threading
import time

import pytest

from client import relay, supernode

SAYS_SO_AND_STAYS = """#!{python}
import pathlib, sys, time
pathlib.Path({count!r}).open("a").write("x")
print("INFO : SuperNode terminated gracefully.", file=sys.stderr, flush=True)
time.sleep(600)
"""
ENDS = """#!{python}
import pathlib, sys
pathlib.Path({count!r}).open("a").write("x")
print("[code: 2004]" if {refused} else "a fault", file=sys.stderr)
sys.exit(3)
"""


@pytest.fixture
def standing_in(tmp_path, monkeypatch):
    """Run a script in the place of Flower's program; return how often it was started within so many seconds."""
    home = relay.create(tmp_path / "relay", name="hosp-a", socket=tmp_path)
    monkeypatch.setattr(supernode, "AGAIN_S", 0.1)
    monkeypatch.setattr(supernode, "LEAVES_S", 0.5)

    def starts(text, *, seconds, **facts):
        script, count = tmp_path / "flower-supernode", tmp_path / "count"
        script.write_text(text.format(python=sys.executable, count=str(count), **facts))
        script.chmod(0o755)
        monkeypatch.setattr(supernode, "program", lambda _: script)
        stop = threading.Event()
        where = {"superlink": "127.0.0.1:1", "lane": "127.0.0.1:2", "ca": tmp_path / "ca.crt"}
        until = time.monotonic() + seconds

        def counted():  # `run` takes signals, so it is the main thread's
            while time.monotonic() < until and len(count.read_text() if count.exists() else "") < 3:
                time.sleep(0.05)
            stop.set()

        watching = threading.Thread(target=counted)
        watching.start()
        supernode.run(home, **where, stop=stop)
        watching.join()
        return len(count.read_text())

    return starts


def test_a_supernode_that_says_its_last_words_and_stays_is_ended_and_started_again(standing_in, capfd):
    assert standing_in(SAYS_SO_AND_STAYS, seconds=30) >= 3
    assert "terminated gracefully" in capfd.readouterr().err  # what it says is in our log


@pytest.mark.parametrize("refused", [True, False])
def test_a_supernode_that_ends_is_started_again_and_why_is_said(standing_in, refused, caplog):
    assert standing_in(ENDS, seconds=30, refused=refused) >= 3
    assert (supernode.NOT_LET_IN in caplog.text) is refused
    assert ("it is started again" in caplog.text) is not refused
