"""The lane carries: envelopes arrive bit for bit over real TLS, whatever the link does."""

import hashlib
import threading
import time

import numpy as np
import pytest

import common.lane
import server.lane
from common.errors import BadEnvelope, LinkLost
from common.lane import PIECE_BYTES
from common.wire import Sealed
from tests.lanes import JUNK, NAMES, SHOUT, echo, until, wave


@pytest.mark.parametrize("size", [0, 1, PIECE_BYTES - 1, PIECE_BYTES, PIECE_BYTES + 1, 5_000_000])
def test_envelopes_arrive_bit_for_bit_both_ways(there, size):
    asked = []

    def ask(data):
        asked.append(data)
        return data[::-1]

    there.relay(ask=ask)
    sent = JUNK[:size]
    for front in {0, min(7, size), size}:
        waved = wave(there.lane, {"hosp-a": Sealed(front=sent[:front], blob=sent[front:])})
        assert waved.failed == {}
        assert asked.pop() == sent
        assert waved.came == {"hosp-a": sent[::-1]}
    assert asked == []


def test_what_can_be_deflated_arrives_bit_for_bit_and_in_fewer_bytes(there):
    link = there.link()
    there.relay(port=link.port, ask=lambda data: hashlib.sha256(data).digest())
    blob = b"the same again and again " * 40_000
    waved = wave(there.lane, {"hosp-a": Sealed(front=b"front", blob=blob)})
    assert waved.came == {"hosp-a": hashlib.sha256(b"front" + blob).digest()}
    assert link.passed["down"] < len(blob) / 10


def test_the_wire_carries_little_more_than_the_envelopes(there):
    link = there.link()
    there.relay(port=link.port, ask=lambda data: data)
    wave(there.lane, {"hosp-a": JUNK})
    for way in ("up", "down"):
        assert link.passed[way] < 1.02 * len(JUNK) + 4096


def test_every_hospital_gets_its_own(there):
    for name in NAMES:
        there.relay(name, ask=lambda data, name=name: name.encode() + data)
    waved = wave(there.lane, {"hosp-a": b"1", "hosp-b": b"2"})
    assert (waved.failed, waved.came) == ({}, {"hosp-a": b"hosp-a1", "hosp-b": b"hosp-b2"})
    assert wave(there.lane, {}).failed == {}


def test_a_code_of_the_relay_is_handed_on_and_its_text_is_not(there, caplog):
    answers = iter(["E-VAULT", SHOUT, ""])
    there.relay(ask=lambda _data: next(answers))
    assert wave(there.lane, {"hosp-a": b"1"}).failed == {"hosp-a": "E-VAULT"}
    assert wave(there.lane, {"hosp-a": b"2"}).failed == {"hosp-a": "E-UNKNOWN"}
    assert wave(there.lane, {"hosp-a": b"3"}).failed == {"hosp-a": "E-UNKNOWN"}


def test_a_vault_that_cannot_be_asked_costs_one_request(there, caplog):
    def ask(data):
        if data == b"1":
            raise ValueError(SHOUT)
        return echo(data)

    there.relay(ask=ask)
    assert wave(there.lane, {"hosp-a": b"1"}).failed == {"hosp-a": "E-RELAY"}
    assert wave(there.lane, {"hosp-a": b"2"}).came == {"hosp-a": b"<2>"}
    assert "the vault could not be asked: ValueError" in caplog.text


@pytest.mark.parametrize("error", [BadEnvelope("x", action="y"), OSError(SHOUT)])
def test_a_reply_that_cannot_be_taken_is_failed_by_code(there, error):
    there.relay(ask=lambda _data: JUNK)

    def receive(_name, _data):
        raise error

    failed = there.lane.wave({"hosp-a": Sealed(front=b"1", blob=b"")}, deadline_s=5, receive=receive)
    assert failed == {"hosp-a": getattr(error, "code", "E-INTERNAL")}
    assert wave(there.lane, {"hosp-a": b"2"}).came == {"hosp-a": JUNK}


