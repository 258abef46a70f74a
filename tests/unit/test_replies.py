"""Claims about kept replies: they do not pile up, and none goes that a coordinator may still ask for."""

import os
import time
from dataclasses import replace

import pytest

from client import replies, session
from client.replies import CLOSED_DAYS, DAY_S, OPEN_DAYS
from client.session import Session
from tests import federation

NOW = 2e9
OPEN = Session(run="0", study="s", roster="r", pair_keys={"b": b"k" * 32}, pair_rounds={"b": 3}, last_round=2)


def keep(folder, run, *, days, closed, state=True):
    """A run with three replies that was touched so many days before NOW."""
    one = replace(OPEN, run=run)
    for label in ("invite", "keys", "1"):
        one.save_with(folder, reply=b"x", label=label)
    if closed:
        one.erased().save(folder)
    if not state:
        session.state_path(folder, run=run).unlink()
    for path in folder.glob(f"{run}*"):
        os.utime(path, (NOW - days * DAY_S,) * 2)


def left(folder):
    return {path.name.partition("-")[0] for path in folder.glob("*.reply")}


def test_replies_go_when_their_run_is_over_for_good_and_no_sooner(tmp_path):
    keep(tmp_path, "justclosed", days=CLOSED_DAYS - 1, closed=True)
    keep(tmp_path, "longclosed", days=CLOSED_DAYS + 1, closed=True)
    keep(tmp_path, "underway", days=OPEN_DAYS - 1, closed=False)
    keep(tmp_path, "given0up", days=OPEN_DAYS + 1, closed=False)
    keep(tmp_path, "stateless", days=CLOSED_DAYS + 1, closed=False, state=False)
    keep(tmp_path, "oldstateless", days=OPEN_DAYS + 1, closed=False, state=False)
    (tmp_path / "exact.json").write_text("{}")
    assert replies.clear(tmp_path, now=NOW, last=None) == 9
    assert left(tmp_path) == {"justclosed", "underway", "stateless"}
    states = {path.name for path in tmp_path.glob("*.run.json")}
    assert states == {f"{name}.run.json" for name in ("justclosed", "longclosed", "underway", "given0up")}
    assert (tmp_path / "exact.json").exists()
    assert replies.clear(tmp_path, now=NOW, last=None) == 0


def test_an_early_reply_stays_as_long_as_its_run_is_answered(tmp_path):
    keep(tmp_path, "long", days=OPEN_DAYS + 30, closed=False)
    replace(OPEN, run="long").save_with(tmp_path, reply=b"y", label="2")
    os.utime(session.state_path(tmp_path, run="long"), (NOW, NOW))
    assert replies.clear(tmp_path, now=NOW, last=None) == 0
    assert (tmp_path / "long-1.reply").exists()


def test_a_wrong_clock_leaves_the_run_that_was_charged_last_until_it_is_closed(tmp_path):
    keep(
        tmp_path, "underway", days=20_000, closed=False
    )  # answered at boot, before the clock was set; or the clock is ahead now
    keep(tmp_path, "given0up", days=20_000, closed=False)
    assert replies.clear(tmp_path, now=NOW, last="underway") == 3
    assert left(tmp_path) == {"underway"}
    keep(tmp_path, "underway", days=CLOSED_DAYS + 1, closed=True)
    assert replies.clear(tmp_path, now=NOW, last="underway") == 3


def test_a_state_that_cannot_be_read_or_a_strange_name_stops_nothing(tmp_path):
    keep(tmp_path, "broken", days=CLOSED_DAYS + 1, closed=True)
    state = session.state_path(tmp_path, run="broken")
    state.write_bytes(b"{")
    os.utime(state, (NOW - (CLOSED_DAYS + 1) * DAY_S,) * 2)
    (tmp_path / "UPPER-1.reply").write_bytes(b"x")
    keep(tmp_path, "gone", days=CLOSED_DAYS + 1, closed=True)
    assert replies.clear(tmp_path, now=NOW, last=None) == 3
    assert left(tmp_path) == {"broken", "UPPER"}


@pytest.fixture
def ended(make_federation):
    one, wanted = make_federation(exact_releases_max=4), federation.study()
    one.approve(wanted)
    asked = []

    def before(name, data):
        asked.append((name, data))
        return data

    one.before = before
    one.go_on(wanted, run="first", folder=one.folder / "first")
    return one, wanted, asked


def test_a_vault_clears_at_its_start_and_when_a_new_run_comes(ended):
    one, wanted, _ = ended
    homes = [home.state for home in one.homes.values()]
    assert all(left(state) == {"first"} for state in homes)
    ago = time.time() - (CLOSED_DAYS + 1) * DAY_S
    for state in homes:
        os.utime(session.state_path(state, run="first"), (ago, ago))
    one.restart("hosp-a")
    assert [left(state) for state in homes] == [set(), *[{"first"}] * (len(homes) - 1)]
    one.go_on(wanted, run="second", folder=one.folder / "second")
    assert {vault.ledger.last_run() for vault in one.vaults.values()} == {"second"}
    assert all(left(state) == {"second"} for state in homes)


def test_what_was_cleared_is_refused_and_not_answered_anew(ended):
    one, wanted, requests = ended
    state = one.homes["hosp-a"].state
    before = one.vaults["hosp-a"].ledger.spent(delta=wanted.privacy.delta).epsilon_rdp
    asked = next(data for name, data in requests if name == "hosp-a" and federation.kind(data) == "announce")
    again = one.answer("hosp-a", asked)
    assert federation.kind(again) == "upload"
    for path in state.glob("*.reply"):
        path.unlink()
    assert federation.kind(one.answer("hosp-a", asked)) == "refusal"
    assert one.vaults["hosp-a"].ledger.spent(delta=wanted.privacy.delta).epsilon_rdp == before
