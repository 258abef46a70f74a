"""The drills as data: what is done, how long it lasts, what may be lost, and how soon a round of everybody must open again."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from deploy.drill.federation import BASE, CLOCKED, TAPPED, Federation
from deploy.drill.junk import SIZE_BYTES
from deploy.drill.link import Way
from deploy.drill.measure import SLOW
from deploy.drill.namespaces import COORDINATOR, ROOT

CARRIER = "flwr-clientapp"
NODE = "flower-supernode"
RELAY = "motet-hospital relay"
VAULT = "motet-hospital vault"
SERVE = "motet-coordinator serve"
FLOWER = "flower-supernode|flower-superexec|flwr-clientapp"
ROUGH = Way(delay_ms=150, loss=0.02, duplicate=0.05, reorder=0.1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Drill:
    """One failure. `act` happens in the middle of a round, `undo` after `lasts_s`; both return what went wrong, or nothing.

    `lost_most` rounds may be void, nothing else is ever lost; `goes_on` says that rounds must open meanwhile, with whoever is
    left; within `good_within_s` of the undo a round of all hospitals opens. `patience_s` of the study is PATIENCE_S.
    """

    name: str
    done: str
    act: Callable[[Federation], str | None]
    undo: Callable[[Federation], str | None] = lambda _: None
    lasts_s: float = 0
    lost_most: int = 0
    goes_on: bool = False
    good_within_s: float
    needs: str = "superlink"  # the child that must still be there

    @property
    def lasts_at_most_s(self) -> float:
        """Return how long rounds go on while it lasts and until its limit, where they do."""
        return 15 + self.lasts_s * self.goes_on + self.good_within_s * (self.lost_most > 0) / 2


def _kill(place: str, text: str) -> Callable[[Federation], None]:
    return lambda one: one.signal(place, text=text, number=signal.SIGKILL)


def _stop(place: str, text: str) -> Callable[[Federation], None]:
    return lambda one: one.signal(place, text=text, number=signal.SIGSTOP)


def _go(place: str, text: str) -> Callable[[Federation], None]:
    return lambda one: one.signal(place, text=text, number=signal.SIGCONT)


def _shape(hospital: str, way: Way) -> Callable[[Federation], None]:
    return lambda one: one.net.shape(hospital, up=way, down=way)


def _boot(one: Federation) -> None:
    one.vault_again("hosp-b")
    one.relay_again("hosp-b")


def _cut_all(one: Federation) -> None:
    for hospital in one.net.topology.hospitals:
        one.net.cut(hospital)


def _mend_all(one: Federation) -> None:
    for hospital in one.net.topology.hospitals:
        one.net.mend(hospital)


def _double(one: Federation) -> None:
    one.tap(TAPPED).doubling.set()


def _undouble(one: Federation) -> str | None:
    tap = one.tap(TAPPED)
    tap.doubling.clear()
    return f"{tap.differed} repetitions got other bytes" if tap.differed else None


def _old(one: Federation) -> str | None:
    wrong = one.tap(TAPPED).repeat_all()
    return f"{wrong} old envelopes got an answer that they had not got before" if wrong else None


def _junk_vault(one: Federation) -> str | None:
    reply, code = one.tap(TAPPED).send(os.urandom(SIZE_BYTES))
    return None if not reply and code.startswith("E-") else f"junk was answered with {len(reply)} bytes, code {code[:40]!r}"


def _junk_coordinator(one: Federation) -> str | None:
    address, ports = one.net.topology.coordinator, [str(port) for port in one.net.listening(COORDINATOR)]
    command = [sys.executable, "-m", "deploy.drill.junk", address, *ports]
    with (one.running.logs / "junk.log").open("ab") as log:
        child = one.net.run_in(CLOCKED, command, stdout=log, stderr=subprocess.STDOUT, cwd=Path(ROOT))
    return None if child.wait(len(ports) * 60) == 0 else "the junk could not be sent"


DRILLS: Final = (
    Drill(
        name="slow link", done="1 Mbit/s, 200 ms each way, 2 % loss at one hospital for 60 s",
        act=_shape("hosp-b", SLOW), undo=_shape("hosp-b", BASE), lasts_s=60, goes_on=True, good_within_s=20,
    ),
    Drill(
        name="rough link", done="packets doubled (5 %), overtaking (10 %), lost (2 %) at one hospital for 15 s",
        act=_shape("hosp-c", ROUGH), undo=_shape("hosp-c", BASE), lasts_s=15, goes_on=True, good_within_s=10,
    ),
    Drill(
        name="short cut", done="one hospital's link silent for 5 s, within patience",
        act=lambda one: one.net.cut("hosp-a"), undo=lambda one: one.net.mend("hosp-a"), lasts_s=5, good_within_s=20,
    ),
    Drill(
        name="cut of all", done="every link silent for 5 s, within patience",
        act=_cut_all, undo=_mend_all, lasts_s=5, good_within_s=20,
    ),
    Drill(
        name="long cut", done="one hospital's link silent for 45 s, beyond patience",
        act=lambda one: one.net.cut("hosp-d"), undo=lambda one: one.net.mend("hosp-d"),
        lasts_s=45, lost_most=1, goes_on=True, good_within_s=60,
    ),
    Drill(
        name="frozen link", done="one hospital's packets held for 5 s, then all at once",
        act=lambda one: one.net.freeze("hosp-b"), undo=lambda one: one.net.mend("hosp-b"), lasts_s=5, good_within_s=20,
    ),
    Drill(
        name="frozen vault", done="SIGSTOP of a vault for 5 s", act=_stop("hosp-c", "motet-hospital vault"),
        undo=_go("hosp-c", "motet-hospital vault"), lasts_s=5, good_within_s=20,
    ),
    Drill(
        name="frozen relay", done="SIGSTOP of a relay's Flower processes for 45 s, beyond patience",
        act=_stop("hosp-c", FLOWER), undo=_go("hosp-c", FLOWER), lasts_s=45, lost_most=1, goes_on=True, good_within_s=90,
    ),
    Drill(
        name="doubled envelopes", done="every request handed to a vault twice, the one before in between, for 10 s",
        act=_double, undo=_undouble, lasts_s=10, goes_on=True, good_within_s=20,
    ),
    Drill(name="old envelopes", done="every request so far handed to a vault again", act=_old, goes_on=True, good_within_s=20),
    Drill(name="junk to a vault", done="50 MB of random bytes at a vault's socket", act=_junk_vault, good_within_s=20),
    Drill(
        name="junk to the coordinator", done="50 MB of random bytes at each of its ports, plain and posted in TLS",
        act=_junk_coordinator, good_within_s=30,
    ),
    Drill(
        name="full disk at a hospital", done="no byte left on a hospital's disk for 15 s",
        act=lambda one: one.fill_disk("hosp-d"), undo=lambda one: one.empty_disk("hosp-d"),
        lasts_s=15, lost_most=5, goes_on=True, good_within_s=30,
    ),
    Drill(
        name="full disk at the coordinator", done="no byte left on the coordinator's disk for 15 s",
        act=lambda one: one.fill_disk(COORDINATOR), undo=lambda one: one.empty_disk(COORDINATOR),
        lasts_s=15, lost_most=1, good_within_s=90,
    ),
    Drill(
        name="clock ahead", done="one hospital's clock 90 s ahead for 10 s, then back",
        act=lambda one: one.clock.step(shift_s=90),
        undo=lambda one: one.clock.step(shift_s=0), lasts_s=10, lost_most=1, good_within_s=90,
    ),
    Drill(
        name="clock an hour off", done="one hospital's clock an hour behind for 45 s",
        act=lambda one: one.clock.step(shift_s=-3600),
        undo=lambda one: one.clock.step(shift_s=0), lasts_s=45, lost_most=1, goes_on=True, good_within_s=90,
    ),
    Drill(
        name="vault killed", done="kill -9 of a vault, started again", act=_kill("hosp-b", VAULT),
        undo=lambda one: one.vault_again("hosp-b"), lost_most=1, good_within_s=60,
    ),
    Drill(
        name="carrier killed", done="kill -9 of a relay's ClientApp", act=_kill("hosp-d", CARRIER),
        lost_most=1, good_within_s=90,
    ),
    Drill(
        name="SuperNode killed", done="kill -9 of a relay's SuperNode", act=_kill("hosp-c", NODE),
        lost_most=1, good_within_s=120,
    ),
    Drill(
        name="relay killed", done="kill -9 of a relay's command, started again", act=_kill("hosp-c", RELAY),
        undo=lambda one: one.relay_again("hosp-c"), lost_most=1, good_within_s=120,
    ),
    Drill(
        name="hospital reboots", done="kill -9 of all of a hospital's processes, started again after 5 s",
        act=_kill("hosp-b", ""), undo=_boot, lasts_s=5, lost_most=1, good_within_s=120,
    ),
    Drill(
        name="ServerApp killed", done="kill -9 of flwr-serverapp",
        act=_kill(COORDINATOR, "flwr-serverapp"), good_within_s=90,
    ),
    Drill(
        name="executor killed", done="kill -9 of flower-superexec", act=_kill(COORDINATOR, "flower-superexec"),
        good_within_s=90,
    ),
    Drill(
        name="SuperLink killed", done="kill -9 of flower-superlink",
        act=_kill(COORDINATOR, "flower-superlink"), good_within_s=60,
    ),
    Drill(
        name="run killed", done="kill -9 of `motet-coordinator run`, nobody starts it",
        act=_kill(COORDINATOR, "motet-coordinator run"), good_within_s=20, needs="run",
    ),
    Drill(
        name="serve killed", done="kill -9 of `motet-coordinator serve`, started again", act=_kill(COORDINATOR, SERVE),
        undo=lambda one: one.serve_again(), good_within_s=90,
    ),
    Drill(
        name="coordinator reboots", done="kill -9 of all of the coordinator's processes, `serve` started again after 5 s",
        act=_kill(COORDINATOR, ""), undo=lambda one: one.serve_again(), lasts_s=5, lost_most=1, good_within_s=120,
    ),
)  # fmt: skip
