"""Namespaces and their links: what a shape, a cut and a mend do to a plain TCP connection; nothing is left behind."""

import subprocess
import sys
import time

import pytest

from common.errors import ConfigError
from deploy.drill import iproute, measure, namespaces
from deploy.drill.link import PLAIN, Way
from deploy.drill.namespaces import COORDINATOR, Topology, network

pytestmark = pytest.mark.e2e
TWO = Topology(hospitals=("hosp-a", "hosp-b"))

TRIES = """
import socket, sys
try:
    socket.create_connection((sys.argv[1], 7000), timeout=1)
except OSError as error:
    print(error.errno)
"""
SLEEPS = """
import time
from deploy.drill.namespaces import Topology, network
with network(Topology(hospitals=("h",))) as net:
    net.run_in("h", ["sleep", "60"])
    print(net.prefix, flush=True)
    time.sleep(60)
"""


@pytest.fixture(autouse=True)
def can_be_made():
    if reason := iproute.missing():
        pytest.skip(reason)


@pytest.fixture
def net():
    with network(TWO) as made:
        yield made


@pytest.fixture
def asked(net):
    with measure.probe(net, hospital="hosp-a") as made:
        yield made


def test_round_trip_grows_by_the_delay_and_shrinks_again_on_an_open_connection(net, asked):
    plain = min(asked.seconds("trip") for _ in range(5))
    slow = Way(delay_ms=40)
    net.shape("hosp-a", up=slow, down=slow)
    delayed = [asked.seconds("trip") for _ in range(5)]
    net.shape("hosp-a", up=slow, down=PLAIN)
    one_way = min(asked.seconds("trip") for _ in range(5))
    net.shape("hosp-a", up=PLAIN, down=PLAIN)
    assert plain < 0.02
    assert 0.080 <= min(delayed) <= 0.080 + 0.04
    assert 0.040 <= one_way <= 0.040 + 0.03
    assert min(asked.seconds("trip") for _ in range(5)) < 0.02


def test_rate_is_the_nominal_one(net, asked):
    net.shape("hosp-a", up=Way(rate_kbit_s=4000), down=PLAIN)
    sent = 500_000
    kbit_s = sent * 8 / asked.seconds(f"send {sent}") / 1000
    assert 0.7 * 4000 <= kbit_s <= 1.0 * 4000


def test_lost_doubled_and_overtaking_packets_are_mended_by_tcp(net, asked):
    rough = Way(delay_ms=2, loss=0.02, duplicate=0.05, reorder=0.1)
    net.shape("hosp-a", up=rough, down=rough)
    before = net.counts("hosp-a")["up"]
    asked.seconds("send 400000")
    after = net.counts("hosp-a")["up"]
    assert after["passed"] - before["passed"] >= 400_000 // 1500
    if not net.netem:
        assert after["lost"] > before["lost"]


def test_a_cut_link_passes_nothing_and_a_mended_one_passes_again(net, asked):
    asked.seconds("trip")
    net.cut("hosp-a")
    net.cut("hosp-a")
    asked.ask("trip")
    assert not asked.answered(within_s=1.0)
    net.mend("hosp-a")
    assert asked.answered(within_s=5.0)
    asked.answer()
    assert min(asked.seconds("trip") for _ in range(5)) < 0.02


def test_a_frozen_link_keeps_what_was_sent_and_hands_it_over(net, asked):
    slow = Way(delay_ms=5)
    net.shape("hosp-a", up=slow, down=slow)
    net.freeze("hosp-a")
    asked.ask("trip")
    assert not asked.answered(within_s=0.5)
    net.mend("hosp-a")
    assert asked.answered(within_s=5.0)
    asked.answer()
    assert 0.010 <= min(asked.seconds("trip") for _ in range(5)) < 0.05  # the shape from before is back


def test_hospitals_reach_the_coordinator_and_nobody_else():
    with network(TWO) as net:

        def reach(place, address):
            done = net.run_in(place, [sys.executable, "-c", TRIES, address], stdout=subprocess.PIPE)
            return int(done.communicate(timeout=10)[0].strip() or 0)

        refused, unreachable = 111, 101
        assert reach("hosp-a", net.topology.coordinator) == refused  # it is there, and nothing listens
        assert reach(COORDINATOR, net.topology.address("hosp-a")) == refused
        assert reach("hosp-a", "127.0.0.1") == refused
        assert reach("hosp-a", net.topology.address("hosp-b")) == unreachable
        assert reach("hosp-a", "192.0.2.1") == unreachable
        assert reach(COORDINATOR, "192.0.2.1") == unreachable


def test_everything_is_gone_afterwards_also_what_a_killed_run_left():
    with network(TWO) as net:
        sleeper = net.run_in("hosp-a", ["sleep", "60"])
        with network(TWO) as second:  # beside the first, with the same addresses
            assert second.prefix != net.prefix
    assert sleeper.wait(5) == -9
    killed = subprocess.Popen([sys.executable, "-c", SLEEPS], cwd=namespaces.ROOT, stdout=subprocess.PIPE)
    prefix = killed.stdout.readline().decode().strip()
    killed.kill()
    killed.wait()
    killed.stdout.close()
    assert prefix
    left = iproute.remove_leftovers()
    assert {f"{prefix}-h", f"{prefix}-coordinator"} <= set(left)
    listed = subprocess.run(["ip", "netns", "list"], capture_output=True, text=True, check=True).stdout
    assert prefix not in listed
    assert net.prefix not in listed


def test_a_dead_forwarder_is_said_and_not_taken_for_a_plain_link(net):
    net._links["hosp-a"].forwarder.kill()
    net._links["hosp-a"].forwarder.wait()
    with pytest.raises(ConfigError, match="lost its forwarder"):
        net.cut("hosp-a")


def test_unknown_places_and_names_are_refused():
    with network(TWO) as net:
        with pytest.raises(ConfigError, match="no hosp-z"):
            net.cut("hosp-z")
        with pytest.raises(ConfigError, match="no nowhere"):
            net.run_in("nowhere", ["true"])
    for names in ((), ("a", "a"), (COORDINATOR,), ("../etc",), ("A b",)):
        with pytest.raises(ConfigError):
            Topology(hospitals=names)


def test_changes_are_in_force_at_once(net):
    began = time.monotonic()
    net.cut("hosp-a")
    assert time.monotonic() - began < 1.0


def test_tcp_is_the_same_on_every_machine_and_loopback_is_up(net):
    says = (
        "import socket; one = socket.create_server(('127.0.0.1', 0)); print(one.getsockopt(6, 13, 16).rstrip(b'\\0').decode())"
    )
    for place in (COORDINATOR, "hosp-b"):
        done = net.run_in(place, [sys.executable, "-c", says], stdout=subprocess.PIPE)
        assert done.communicate(timeout=10)[0] == b"reno\n"
