"""The relay: passes bytes between Flower and the vault's socket. It sees envelopes only; no torch, no pydicom."""

import functools
import logging
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import grpc
import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Context, Error, Message, RecordDict
from flwr.clientapp import ClientApp

from client import lane, vault_pb2, vault_pb2_grpc
from common.errors import MotetError
from common.lane import VAULT_AWAY

CHUNK_BYTES = 1 << 20
DEADLINE_S_MOST = 86_400.0  # the longest patience that a plan may have
STATE_S = 1.0
REFUSED = 2
CODE = re.compile(r"E-[A-Z-]{1,40}")

log = logging.getLogger("motet.relay")

app = ClientApp()


def coded(handler: Callable[[Message, Context], Message]) -> Callable[[Message, Context], Message]:
    """Let nothing but a code reach the coordinator: Flower would send the text of an exception verbatim."""

    @functools.wraps(handler)
    def wrapped(message: Message, context: Context) -> Message:
        try:
            return handler(message, context)
        except grpc.RpcError as error:
            shown = _code(error)
            log.warning("the vault did not answer: %s", shown)
            return Message(Error(code=REFUSED, reason=shown), reply_to=message)
        except MotetError as error:
            log.warning("%s", error)
            return Message(Error(code=REFUSED, reason=error.code), reply_to=message)
        except Exception as error:  # noqa: BLE001  (see the docstring)
            log.error("relay: %s", type(error).__name__)  # noqa: TRY400  (the text could come from the coordinator)
            return Message(Error(code=REFUSED, reason="E-RELAY"), reply_to=message)

    return wrapped


@app.query("join")
@coded
def join(message: Message, context: Context) -> Message:
    """Carry envelopes over the lane until the study ends; the answer says that it has."""
    config, known = message.content["config"], context.node_config
    folder = Path(str(known["relay"]))
    where = lane.Where(
        address=str(known["lane"]), ca=Path(str(known["ca"])), key=folder / "tls.key", certificate=folder / "tls.crt"
    )
    patience_s = _seconds(config["patience_s"])
    with grpc.insecure_channel(f"unix:{known['vault']}") as channel:
        vault = vault_pb2_grpc.VaultStub(channel)  # type: ignore[no-untyped-call]

        def ask(data: bytes) -> bytes | str:
            try:
                return b"".join(chunk.data for chunk in vault.Answer(_chunks(data), timeout=patience_s))
            except grpc.RpcError as error:
                shown = _code(error)
                log.warning("the vault did not answer: %s", shown)
                return shown

        def there() -> bool:
            try:
                vault.State(vault_pb2.StateRequest(), timeout=STATE_S)
            except grpc.RpcError:
                return False
            return True

        lane.carry(where, run=str(config["run"]), patience_s=patience_s, ask=ask, there=there)
    return Message(RecordDict({"config": ConfigRecord({})}), reply_to=message)


@app.query("envelope")
@coded
def envelope(message: Message, context: Context) -> Message:
    """Carry one envelope to the vault and its answer back."""
    config = message.content["config"]
    deadline_s = _seconds(config["deadline_s"])
    data = message.content["envelope"].to_numpy_ndarrays()[0].tobytes()  # type: ignore[union-attr]
    with grpc.insecure_channel(f"unix:{context.node_config['vault']}") as channel:
        answer = vault_pb2_grpc.VaultStub(channel).Answer  # type: ignore[no-untyped-call]
        reply = b"".join(chunk.data for chunk in answer(_chunks(data), timeout=deadline_s))
    array = np.frombuffer(reply, np.uint8)
    return Message(RecordDict({"envelope": ArrayRecord([array]), "config": ConfigRecord({})}), reply_to=message)


def _seconds(value: object) -> float:
    """Return what the coordinator says, within reason: it may say anything, NaN too."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return float(value) if number and 0 <= value <= DEADLINE_S_MOST else DEADLINE_S_MOST  # type: ignore[arg-type,operator]


def _chunks(data: bytes) -> Iterator[vault_pb2.Chunk]:
    for start in range(0, len(data), CHUNK_BYTES):
        yield vault_pb2.Chunk(data=data[start : start + CHUNK_BYTES])


def _code(error: grpc.RpcError) -> str:
    call = cast("Any", error)  # the errors that a channel raises are calls too
    if call.code() is grpc.StatusCode.UNAVAILABLE:
        return VAULT_AWAY
    details = call.details() or ""
    return details if CODE.fullmatch(details) else "E-RELAY"
