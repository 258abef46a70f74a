"""The auditor's page in a real browser: in a narrow window a table scrolls, the page does not."""

import html
import os
import re
import shutil
import subprocess

import pytest

from common.audit import bundle, page, page_html, report, verify
from tests import ledgers

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
SWITCHES = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"),
    *("--disable-component-update", "--disable-sync", "--window-size=800,900", "--dump-dom"),
)
WIDTH = 420  # pixels
ASK = "onload=()=>{const d=f.contentDocument.documentElement;document.title=d.scrollWidth+' '+d.clientWidth}"

pytestmark = pytest.mark.skipif(BROWSER is None, reason="no Chromium is installed on this machine")


@pytest.mark.parametrize("language", page.LANGUAGES)
def test_a_narrow_window_does_not_scroll_sideways(language, tmp_path):
    with ledgers.create(tmp_path / "ledger.sqlite") as ledger:
        ledgers.run_rounds(ledger, rounds=1, mechanism=ledgers.GRAM, start=1)
        ledgers.run_rounds(ledger, rounds=2)
        ledgers.export(tmp_path / "aalen.zip", ledger)
    read = bundle.read(tmp_path / "aalen.zip")
    made = page_html.render(page.page(report.facts(read, verify.verify(read, roster_hash=None)), language=language))
    framed = f'<iframe id="f" width="{WIDTH}" srcdoc="{html.escape(made)}"></iframe><script>{ASK}</script>'
    (tmp_path / "framed.html").write_text(f'<!doctype html><meta charset="utf-8"><title></title>{framed}')
    command = [BROWSER, *SWITCHES, f"--user-data-dir={tmp_path / 'profile'}", (tmp_path / "framed.html").as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True, env={**os.environ, "DISPLAY": ""})
    (seen,) = re.findall(r"<title>(\d+) (\d+)</title>", done.stdout)
    needed, given = map(int, seen)
    assert WIDTH - 20 <= given <= WIDTH  # the rest is the scroll bar's
    assert needed == given
