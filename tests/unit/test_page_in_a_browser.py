"""The page in a real browser: its script may run, no other may, and hospitals, rounds and epsilon are shown."""

import os
import re
import shutil
import subprocess
import threading

import pytest

from server import glance, page
from tests import journals

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
SWITCHES = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"),
    *("--disable-component-update", "--disable-sync", "--window-size=400,900"),
)

pytestmark = pytest.mark.skipif(BROWSER is None, reason="no Chromium is installed on this machine")


def dom(url, profile, *more):
    """The document as the browser holds it after its scripts ran."""
    command = [BROWSER, *SWITCHES, f"--user-data-dir={profile}", *more, "--dump-dom", url]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True, env={**os.environ, "DISPLAY": ""})
    return done.stdout


def row(text, name):
    """The cells of the table row that begins with `name`, without tags."""
    (found,) = [one for one in re.findall(r"<tr>.*?</tr>", text, re.DOTALL) if f'<th scope="row">{name}</th>' in one]
    return [re.sub(r"<[^>]*>", "", cell).strip() for cell in re.findall(r"<t[hd].*?</t[hd]>", found, re.DOTALL)]


def test_a_browser_shows_hospitals_rounds_and_epsilon_and_follows_the_run(make_federation, tmp_path):
    folder, _, result = journals.run(make_federation(), title="<script>document.title='taken'</script>")
    home = journals.coordinator(tmp_path / "hub", run=folder)
    journal = home.runs / "0123456789abcdef" / "journal.jsonl"
    lines = journal.read_bytes().splitlines(keepends=True)
    rounds = [at for at, line in enumerate(lines) if b'"type": "round"' in line]
    journal.write_bytes(b"".join(lines[: rounds[3] + 1]))
    stop, ready, ports = threading.Event(), threading.Event(), []
    look = glance.newest(home, run=None)

    def started(port):
        ports.append(port)
        ready.set()

    def looked():
        state = look()
        journal.write_bytes(b"".join(lines))  # from the second look on, the run is done
        return state

    thread = threading.Thread(target=page.serve, args=(looked,), kwargs={"port": 0, "ready": started, "stop": stop})
    thread.start()
    try:
        assert ready.wait(10)
        url = f"http://127.0.0.1:{ports[0]}/"
        text = dom(url, tmp_path / "profile", "--virtual-time-budget=5000")  # the page's own clock runs on: it asks again
    finally:
        stop.set()
        thread.join()
    assert "<title>&lt;script&gt;" in text
    assert "step 5 of 5" in text
    assert "7 opened" in text
    assert "1 void" in text
    for name, told in result["hospital_epsilon"].items():
        cells = row(text, name)
        assert float(cells[3]) == pytest.approx(float(told["epsilon"]), rel=0.2)  # PLD there, Renyi here
        assert cells[4:6] == [str(told["private_releases"]), str(told["exact_releases"])]
    assert "E-LATE" in text
    assert 'id="rounds-title"' in text
    assert 'id="auc-title"' in text
    assert 'class="lost"' not in text
