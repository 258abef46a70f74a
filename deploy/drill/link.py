"""One link between two network namespaces, in user space: a TUN device at each end, a process between that delays and loses.

It is what `tc netem` does, for kernels that have none, and for what netem cannot do (freeze). The packets are the kernel's own
IP packets, so what is lost, doubled or late is TCP's to mend. `python -m deploy.drill.link` is started by namespaces.py only.
"""

import ctypes
import fcntl
import heapq
import json
import os
import random  # noqa: TID251  (the weather of an emulated link, nothing secret)
import select
import socket
import struct
import sys
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from common.errors import ConfigError

QUEUE_PACKETS = 256  # that wait for a slow line; the next is dropped (tail drop)
FLIGHT_PACKETS = 20_000  # on the way or frozen, at a line without a rate
BATCH_PACKETS = 64  # read from one end before the other end and the clock get their turn
MTU_BYTES = 1500
RATE_MOST_KBIT_S = 10_000_000
DELAY_MOST_MS = 60_000
_CLONE_NEWNET = 0x40000000
_TUNSETIFF = 0x400454CA
_IFF_TUN_NO_PI = 0x1001


@dataclass(frozen=True, slots=True, kw_only=True)
class Way:
    """One direction of a link. Delay is one-way; loss, duplicate and reorder are probabilities per packet.

    `rate_kbit_s` 0 is no limit. `reorder` packets skip the delay and so overtake, as in netem; it needs a delay. `cut` drops
    all and tells nobody; `frozen` keeps all and hands it over when the way thaws. Out of range raises ConfigError.
    """

    rate_kbit_s: float = 0
    delay_ms: float = 0
    loss: float = 0
    duplicate: float = 0
    reorder: float = 0
    cut: bool = False
    frozen: bool = False

    def __post_init__(self) -> None:
        """Check every range."""
        for name, most in (("loss", 1), ("duplicate", 1), ("reorder", 1), ("delay_ms", DELAY_MOST_MS)):
            if not 0 <= getattr(self, name) <= most:
                raise ConfigError(f"A link's {name} is {getattr(self, name)}.", action=f"Give 0 to {most}.")
        if self.rate_kbit_s and not 1 <= self.rate_kbit_s <= RATE_MOST_KBIT_S:
            raise ConfigError(f"A link's rate_kbit_s is {self.rate_kbit_s}.", action=f"Give 0 or 1 to {RATE_MOST_KBIT_S}.")
        if self.reorder and not self.delay_ms:
            raise ConfigError("Packets overtake only where there is a delay.", action="Give delay_ms beside reorder.")

    def netem(self) -> list[str]:
        """Return the arguments of `tc qdisc ... netem` for this direction; a frozen way has none and raises ConfigError."""
        if self.frozen:
            raise ConfigError("netem cannot freeze a link.", action="Use the forwarder.")
        words = ["limit", str(QUEUE_PACKETS if self.rate_kbit_s else FLIGHT_PACKETS)]
        if self.delay_ms:
            words += ["delay", f"{self.delay_ms:g}ms"]
        for name, share in (("reorder", self.reorder), ("loss", 1.0 if self.cut else self.loss), ("duplicate", self.duplicate)):
            if share:
                words += [name, f"{100 * share:g}%"]
        if self.rate_kbit_s:
            words += ["rate", f"{self.rate_kbit_s:g}kbit"]
        return words


PLAIN = Way()


@dataclass(slots=True)
class Line:
    """What is on one direction now: packets with the time at which each is due, and counts of what became of the others.

    All times are seconds of one monotonic clock that the caller reads. Memory is bounded by QUEUE_PACKETS and FLIGHT_PACKETS.
    """

    way: Way
    chance: random.Random
    lost: int = 0
    dropped: int = 0  # by a full queue
    passed: int = 0
    _free_at_s: float = 0.0  # when the last accepted packet has left a line with a rate
    _serial: int = 0
    _heap: list[tuple[float, int, bytes]] = field(default_factory=list)
    _leaving: deque[float] = field(default_factory=deque)

    def change(self, way: Way, *, now_s: float) -> None:
        """Behave otherwise from now on; what is on the way keeps its time, unless the way is cut: then it is lost."""
        if way.cut:
            self.lost += len(self._heap)
            self._heap.clear()
        self._leaving.clear()
        self.way, self._free_at_s = way, now_s

    def offer(self, packet: bytes, *, now_s: float) -> None:
        """Take a packet at one end, or lose it."""
        way, chance = self.way, self.chance
        if way.cut or (way.loss and chance.random() < way.loss):
            self.lost += 1
            return
        for _ in range(2 if way.duplicate and chance.random() < way.duplicate else 1):
            self._queue(packet, now_s=now_s)

    def due(self, *, now_s: float) -> list[bytes]:
        """Return the packets that come out at the other end by now, in order."""
        found: list[bytes] = []
        if not self.way.frozen:
            while self._heap and self._heap[0][0] <= now_s:
                found.append(heapq.heappop(self._heap)[2])
        self.passed += len(found)
        return found

    def next_s(self) -> float | None:
        """Return when the next packet is due; None when nothing is on the way or nothing moves."""
        return self._heap[0][0] if self._heap and not self.way.frozen else None

    def _queue(self, packet: bytes, *, now_s: float) -> None:
        way, leaves_s = self.way, now_s
        if len(self._heap) >= FLIGHT_PACKETS:
            self.dropped += 1
            return
        if way.rate_kbit_s:
            while self._leaving and self._leaving[0] <= now_s:
                self._leaving.popleft()
            if len(self._leaving) >= QUEUE_PACKETS:
                self.dropped += 1
                return
            leaves_s = max(now_s, self._free_at_s) + len(packet) * 8 / (way.rate_kbit_s * 1000)
            self._free_at_s = leaves_s
            self._leaving.append(leaves_s)
        overtakes = way.reorder and self.chance.random() < way.reorder
        self._serial += 1
        heapq.heappush(self._heap, (leaves_s + (0 if overtakes else way.delay_ms / 1000), self._serial, packet))


def carry(up: Line, down: Line, *, ends: tuple[int, int], control: socket.socket) -> None:
    """Carry packets until the control socket closes: `up` from ends[0] to ends[1], `down` back.

    Each message of the control socket is a JSON object with the new `up` and `down` as fields of Way, or empty; it is answered
    with the counts of both directions once it is in force.
    """
    lines = ((up, ends[0], ends[1]), (down, ends[1], ends[0]))
    watch = select.epoll()
    for number in (*ends, control.fileno()):
        watch.register(number, select.EPOLLIN)
    while True:
        times = [due_s for line, _, _ in lines if (due_s := line.next_s()) is not None]
        ready = {number for number, _ in watch.poll(max(0.0, min(times) - time.monotonic()) if times else None)}
        if control.fileno() in ready:
            message = control.recv(4096)
            if not message:
                return
            for name, line in (("up", up), ("down", down)):
                if name in (asked := json.loads(message)):
                    line.change(Way(**asked[name]), now_s=time.monotonic())
            control.send(json.dumps({"up": counts(up), "down": counts(down)}).encode())
        for line, start, end in lines:
            if start in ready:
                _read(line, start)
            for packet in line.due(now_s=time.monotonic()):
                _write(end, packet)


def counts(line: Line) -> dict[str, int]:
    """Return what became of the packets of a direction."""
    return {"passed": line.passed, "lost": line.lost, "dropped": line.dropped}


def message(up: Way, down: Way) -> bytes:
    """Return the control message that puts both directions in force."""
    return json.dumps({"up": asdict(up), "down": asdict(down)}).encode()


def _read(line: Line, end: int) -> None:
    for _ in range(BATCH_PACKETS):
        try:
            packet = os.read(end, MTU_BYTES + 100)
        except BlockingIOError:
            return
        except OSError:  # the device is down while it is being set up
            return
        line.offer(packet, now_s=time.monotonic())


def _write(end: int, packet: bytes) -> None:
    try:
        os.write(end, packet)
    except OSError:  # the device is down or its queue is full: a lost packet
        return


def open_tun(namespace: Path, *, device: str) -> int:
    """Make a TUN device inside a network namespace and return its descriptor; the device goes when the descriptor closes.

    It moves the calling thread into the namespace (setns), so only a process of its own may call it; raises OSError.
    """
    with namespace.open("rb") as place:
        if ctypes.CDLL(None, use_errno=True).setns(place.fileno(), _CLONE_NEWNET) != 0:
            raise OSError(ctypes.get_errno(), f"The network namespace {namespace.name} cannot be entered.")
    tun = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    fcntl.ioctl(tun, _TUNSETIFF, struct.pack("16sH22x", device.encode(), _IFF_TUN_NO_PI))
    return tun


def main(words: Sequence[str]) -> None:
    """Carry packets: control descriptor, seed, then namespace and device of either end, the hospital's first."""
    control, seed, *places = words
    with socket.socket(fileno=int(control)) as connection:
        ends: Any = tuple(open_tun(Path(place), device=device) for place, device in zip(places[::2], places[1::2], strict=True))
        connection.send(b"{}")  # ready
        up, down = (Line(PLAIN, random.Random(f"{seed} {way}")) for way in ("up", "down"))
        carry(up, down, ends=ends, control=connection)


if __name__ == "__main__":
    main(sys.argv[1:])