CUTS = [1, 100, 700, 1500, 2200, 2500, 3000, 20_000, 150_000, 400_000, 700_000, 1_000_000, 1_000_001]


@pytest.mark.parametrize("seed", range(3))
def test_a_link_cut_at_any_byte_goes_on_at_that_byte_and_asks_the_vault_once(there, seed):
    random = np.random.default_rng(seed)
    link, asked = there.link(), []
    link.cut_after = [*CUTS[seed::3], *(int(cut) for cut in random.integers(1, 900_000, 5))]
    there.relay(port=link.port, wait=False, ask=lambda data: asked.append(data) or data[::-1])
    sent = JUNK[: 400_000 + seed]
    waved = wave(there.lane, {"hosp-a": sent}, deadline_s=30)
    assert (waved.failed, waved.came) == ({}, {"hosp-a": sent[::-1]})
    assert asked == [sent]
    assert link.connections >= 4
    assert wave(there.lane, {"hosp-a": b"more"}).came == {"hosp-a": b"erom"}


def test_what_was_carried_before_a_cut_is_not_carried_again(there):
    link = there.link()
    link.cut_after = [600_000]
    there.relay(port=link.port, wait=False, ask=lambda data: data)
    waved = wave(there.lane, {"hosp-a": JUNK[:500_000]}, deadline_s=30)
    assert waved.came == {"hosp-a": JUNK[:500_000]}
    assert link.connections == 2
    assert sum(link.passed.values()) < 1_000_000 + 100_000 + 8 * PIECE_BYTES  # not a second half, but what was on the way


def test_a_frozen_link_is_noticed_by_both_ends_and_made_again(there, caplog):
    link = there.link()
    there.relay(port=link.port)
    until(lambda: there.heard == [("hosp-a", "up")])
    link.frozen.set()
    began = time.monotonic()
    until(lambda: there.heard[1:] == [("hosp-a", "lost")])
    assert time.monotonic() - began < 2 * server.lane.SILENCE_S
    assert there.lane.present() == frozenset()
    until(lambda: "the lane broke" in caplog.text)  # the relay noticed too
    link.frozen.clear()
    assert wave(there.lane, {"hosp-a": b"1"}).came == {"hosp-a": b"<1>"}
    until(lambda: there.heard == [("hosp-a", "up"), ("hosp-a", "lost"), ("hosp-a", "up")])
    assert "hosp-a: its link was lost" in caplog.text


def test_the_shipped_times_notice_within_ten_seconds():
    assert common.lane.SILENCE_S + common.lane.BEAT_S <= 10
    assert 4 * common.lane.BEAT_S <= common.lane.SILENCE_S


@pytest.mark.parametrize("way", ["slow reply", "slow vault"])
def test_who_is_slow_is_not_cut(there, way):
    link = there.link()
    link.slow_s = 0.06 if way == "slow reply" else 0.0

    def ask(data):
        time.sleep(1.2 if way == "slow vault" else 0.0)
        return data

    there.relay(port=link.port, ask=ask)
    sent = JUNK[:400_000]  # 25 pieces of the link, 1.5 s: longer than the silence that is borne
    assert wave(there.lane, {"hosp-a": sent}).came == {"hosp-a": sent}
    assert link.connections == 1


def test_a_relay_that_restarts_is_sent_the_request_again(there):
    asked, first_over = [], threading.Event()

    def never(data):
        asked.append(data)
        first_over.wait(10)
        return "E-RELAY"

    link = there.link()
    there.relay(ask=never, port=link.port)
    waves = []
    one = threading.Thread(target=lambda: waves.append(wave(there.lane, {"hosp-a": b"1"})))
    one.start()
    until(lambda: asked == [b"1"])
    there.relay()  # the old one is ousted, as one that Flower forgot is
    one.join(10)
    first_over.set()
    assert waves[0].came == {"hosp-a": b"<1>"}


