"""A coordinator and its hospitals as network namespaces of one machine, with links that can be made slow, lossy, frozen or cut.

Each hospital has one link, to the coordinator; nothing leads to the machine's own network or to another hospital. An unshaped
link is a veth pair. A shaped one goes by netem on that pair where the kernel has it, otherwise over the forwarder of link.py,
beside it: a host route decides, so open connections stay open when the link changes. Needs Linux, root and iproute2.
"""

import contextlib
import json
import re
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO, Any

from common.errors import ConfigError
from common.processes import end
from deploy.drill import iproute, link
from deploy.drill.link import PLAIN, Way

ROOT = Path(__file__).resolve().parents[2]
COORDINATOR = "coordinator"
ANSWER_S = 10.0
SETTINGS = {
    "ipv6/conf/all/disable_ipv6": "1",
    "ipv4/conf/all/rp_filter": "0",  # a shaped link's packets come in by another device than veth
    "ipv4/conf/default/rp_filter": "0",
    "ipv4/tcp_congestion_control": "reno",  # in every kernel; cubic, Linux' default, is no faster on such links (RFC 9438, 4.3)
}
_NET = Path("/proc/sys/net")


@dataclass(frozen=True, slots=True, kw_only=True)
class Topology:
    """Who is there. The coordinator has one address for all; hospital i has 10.77.i.2, on a /30 of its own."""

    hospitals: tuple[str, ...] = ("hosp-a", "hosp-b", "hosp-c", "hosp-d")
    coordinator: str = "10.77.0.1"

    def __post_init__(self) -> None:
        """Refuse what cannot be a namespace or has no address left; raises ConfigError."""
        names = set(self.hospitals)
        if not 1 <= len(names) == len(self.hospitals) <= 250 or COORDINATOR in names:
            raise ConfigError("The hospitals of a drill are not 1 to 250 different names.", action="Name each of them once.")
        if not all(re.fullmatch(r"[a-z0-9-]{1,32}", name) for name in names):
            raise ConfigError("A hospital's name cannot name a namespace.", action="Use lower-case letters, digits, hyphens.")

    def address(self, place: str) -> str:
        """Return the address of the coordinator or of a hospital; raises ConfigError for anybody else."""
        return self.coordinator if place == COORDINATOR else f"10.77.{self.number(place)}.2"

    def number(self, hospital: str) -> int:
        """Return the hospital's number, from 1; raises ConfigError when it is not there."""
        if hospital not in self.hospitals:
            raise ConfigError(f"There is no {hospital[:40]} in this network.", action=f"It has {', '.join(self.hospitals)}.")
        return 1 + self.hospitals.index(hospital)


@dataclass(slots=True)
class _Link:
    """The state of one hospital's link, and its forwarder."""

    forwarder: subprocess.Popen[bytes]
    control: socket.socket
    up: Way = PLAIN
    down: Way = PLAIN
    path: str = "veth"  # or netem, or tun
    before: tuple[Way, Way] | None = None  # what a cut or freeze will be mended to


