"""The vault's metrics as a file for node-exporter's textfile collector: a process without a network needs no port."""

import logging
import os
import secrets
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from decimal import Decimal
from pathlib import Path
from typing import Final

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from typing_extensions import override

from client.config import Policy
from client.ledger import Ledger, Spent
from client.refusals import told
from common.errors import MotetError
from common.ledger import events
from common.ledger.events import Kind

FILE: Final = "metrics.prom"
EVERY_S: Final = 15.0  # a sign of life for whoever watches the file's age
SOONEST_S: Final = 1.0  # answers may follow one another within milliseconds

log = logging.getLogger("motet.vault")


class Metrics:
    """What the vault tells its hospital's monitoring. `answered` and `turned_away` may be called from any thread."""

    def __init__(self, path: Path, *, ledger: Ledger, policy: Callable[[], Policy]) -> None:
        """`policy` reads site.toml as it is now; raises as it does. Later, what cannot be read leaves the last one in place."""
        self._path, self._ledger, self._read_policy = path, ledger, policy
        self._policy = policy()
        self._lock, self._changed = threading.Lock(), threading.Event()
        self._last_answer: float | None = None
        self._turned_away: Counter[str] = Counter()
        self._refusals: Counter[str] = Counter()
        self._entries = 0  # of the ledger, counted into _refusals

    def answered(self) -> None:
        """Note that an envelope was answered, by an upload or by a signed refusal."""
        with self._lock:
            self._last_answer = time.time()
        self._changed.set()

    def turned_away(self, code: str) -> None:
        """Note that an envelope got no signed answer, and why."""
        with self._lock:
            self._turned_away[code] += 1
        self._changed.set()

    def write(self, *, up: bool) -> None:
        """Replace the file in one step, mode 0640. What cannot be written is logged and changes nothing else.

        Guarantee: nothing of a patient, and nothing that depends on patients' data beyond what `motet-hospital status` shows;
        a refusal because of the data counts under E-REFUSED (client/refusals.py).
        """
        try:
            self._policy = self._read_policy()
        except MotetError as error:  # being edited, or wrong: every request is turned away for it and says so
            log.warning("policy-not-read", extra={"code": error.code})
        try:
            spent = self._ledger.spent(delta=self._policy.delta_cap)
            self._count_refusals()
            with self._lock:
                collected = _Vault(
                    up=up,
                    spent=spent,
                    cap=self._policy.epsilon_cap,
                    exact_most=self._policy.exact_releases_max,
                    last_answer=self._last_answer,
                    refusals=dict(self._refusals),
                    turned_away=dict(self._turned_away),
                )
            registry = CollectorRegistry(auto_describe=False)
            registry.register(collected)
            _replace(self._path, generate_latest(registry))
        except (OSError, MotetError) as error:
            log.warning("metrics-not-written", extra={"code": getattr(error, "code", "E-DISK")})

    def keep(self, stop: threading.Event) -> None:
        """Write whenever something changed, at most every SOONEST_S and at least every EVERY_S, until `stop` is set."""
        while not stop.wait(SOONEST_S):
            self._changed.clear()
            self.write(up=True)
            self._changed.wait(EVERY_S)

    def wake(self) -> None:
        """Let `keep` look at its `stop`."""
        self._changed.set()

    def _count_refusals(self) -> None:
        for data in self._ledger.entries(start=self._entries):
            event = events.decode(data)
            self._entries += 1
            if event.kind == Kind.REFUSE:
                code = str(event.fields["code"])
                self._refusals[told(code)] += 1


@contextmanager
def kept(folder: Path, *, ledger: Ledger, policy: Callable[[], Policy]) -> Iterator[Metrics]:
    """Keep `folder`/metrics.prom up to date inside the block; after it the file says that the vault is down."""
    metrics, stop = Metrics(folder / FILE, ledger=ledger, policy=policy), threading.Event()
    keeper = threading.Thread(target=metrics.keep, args=(stop,), name="metrics", daemon=True)
    metrics.write(up=True)
    keeper.start()
    try:
        yield metrics
    finally:
        stop.set()
        metrics.wake()
        keeper.join()
        metrics.write(up=False)


class _Vault(Collector):
    """The vault at one moment, collected once."""

    def __init__(
        self,
        *,
        up: bool,
        spent: Spent,
        cap: Decimal,
        exact_most: int,
        last_answer: float | None,
        refusals: dict[str, int],
        turned_away: dict[str, int],
    ) -> None:
        self._up, self._spent, self._cap, self._exact_most = up, spent, cap, exact_most
        self._last_answer, self._refusals, self._turned_away = last_answer, refusals, turned_away

    @override
    def collect(self) -> Iterator[Metric]:
        spent = self._spent
        for name, help_, value in (
            ("motet_vault_up", "1 while the vault runs; see also the age of this file.", float(self._up)),
            ("motet_vault_written_time_seconds", "When this file was written, Unix time.", time.time()),
            ("motet_vault_last_answer_time_seconds", "When the vault last answered, Unix time.", self._last_answer),
            ("motet_vault_epsilon_spent", "Epsilon per patient spent so far, Renyi accounting.", float(spent.epsilon_rdp)),
            ("motet_vault_epsilon_cap", "The hospital's cap on epsilon.", float(self._cap)),
            ("motet_vault_exact_releases_max", "The hospital's cap on exact releases.", float(self._exact_most)),
        ):
            if value is not None:
                yield GaugeMetricFamily(name, help_, value=value)
        releases = CounterMetricFamily("motet_vault_releases", "Releases in the ledger, by kind.", labels=("kind",))
        releases.add_metric(("noise",), spent.releases_private)
        releases.add_metric(("exact",), spent.releases_exact)
        yield releases
        refusals = CounterMetricFamily("motet_vault_refusals", "Refusals in the ledger, by code.", labels=("code",))
        for code, count in sorted(self._refusals.items()):
            refusals.add_metric((code,), count)
        yield refusals
        away = CounterMetricFamily(
            "motet_vault_turned_away", "Envelopes without a signed answer since the start, by code.", labels=("code",)
        )
        for code, count in sorted(self._turned_away.items()):
            away.add_metric((code,), count)
        yield away


def _replace(path: Path, data: bytes) -> None:
    """Replace `path` in one step, readable by its group; not synced, as a lost file is written again in seconds."""
    beside = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            os.fchmod(file.fileno(), 0o640)  # the vault's umask would take the group's read away
        beside.replace(path)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise
