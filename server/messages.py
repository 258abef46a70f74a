"""Flower messages: invitations to the lane, and envelopes for studies whose carrier is the message."""

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Collection, Mapping

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Message, RecordDict
from flwr.serverapp import Grid

from common.errors import MotetError
from common.wire import Sealed
from server.exchange import CODE

POLL_S = 0.2
OFFLINE = "E-OFFLINE"
NOT_ONE = "E-RELAY"  # a message without an envelope
AGAIN_S, AGAIN_S_MOST = 0.5, 30.0  # between two invitations; doubled for a relay that leaves again and again
SETTLED_S = 60.0  # who stayed so long is invited again at once
MARGIN_S = 5.0  # a relay gives up a little before the coordinator does
INVITATION_S = 7 * 86_400  # how long Flower keeps an invitation for a hospital that is away
GOODBYE_S = 3.0  # for the relays' answers when the study ends

log = logging.getLogger("motet.coordinator")


def nodes(grid: Grid, names: tuple[str, ...]) -> dict[str, int]:
    """Return the node ids of the named hospitals whose SuperNode is online."""
    return {node.name: node.node_id for node in grid.get_nodes() if node.name in names}


class Invitations:
    """Keeps every hospital's relay invited: one message each, and another when Flower says that the first one is lost."""

    def __init__(self, grid: Grid, names: tuple[str, ...], *, run: str, patience_s: float) -> None:
        """Start inviting, in a thread of its own: it alone speaks with Flower."""
        self._grid, self._names, self._run, self._patience_s = grid, names, run, patience_s
        self._sent: dict[str, str] = {}  # message id -> hospital
        self._again: dict[
            str, tuple[float, float]
        ] = {}  # hospital -> when it is invited next at the earliest, pause after that
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._keep, name="invitations", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Wait a little for the relays' answers, once the lane said goodbye to them."""
        self._over.set()
        self._thread.join(GOODBYE_S + 2 * POLL_S)

    def _keep(self) -> None:
        while not self._over.wait(POLL_S):
            try:
                self._collect()
                self._invite()
            except Exception as error:  # noqa: BLE001  (the SuperLink may restart; the lane goes on meanwhile)
                log.warning("Flower does not answer: %s", type(error).__name__)
                self._over.wait(1.0)
        end = time.monotonic() + GOODBYE_S
        with contextlib.suppress(Exception):  # the study is over
            while self._sent and time.monotonic() < end:
                self._collect()
                time.sleep(POLL_S / 4)

    def _collect(self) -> None:
        for message in _pull(self._grid, self._sent):
            name = self._sent.pop(message.metadata.reply_to_message_id, None)
            if name is not None and message.has_error():
                log.warning("%s: its relay left: %s", name, _error(message))

    def _invite(self) -> None:
        invited = set(self._sent.values())
        now = time.monotonic()
        for name, node in nodes(self._grid, self._names).items():
            earliest, pause = self._again.get(name, (now, AGAIN_S))
            if name not in invited and now >= earliest:
                pause = AGAIN_S if now - earliest > SETTLED_S else min(2 * pause, AGAIN_S_MOST)
                self._again[name] = now + pause, pause
                config = ConfigRecord({"run": self._run, "patience_s": self._patience_s})
                message = Message(RecordDict({"config": config}), dst_node_id=node, message_type="query.join", ttl=INVITATION_S)
                for pushed in self._grid.push_messages([message]):
                    self._sent[pushed] = name


class MessageCarrier:
    """Envelopes as Flower messages: one wave out, replies as they come. Fixed polls of Flower's own are too slow."""

    def __init__(self, grid: Grid, names: tuple[str, ...], *, patience_s: float) -> None:
        """Wait until every named hospital's SuperNode is online, or until patience ends."""
        self._grid, self._names = grid, names
        end = time.monotonic() + patience_s
        while set(names) - set(nodes(grid, names)) and time.monotonic() < end:
            time.sleep(POLL_S)

    def wave(
        self, envelopes: Mapping[str, Sealed], *, deadline_s: float, receive: Callable[[str, bytes], None]
    ) -> dict[str, str]:
        """Carry one envelope to each hospital; see server.exchange.Carrier."""
        online = nodes(self._grid, self._names)
        failed: dict[str, str] = {}
        names: dict[str, str] = {}
        for name, sealed in envelopes.items():
            pushed = list(self._grid.push_messages([_message(sealed, online[name], deadline_s)])) if name in online else []
            if pushed:
                names[pushed[0]] = name
            else:
                failed[name] = OFFLINE
        waiting = set(names)
        end = time.monotonic() + deadline_s
        while waiting and time.monotonic() < end:
            for message in _pull(self._grid, waiting):
                sent = message.metadata.reply_to_message_id  # an error about a node that is gone names no node
                if sent not in waiting:
                    continue
                waiting.discard(sent)
                data = _error(message) if message.has_error() else _envelope(message)
                if isinstance(data, str):
                    failed[names[sent]] = data
                    continue
                try:
                    receive(names[sent], data)
                except MotetError as error:
                    failed[names[sent]] = error.code
            if waiting:
                time.sleep(POLL_S)
        return failed

    def present(self) -> frozenset[str]:
        """Return the hospitals whose SuperNode is online."""
        return frozenset(nodes(self._grid, self._names))


def _message(sealed: Sealed, node: int, deadline_s: float) -> Message:
    content = RecordDict(
        {
            "envelope": ArrayRecord([np.frombuffer(sealed.whole(), np.uint8)]),
            "config": ConfigRecord({"deadline_s": max(deadline_s - MARGIN_S, 1.0)}),
        }
    )
    return Message(content, dst_node_id=node, message_type="query.envelope", ttl=deadline_s + 60)


def _pull(grid: Grid, waiting: Collection[str]) -> list[Message]:
    """Return the messages that came, asked for one by one: one that Flower cannot unpack takes no other with it."""
    came: list[Message] = []
    failed = ""
    for one in list(waiting):
        try:
            came.extend(grid.pull_messages([one]))
        except Exception as error:  # noqa: BLE001  (what comes from a hospital is not trusted to be harmless)
            failed = type(error).__name__
    if failed:
        log.warning("Flower does not hand out a message: %s", failed)
    return came


def _error(message: Message) -> str:
    """Return the relay's own code, or OFFLINE for what Flower says of a node that is gone or crashed."""
    reason = str(message.error.reason)
    return reason if CODE.fullmatch(reason) else OFFLINE


def _envelope(message: Message) -> bytes | str:
    try:
        record = message.content.get("envelope")
        arrays = record.to_numpy_ndarrays() if isinstance(record, ArrayRecord) else []
        return arrays[0].tobytes() if len(arrays) == 1 else NOT_ONE
    except Exception as error:  # noqa: BLE001  (arrays that are none, as a hostile relay can send them)
        log.warning("a message could not be read: %s", type(error).__name__)
        return NOT_ONE
