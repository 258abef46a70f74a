"""Replies as they arrive: each checked from its head on, kept on disk, and handed on piece by piece."""

import contextlib
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import IO

from common import wire
from common.errors import BadEnvelope, MotetError
from common.roster import Roster
from common.wire import Envelope

PIECE_BYTES = 1 << 20
Begin = Callable[[str, Envelope, int], Callable[[memoryview], None]]


def keep_only(_name: str, _head: Envelope, _blob_bytes: int) -> Callable[[memoryview], None]:
    """Hand a blob to nobody: it is kept on disk, and that is all."""
    return lambda _piece: None


class Intake:
    """One wave's replies. Hospitals' threads may call `receive` side by side; each hospital's bytes come in order.

    A whole reply of the expected kind is left as `place/<hospital>.envelope`; nothing else stays there.
    """

    def __init__(
        self, names: Iterable[str], *, place: Path, kind: str, run: str, roster: Roster, begin: Begin = keep_only
    ) -> None:
        """Expect one reply of `kind`, or a refusal, from each hospital in `names`."""
        self._replies = {name: _Reply(name, place=place, kind=kind, run=run, roster=roster, begin=begin) for name in names}

    def receive(self, name: str, data: bytes) -> None:
        """Take a hospital's next bytes; raises BadEnvelope, SecondUpload or what `begin` raises: its reply is lost then."""
        if name in self._replies:  # a carrier is not trusted
            self._replies[name].take(data)

    def abandon(self) -> None:
        """Close the files of a wave that ended with an error; the next one writes them anew."""
        for reply in self._replies.values():
            reply.abandon()

    def close(self, failed: dict[str, str]) -> tuple[dict[str, Envelope], dict[str, str]]:
        """Return the good replies without their blobs, and a code for every other hospital.

        failed: the codes that the carrier has for hospitals that it could not reach or whose reply was refused.
        """
        good: dict[str, Envelope] = {}
        codes: dict[str, str] = {}
        for name, reply in self._replies.items():
            if name in failed:
                reply.abandon()  # also a whole one: what the carrier called failed is not on disk as if it had come
                codes[name] = failed[name]
                continue
            ended = reply.end()
            if isinstance(ended, str):
                codes[name] = ended
            else:
                good[name] = ended
        return good, codes


class _Reply:
    """One hospital's reply: written to a file beside its place, renamed when it is whole and good."""

    def __init__(self, name: str, *, place: Path, kind: str, run: str, roster: Roster, begin: Begin) -> None:
        self._path, self._beside = place / f"{name}.envelope", place / f".{name}.part"
        self._name, self._kind, self._run, self._hand_on = name, kind, run, begin
        self._incoming = wire.Incoming(key=roster.identity(name), sender=name, recipient=roster.coordinator, begin=self._begin)
        self._file: IO[bytes] | None = None
        self._code = ""

    def take(self, data: bytes) -> None:
        if self._code:
            return
        try:
            if self._file is None:
                self._file = open(self._beside, "wb", opener=_private)  # noqa: SIM115  (Path.open takes no opener; closed in `end`)
            self._file.write(data)
            self._incoming.take(data)
        except MotetError as error:
            self._code = error.code
            raise

    def abandon(self) -> None:
        if self._file is not None:
            self._file.close()
            self._beside.unlink(missing_ok=True)

    def end(self) -> Envelope | str:
        try:
            if self._file is None:
                return self._code or "E-LATE"
            self._file.close()
            if self._code:
                return self._code
            head = self._incoming.end()
            if head.kind == "refusal":
                return str(head.body.get("code"))
            self._beside.replace(self._path)
        except BadEnvelope as error:
            return "E-LATE" if not self._incoming.whole else error.code
        else:
            return head
        finally:
            with contextlib.suppress(FileNotFoundError):
                self._beside.unlink()

    def _begin(self, head: Envelope, blob_bytes: int) -> Callable[[memoryview], None]:
        if head.run != self._run or head.kind not in {self._kind, "refusal"}:
            raise BadEnvelope("A reply is from another run or step.", action="Start the study again.")
        if blob_bytes and head.kind != "upload":
            raise BadEnvelope(f"A reply of {self._name} carries a blob that nobody asked for.", action="Ask the hospital.")
        if head.kind == "refusal":
            return keep_only(self._name, head, blob_bytes)
        return self._hand_on(self._name, head, blob_bytes)


def read(path: Path, *, kind: str, run: str, roster: Roster, begin: Begin = keep_only) -> Envelope:
    """Read a reply that was kept earlier, named `<hospital>.envelope`, with the same checks; raises what `Intake` does."""
    name = path.stem

    def checked(head: Envelope, blob_bytes: int) -> Callable[[memoryview], None]:
        if head.run != run or head.kind != kind:
            raise BadEnvelope("A kept reply is from another run or step.", action="Restore the run's folder.")
        return begin(name, head, blob_bytes)

    if name not in roster.names:
        raise BadEnvelope("A kept reply is from nobody on the roster.", action="Restore the run's folder.")
    incoming = wire.Incoming(key=roster.identity(name), sender=name, recipient=roster.coordinator, begin=checked)
    with path.open("rb") as file:
        while piece := file.read(PIECE_BYTES):
            incoming.take(piece)
    return incoming.end()


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)
