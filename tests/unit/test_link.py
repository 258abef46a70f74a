"""The emulated link with a clock of our own: delay, rate, queue, loss, doubling, overtaking, cut and freeze."""

import random
import socket
import threading
import time

import pytest

from common.errors import ConfigError
from deploy.drill import link
from deploy.drill.link import FLIGHT_PACKETS, PLAIN, QUEUE_PACKETS, Line, Way


def line(**way):
    return Line(Way(**way), random.Random(1))


def numbered(count, size=100):
    return [index.to_bytes(4, "big") + bytes(size - 4) for index in range(count)]


def arrivals(one, *, until_s, step_s=0.001):
    """Return (second, packet) of all that comes out, looking every step."""
    return [
        (step * step_s, packet) for step in range(round(until_s / step_s) + 1) for packet in one.due(now_s=step * step_s + 1e-9)
    ]


def test_an_unshaped_line_passes_at_once_and_in_order():
    one = line()
    for packet in numbered(50):
        one.offer(packet, now_s=0)
    assert one.due(now_s=0) == numbered(50)
    assert one.next_s() is None


def test_each_packet_comes_out_after_the_delay():
    one = line(delay_ms=200)
    one.offer(b"a", now_s=1.0)
    assert one.due(now_s=1.199) == []
    assert one.next_s() == pytest.approx(1.2)
    assert one.due(now_s=1.2) == [b"a"]


def test_a_line_passes_its_rate_and_no_more():
    one = line(rate_kbit_s=80, delay_ms=100)  # 10 kB/s: a packet of 100 bytes every 10 ms
    for packet in numbered(100):
        one.offer(packet, now_s=0)
    came = arrivals(one, until_s=2.0)
    assert [packet for _, packet in came] == numbered(100)
    assert came[0][0] == pytest.approx(0.110, abs=0.002)
    assert came[-1][0] == pytest.approx(1.100, abs=0.002)


def test_a_full_queue_drops_the_newest():
    one = line(rate_kbit_s=80)
    for packet in numbered(QUEUE_PACKETS + 44):
        one.offer(packet, now_s=0)
    assert one.dropped == 44
    assert one.due(now_s=1e6) == numbered(QUEUE_PACKETS)
    one.offer(b"x", now_s=1e6)
    assert one.dropped == 44  # there is room again


def test_memory_is_bounded_without_a_rate_too():
    one = line(delay_ms=1000)
    for _ in range(FLIGHT_PACKETS + 5):
        one.offer(b"x", now_s=0)
    assert one.dropped == 5


def test_loss_and_doubling_have_their_probability():
    one = line(loss=0.02, duplicate=0.1)
    for packet in numbered(20_000):
        one.offer(packet, now_s=0)
        one.due(now_s=0)
    assert 300 <= one.lost <= 500  # 400, sd 20
    assert one.passed / (20_000 - one.lost) == pytest.approx(1.1, abs=0.012)  # sd 0.002


def test_overtaking_packets_skip_the_delay_and_none_is_lost():
    one = line(delay_ms=10, reorder=0.25)
    for step, packet in enumerate(numbered(400)):
        one.offer(packet, now_s=step * 0.001)
    came = [packet for _, packet in arrivals(one, until_s=1.0)]
    assert sorted(came) == numbered(400)
    assert came != numbered(400)


def test_a_cut_loses_what_is_on_the_way_and_what_is_sent_until_it_is_mended():
    one = line(delay_ms=100)
    one.offer(b"on the way", now_s=0)
    one.change(Way(cut=True), now_s=0.05)
    one.offer(b"during", now_s=0.06)
    one.change(PLAIN, now_s=0.5)
    one.offer(b"after", now_s=0.6)
    assert one.due(now_s=10) == [b"after"]
    assert one.lost == 2


def test_a_frozen_line_keeps_everything_in_order():
    one = line()
    one.change(Way(frozen=True), now_s=0)
    for packet in numbered(10):
        one.offer(packet, now_s=0)
    assert one.due(now_s=100) == []
    assert one.next_s() is None
    one.change(PLAIN, now_s=100)
    assert one.due(now_s=100) == numbered(10)


@pytest.mark.parametrize(
    "wrong",
    [
        {"loss": 1.1}, {"loss": -0.1}, {"duplicate": 2}, {"reorder": 0.5}, {"delay_ms": -1}, {"delay_ms": 1e9},
        {"rate_kbit_s": -5}, {"rate_kbit_s": 0.1}, {"rate_kbit_s": 1e12}, {"loss": float("nan")}, {"delay_ms": float("inf")},
    ],
)  # fmt: skip
def test_a_way_that_cannot_be_is_refused(wrong):
    with pytest.raises(ConfigError):
        Way(**wrong)


def test_netem_is_told_the_same():
    assert Way(rate_kbit_s=1000, delay_ms=200, loss=0.02).netem() == [
        "limit", "256", "delay", "200ms", "loss", "2%", "rate", "1000kbit"
    ]  # fmt: skip
    assert Way(cut=True, loss=0.1).netem() == ["limit", "20000", "loss", "100%"]
    assert "reorder" in Way(delay_ms=5, reorder=0.1, duplicate=0.05).netem()
    with pytest.raises(ConfigError, match="freeze"):
        Way(frozen=True).netem()


def test_the_carrier_takes_orders_while_it_carries_and_ends_with_its_owner():
    pairs = [socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET) for _ in range(3)]
    (near, near_end), (far, far_end), (owner, control) = pairs
    near_end.setblocking(False)
    far_end.setblocking(False)
    for one in (near, far, owner):
        one.settimeout(5)
    worker = threading.Thread(
        target=link.carry, args=(line(), line()), kwargs={"ends": (near_end.fileno(), far_end.fileno()), "control": control}
    )
    worker.start()
    try:
        near.send(b"up")
        assert far.recv(100) == b"up"
        far.send(b"down")
        assert near.recv(100) == b"down"
        owner.send(link.message(Way(delay_ms=50), Way(cut=True)))
        assert owner.recv(4096).startswith(b'{"up": {"passed": 1')
        began = time.monotonic()
        far.send(b"lost")
        near.send(b"late")
        assert far.recv(100) == b"late"
        assert time.monotonic() - began >= 0.05
        owner.send(b"{}")
        assert b'"lost": 1' in owner.recv(4096)
    finally:
        owner.close()
        worker.join(5)
        for one in (near, near_end, far, far_end, control):
            one.close()
    assert not worker.is_alive()


def test_a_namespace_that_is_not_there_is_said(tmp_path):
    with pytest.raises(OSError, match="absent"):
        link.open_tun(tmp_path / "absent", device="tun")