@dataclass(slots=True)
class Network:
    """Namespaces that exist now; made by `network`, which also removes them."""

    topology: Topology
    prefix: str
    netem: bool = False
    _links: dict[str, _Link] = field(default_factory=dict)

    def run_in(
        self,
        place: str,
        argv: Sequence[str | Path],
        *,
        stdin: int = subprocess.DEVNULL,
        stdout: IO[bytes] | int | None = None,
        stderr: IO[bytes] | int | None = None,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
    ) -> subprocess.Popen[bytes]:
        """Start a program inside the coordinator's or a hospital's namespace, as leader of its own session."""
        return subprocess.Popen(
            ["ip", "netns", "exec", self._namespace(place), *argv],
            stdin=stdin, stdout=stdout, stderr=stderr, env=env, cwd=cwd, start_new_session=True,
        )  # fmt: skip

    def shape(self, hospital: str, *, up: Way, down: Way) -> None:
        """Make a link behave so, `up` from the hospital and `down` to it, also while connections are open over it.

        In force when it returns. Both PLAIN is the bare veth pair. Raises ConfigError when the link's forwarder has died.
        """
        one = self._link(hospital)
        frozen = up.frozen or down.frozen
        path = "veth" if up == down == PLAIN else "netem" if self.netem and not frozen else "tun"
        self._ask(hospital, link.message(up, down))
        if path == "netem":
            for namespace, device, way in self._veth(hospital, up, down):
                iproute.run("tc", "-n", namespace, "qdisc", "replace", "dev", device, "root", "netem", *way.netem())
        elif one.path == "netem":
            for namespace, device, _ in self._veth(hospital, up, down):
                iproute.run("tc", "-n", namespace, "qdisc", "del", "dev", device, "root")
        self._route(hospital, by_tun=path == "tun")
        one.up, one.down, one.path, one.before = up, down, path, None

    def cut(self, hospital: str) -> None:
        """Drop everything on a link, both ways, telling nobody, until `mend`; a second cut changes nothing."""
        self._until_mended(hospital, cut=True, frozen=False)

    def freeze(self, hospital: str) -> None:
        """Keep everything that is sent over a link, both ways, until `mend` lets it go."""
        self._until_mended(hospital, cut=False, frozen=True)

    def mend(self, hospital: str) -> None:
        """Give a link back the shape that it had before `cut` or `freeze`; does nothing to one that is whole."""
        before = self._link(hospital).before
        if before is not None:
            self.shape(hospital, up=before[0], down=before[1])

    def counts(self, hospital: str) -> dict[str, dict[str, int]]:
        """Return what the forwarder passed, lost and dropped, `up` and `down`; veth and netem traffic is not in it."""
        return self._ask(hospital, b"{}")

    def pids(self, place: str) -> list[int]:
        """Return the processes inside a namespace, the link's forwarder left out."""
        forwarders = {one.forwarder.pid for one in self._links.values()}
        found = iproute.run("ip", "netns", "pids", self._namespace(place)).split()
        return [pid for word in found if (pid := int(word)) not in forwarders]

    def listening(self, place: str) -> list[int]:
        """Return the TCP ports on which something inside a namespace listens, beyond its loopback."""
        rows = [
            line.split()
            for line in iproute.run("ip", "netns", "exec", self._namespace(place), "cat", "/proc/net/tcp").splitlines()[1:]
        ]
        doors = [row[1].split(":") for row in rows if row[3] == "0A"]
        return sorted({int(port, 16) for address, port in doors if address != "0100007F"})

    def _until_mended(self, hospital: str, *, cut: bool, frozen: bool) -> None:
        one = self._link(hospital)
        before = one.before or (one.up, one.down)
        up, down = (replace(way, cut=cut, frozen=frozen) for way in before)
        self.shape(hospital, up=up, down=down)
        one.before = before

    def _link(self, hospital: str) -> _Link:
        self.topology.number(hospital)
        return self._links[hospital]

    def _ask(self, hospital: str, question: bytes) -> dict[str, Any]:
        control = self._link(hospital).control
        try:
            control.send(question)
            answer = control.recv(4096)
        except OSError:
            answer = b""
        if not answer:
            raise ConfigError(f"The link of {hospital} has lost its forwarder.", action="End the drill and start it again.")
        parsed: dict[str, Any] = json.loads(answer)
        return parsed

    def _namespace(self, place: str) -> str:
        self.topology.address(place)
        return f"{self.prefix}-{place}"

    def _veth(self, hospital: str, up: Way, down: Way) -> list[tuple[str, str, Way]]:
        number = self.topology.number(hospital)
        return [(self._namespace(hospital), "veth", up), (self._namespace(COORDINATOR), f"veth{number}", down)]

    def _route(self, hospital: str, *, by_tun: bool) -> None:
        number, kind = self.topology.number(hospital), "tun" if by_tun else "veth"
        here, there = self.topology.address(hospital), self.topology.coordinator
        gate = "" if by_tun else f"via 10.77.{number}.1"
        iproute.batch(self._namespace(hospital), f"route replace {there}/32 {gate} dev {kind} src {here}")
        iproute.batch(self._namespace(COORDINATOR), f"route replace {here}/32 dev {kind}{number} src {there}")

    def _make(self) -> None:
        for place in (COORDINATOR, *self.topology.hospitals):
            iproute.run("ip", "netns", "add", self._namespace(place))
            settings = "; ".join(f"test ! -e {_NET / name} || echo {value} > {_NET / name}" for name, value in SETTINGS.items())
            iproute.run("ip", "netns", "exec", self._namespace(place), "sh", "-e", "-c", settings)
            iproute.batch(self._namespace(place), "link set lo up")
        iproute.batch(self._namespace(COORDINATOR), f"address add {self.topology.coordinator}/32 dev lo")
        for hospital in self.topology.hospitals:
            self._make_link(hospital)
        probe = ("netem", "limit", "1")
        self.netem = iproute.tries("tc", "-n", self._namespace(COORDINATOR), "qdisc", "add", "dev", "lo", "root", *probe)
        if self.netem:
            iproute.run("tc", "-n", self._namespace(COORDINATOR), "qdisc", "del", "dev", "lo", "root")

    def _make_link(self, hospital: str) -> None:
        number = self.topology.number(hospital)
        inside, centre = self._namespace(hospital), self._namespace(COORDINATOR)
        iproute.run(
            "ip", "link", "add", "veth", "netns", inside, "type", "veth", "peer", "name", f"veth{number}", "netns", centre
        )
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.settimeout(ANSWER_S)
        with theirs:
            ends = (iproute.NETNS / inside, "tun", iproute.NETNS / centre, f"tun{number}")
            forwarder = subprocess.Popen(
                [sys.executable, "-m", "deploy.drill.link", str(theirs.fileno()), str(number), *ends],
                cwd=ROOT, stdin=subprocess.DEVNULL, pass_fds=[theirs.fileno()], start_new_session=True,
            )  # fmt: skip
        self._links[hospital] = _Link(forwarder=forwarder, control=ours)
        with contextlib.suppress(OSError):
            if ours.recv(4096):
                for namespace, suffix, last in ((inside, "", 2), (centre, number, 1)):
                    iproute.batch(
                        namespace,
                        f"address add 10.77.{number}.{last}/30 dev veth{suffix}",
                        f"link set veth{suffix} up",
                        f"link set tun{suffix} mtu {link.MTU_BYTES} up",
                    )
                self._route(hospital, by_tun=False)
                return
        raise ConfigError(f"The link of {hospital} could not be made.", action="Is /dev/net/tun there, and are you root?")

    def _remove(self) -> None:
        for one in self._links.values():
            one.control.close()
            end(one.forwarder)
        for place in (COORDINATOR, *self.topology.hospitals):
            iproute.delete(self._namespace(place))


@contextmanager
def network(topology: Topology) -> Iterator[Network]:
    """Make the namespaces and links; remove them, and whatever still runs in them, on the way out.

    What an earlier run left behind because it was killed is removed first. Raises ConfigError where `missing` has a reason.
    """
    if reason := iproute.missing():
        raise ConfigError(reason, action="Run it as root on a Linux machine with iproute2, outside of unprivileged containers.")
    iproute.remove_leftovers()
    made = Network(topology=topology, prefix=iproute.new_prefix())
    try:
        made._make()
        yield made
    finally:
        made._remove()  # noqa: SLF001  (this function is its maker)
