"""Measures the links themselves: round trip and throughput of plain TCP, and how soon a cut and a mend are in force."""

import argparse
import json
import select
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from rich.console import Console
from rich.table import Table

from common import commands
from common.errors import ConfigError
from common.processes import end
from deploy.drill.link import PLAIN, Way
from deploy.drill.namespaces import COORDINATOR, ROOT, Network, Topology, network

TRIPS = 20
SLOW = Way(rate_kbit_s=1000, delay_ms=200, loss=0.02)  # each way, so the round trip is 400 ms
LINKS = {
    "unshaped (veth)": (PLAIN, 200_000_000),
    "forwarder, 1 ms each way": (Way(delay_ms=1), 20_000_000),
    "1 Mbit/s, 200 ms each way": (Way(rate_kbit_s=1000, delay_ms=200), 1_000_000),
    "1 Mbit/s, 100 ms each way, 2 % loss": (Way(rate_kbit_s=1000, delay_ms=100, loss=0.02), 1_000_000),
    "1 Mbit/s, 200 ms each way, 2 % loss": (SLOW, 1_000_000),
}


class Probe:
    """A TCP server in the coordinator's namespace and a client in a hospital's."""

    def __init__(self, net: Network, *, hospital: str) -> None:
        self._open = ExitStack()
        self._orders, theirs = socket.socketpair()
        self._open.enter_context(self._orders)
        with theirs, self._open:
            self._start(net, COORDINATOR, "serve")
            self._answers = self._start(net, hospital, "ask", net.topology.coordinator, stdin=theirs.fileno())
            self._open = self._open.pop_all()

    def ask(self, command: str) -> None:
        """Give the client a command of probe.py; its answer is read by `answer`."""
        self._orders.sendall(command.encode() + b"\n")

    def answered(self, *, within_s: float) -> bool:
        """Return whether an answer is there within that time."""
        return bool(select.select([self._answers], [], [], within_s)[0])

    def answer(self) -> float:
        """Wait for the answer and return its seconds; raises ConfigError when the client gave up."""
        line = self._answers.readline()
        if not line:
            raise ConfigError("The probe's client ended.", action="Is the link cut?")
        return float(line)

    def seconds(self, command: str) -> float:
        """Return how long a command of probe.py took."""
        self.ask(command)
        return self.answer()

    def close(self) -> None:
        """End both."""
        self._open.close()

    def _start(self, net: Network, place: str, *words: str, stdin: int = subprocess.DEVNULL) -> socket.SocketIO:
        ours, theirs = socket.socketpair()
        with ours, theirs:
            argv = [sys.executable, "-m", "deploy.drill.probe", *words]
            child = net.run_in(place, argv, stdin=stdin, stdout=theirs.fileno(), cwd=ROOT)
            self._open.callback(end, child)
            said = self._open.enter_context(ours.makefile("rb", buffering=0))
        if said.readline() != b"ready\n":
            raise ConfigError("The probe did not start.", action="Run it by hand: python -m deploy.drill.probe serve.")
        return said


@contextmanager
def probe(net: Network, *, hospital: str) -> Iterator[Probe]:
    """Give a probe over a hospital's link and end it on the way out."""
    made = Probe(net, hospital=hospital)
    try:
        yield made
    finally:
        made.close()


def figures() -> dict[str, dict[str, float]]:
    """Measure every link of LINKS, each over one hospital's link; throughput counts payload."""
    found: dict[str, dict[str, float]] = {}
    with network(Topology(hospitals=("hosp-a",))) as net, probe(net, hospital="hosp-a") as asked:
        for name, (way, size_bytes) in LINKS.items():
            net.shape("hosp-a", up=way, down=way)
            trips = [asked.seconds("trip") for _ in range(TRIPS)]
            found[name] = {
                "round_trip_median_ms": round(1000 * statistics.median(trips), 2),
                "round_trip_worst_ms": round(1000 * max(trips), 2),
                "up_mbit_s": round(size_bytes * 8e-6 / asked.seconds(f"send {size_bytes}"), 3),
                "down_mbit_s": round(size_bytes * 8e-6 / asked.seconds(f"fetch {size_bytes}"), 3),
            }
        for name, way in (("unshaped (veth)", PLAIN), ("1 Mbit/s, 200 ms each way, 2 % loss", SLOW)):
            net.shape("hosp-a", up=way, down=way)
            calls = {"cut": net.cut, "mend": net.mend}
            for step, call in calls.items():
                took = []
                for _ in range(TRIPS):
                    started = time.monotonic()
                    call("hosp-a")
                    took.append(time.monotonic() - started)
                    calls["mend" if step == "cut" else "cut"]("hosp-a")
                found[name][f"{step}_worst_ms"] = round(1000 * max(took), 2)
    return found


def main() -> None:
    """Print the figures; see --help."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    options, out = parser.parse_args(), Console(highlight=False)
    found = figures()
    if options.json:
        out.print_json(json.dumps(found))
        return
    table = Table("link", "RTT median, worst ms", "up, down Mbit/s", "cut, mend in force after ms")
    for name, row in found.items():
        table.add_row(
            name,
            f"{row['round_trip_median_ms']}, {row['round_trip_worst_ms']}",
            f"{row['up_mbit_s']}, {row['down_mbit_s']}",
            f"{row['cut_worst_ms']}, {row['mend_worst_ms']}" if "cut_worst_ms" in row else "",
        )
    out.print(table)


if __name__ == "__main__":
    commands.run_function(main)
