"""The Flower side of the coordinator: carries envelopes to the hospitals' relays. The only Flower user here."""

import logging
import os
import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, RecordDict
from flwr.serverapp import Grid, ServerApp

from common import study as studies
from common.errors import MotetError
from server import config
from server.journal import Journal
from server.run import run_study

POLL_S = 0.2
OFFLINE = "E-OFFLINE"
MARGIN_S = 5.0  # a relay gives up a little before the coordinator does

log = logging.getLogger("motet.coordinator")

app = ServerApp()


class GridCarrier:
    """Envelopes as Flower messages: one wave out, replies as they come. Fixed polls of Flower's own are too slow."""

    def __init__(self, grid: Grid, names: tuple[str, ...], *, patience_s: float) -> None:
        """Wait until every named hospital's SuperNode is online, or until patience ends."""
        self._grid, self._names = grid, names
        end = time.monotonic() + patience_s
        while set(names) - set(self._nodes()) and time.monotonic() < end:
            time.sleep(POLL_S)

    def wave(self, envelopes: Mapping[str, bytes], *, deadline_s: float) -> dict[str, bytes | str]:
        """Carry one envelope to each hospital; see server.rounds.Carrier."""
        nodes = self._nodes()
        replies: dict[str, bytes | str] = {}
        names: dict[str, str] = {}
        for name, data in envelopes.items():
            pushed = list(self._grid.push_messages([self._message(data, nodes[name], deadline_s)])) if name in nodes else []
            if pushed:
                names[pushed[0]] = name
            else:
                replies[name] = OFFLINE
        waiting = set(names)
        end = time.monotonic() + deadline_s
        while waiting and time.monotonic() < end:
            for message in self._grid.pull_messages(waiting):
                sent = message.metadata.reply_to_message_id  # an error about a node that is gone names no node
                if sent not in waiting:
                    continue
                waiting.discard(sent)
                replies[names[sent]] = _error(message) if message.has_error() else _envelope(message)
            if waiting:
                time.sleep(POLL_S)
        return replies

    def present(self) -> frozenset[str]:
        """Return the hospitals whose SuperNode is online."""
        return frozenset(self._nodes())

    def _nodes(self) -> dict[str, int]:
        return {node.name: node.node_id for node in self._grid.get_nodes() if node.name in self._names}

    @staticmethod
    def _message(data: bytes, node: int, deadline_s: float) -> Message:
        content = RecordDict(
            {
                "envelope": ArrayRecord([np.frombuffer(data, np.uint8)]),
                "config": ConfigRecord({"deadline_s": max(deadline_s - MARGIN_S, 1.0)}),
            }
        )
        return Message(content, dst_node_id=node, message_type="query.envelope", ttl=deadline_s + 60)


def _error(message: Message) -> str:
    """Return the relay's own code, or OFFLINE for what Flower says of a node that is gone or crashed."""
    reason = str(message.error.reason)
    return reason if reason.startswith("E-") else OFFLINE


def _envelope(message: Message) -> bytes | str:
    record = message.content.get("envelope")
    arrays = record.to_numpy_ndarrays() if isinstance(record, ArrayRecord) else []
    return arrays[0].tobytes() if len(arrays) == 1 else "E-RELAY"


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Run the study that `motet-coordinator run` prepared, in this coordinator's folder."""
    home = config.Home(Path(os.environ["MOTET_COORDINATOR"]))
    run = str(context.run_config["run"])
    folder = home.runs / run
    study = studies.parse((folder / "study.json").read_bytes())
    roster = config.read_roster(home)
    try:
        carrier = GridCarrier(grid, roster.names, patience_s=study.patience_s)
        run_study(study=study, roster=roster, key=config.identity_key(home), carrier=carrier, folder=folder, run=run)
    except MotetError as error:
        Journal(folder / "journal.jsonl").write({"type": "failed", "code": error.code, "what": str(error)})
        log.error("%s", error)  # noqa: TRY400  (the text says what to do; a traceback would not)
        raise
    except Exception as error:
        Journal(folder / "journal.jsonl").write({"type": "failed", "code": "E-INTERNAL", "what": type(error).__name__})
        raise