def test_another_life_of_the_coordinator_asks_again(there):
    asked = []
    link = there.link()
    there.relay(port=link.port, ask=lambda data: asked.append(data) or echo(data))
    assert wave(there.lane, {"hosp-a": b"1"}).came == {"hosp-a": b"<1>"}
    before = there.lane
    link.refusing.set()
    link.cut()
    there.lane = there.open()
    link.target = there.lane.port
    link.refusing.clear()
    assert wave(there.lane, {"hosp-a": b"1"}).came == {"hosp-a": b"<1>"}  # the same number, and bytes, in its own count
    assert asked == [b"1", b"1"]
    assert before.present() == frozenset()


def test_of_two_relays_with_one_certificate_the_newer_wins(there):
    first = there.relay(ask=lambda _data: b"first")
    assert wave(there.lane, {"hosp-a": b"1"}).came == {"hosp-a": b"first"}
    second = there.relay(ask=lambda _data: b"second", wait=False)
    first.join(5)
    assert isinstance(first.ended, LinkLost)
    assert "took over" in str(first.ended)
    for _ in range(3):
        assert wave(there.lane, {"hosp-a": b"2"}).came == {"hosp-a": b"second"}
    assert second.is_alive()


def test_a_relay_that_is_told_goodbye_ends(there):
    relays = [there.relay(name) for name in NAMES]
    there.lane.close()
    for one in relays:
        one.join(3)
        assert not one.is_alive()
        assert one.ended is None


def test_a_relay_without_a_coordinator_ends_after_its_patience(there):
    link = there.link()
    one = there.relay(port=link.port, patience_s=0.5)
    link.refusing.set()
    link.cut()
    began = time.monotonic()
    one.join(5)
    assert isinstance(one.ended, LinkLost)
    assert "patience" in str(one.ended)
    assert 0.2 < time.monotonic() - began < 2.5


def test_a_wave_ends_at_its_deadline_and_hands_on_nothing_afterwards(there, caplog):
    answer, came = threading.Event(), []
    there.relay(ask=lambda data: answer.wait(10) and echo(data))
    began = time.monotonic()
    sealed = {"hosp-a": Sealed(front=b"1", blob=b""), "hosp-b": Sealed(front=b"1", blob=b"")}
    assert there.lane.wave(sealed, deadline_s=0.3, receive=lambda *told: came.append(told)) == {}
    assert 0.3 <= time.monotonic() - began < 1.0
    answer.set()
    until(lambda: "hosp-a: not used: E-LATE" in caplog.text)
    assert came == []
    assert wave(there.lane, {"hosp-a": b"2"}).came == {"hosp-a": b"<2>"}


def test_a_wave_waits_for_what_is_being_handed_on(there):
    there.relay(ask=lambda _data: JUNK[:100])
    begun, ended = threading.Event(), []

    def receive(_name, _data):
        begun.set()
        time.sleep(0.4)
        ended.append(time.monotonic())

    there.lane.wave({"hosp-a": Sealed(front=b"1", blob=b"")}, deadline_s=0.2, receive=receive)
    assert begun.is_set()
    assert ended
    assert time.monotonic() >= ended[0]


def test_a_vault_that_is_away_and_comes_back_is_told_beside_its_link(there):
    back = threading.Event()
    there.relay(ask=lambda data: echo(data) if back.is_set() else "E-VAULT", there=back.is_set)
    assert wave(there.lane, {"hosp-a": b"1"}).failed == {"hosp-a": "E-VAULT"}
    until(lambda: there.heard == [("hosp-a", "up"), ("hosp-a", "away")])
    back.set()
    until(lambda: there.heard[2:] == [("hosp-a", "up")])
    assert wave(there.lane, {"hosp-a": b"1"}).came == {"hosp-a": b"<1>"}
