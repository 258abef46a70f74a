"""A vault that is away: out of new rounds until its relay says that it answers, waited for by exact sums, asked seldom."""

import threading
import time

import pytest

from client import lane as relay_end
from common.lane import VAULT_AWAY
from tests import federation, lanes

NAMES = ("hosp-a", "hosp-b")


@pytest.fixture
def laned(tmp_path):
    signed, homes = lanes.certified(tmp_path / "l", NAMES)
    lane = lanes.listening(tmp_path / "l", signed)
    yield lane, {name: lanes.where(tmp_path / "l", home, port=lane.port) for name, home in homes.items()}
    lane.close()


def test_a_hospital_whose_vault_is_away_is_present_again_when_the_vault_is(laned):
    lane, where = laned
    there = threading.Event()

    def ask(data):
        return data if there.is_set() else VAULT_AWAY

    relays = [
        threading.Thread(
            target=relay_end.carry, args=(where["hosp-a"],),
            kwargs={"run": lanes.RUN, "patience_s": 20.0, "ask": ask, "there": there.is_set}, daemon=True,
        ),
        lanes.Carrying(where["hosp-b"], ask=lambda data: data),
    ]  # fmt: skip
    relays[0].start()
    lanes.until(lambda: lane.present() == frozenset(NAMES))
    assert lanes.wave(lane, dict.fromkeys(NAMES, b"one")).failed == {"hosp-a": VAULT_AWAY}
    assert lane.present() == {"hosp-b"}
    time.sleep(2.5)  # beats come, and say that it is away still
    assert lane.present() == {"hosp-b"}
    there.set()
    lanes.until(lambda: lane.present() == frozenset(NAMES), within_s=4)
    assert lanes.wave(lane, dict.fromkeys(NAMES, b"two")).came == dict.fromkeys(NAMES, b"two")


def test_a_hospital_that_misses_again_and_again_costs_few_rounds(make_federation):
    one, wanted = make_federation(), federation.study(training={"steps": 8}, patience_s=60)
    one.approve(wanted)
    one.before = lambda name, data: VAULT_AWAY if name == "hosp-b" and federation.kind(data) == "announce" and many() else data
    seen = []

    def many():
        seen.append(1)
        return len(seen) > 1  # the Gram is answered

    rounds = one.run(wanted)["rounds"]
    void = [told["round"] for told in rounds if told["state"] == "void" and told["task"] == "train"]
    assert void == [2, 5]  # the third time comes much later
    assert sum(told["task"] == "train" and told["state"] == "opened" for told in rounds) == 8


def test_a_sum_that_needs_everybody_waits_for_a_vault_that_restarts(make_federation):
    one, wanted = make_federation(), federation.study(patience_s=30)
    one.approve(wanted)
    back = [0.0]

    def before(name, data):
        if name != "hosp-c" or federation.kind(data) != "announce" or back[0]:
            return data
        back[0] = time.monotonic() + 0.5
        return VAULT_AWAY

    one.before = before
    one.present = lambda: frozenset(name for name in federation.HOSPITALS if name != "hosp-c" or time.monotonic() >= back[0])
    result = one.run(wanted)
    assert time.monotonic() >= back[0] > 0
    first = result["rounds"][0]
    assert (first["task"], first["state"], len(first["hospitals"])) == ("gram", "opened", len(federation.HOSPITALS))
    assert first["seconds"] >= 0.5
