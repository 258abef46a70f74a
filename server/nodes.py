"""Which node keys the SuperLink lets in: compared with the signed roster's, and made equal to them."""

import ssl
import urllib.error
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from common.errors import ConfigError
from common.roster import Member, Roster
from server.config import Home, Settings

if TYPE_CHECKING:
    from google.protobuf.message import Message

ANSWER_S: Final = 20.0
BYTES_MOST: Final = 1 << 24
UNREGISTERED: Final = "unregistered"  # Flower's word for a node key that was taken away: it is never taken again
MEND: Final = "While no study runs: stop `serve`, delete flower/state.db* in the coordinator's folder, start `serve` again."


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """A node key that the SuperLink knows."""

    number: int
    key: bytes  # PEM
    name: str  # as it was registered; empty where it was registered by hand
    taken_away: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Compared:
    """How the SuperLink's node keys differ from the roster's."""

    missing: tuple[Member, ...]  # on the roster, not registered
    taken_away: tuple[str, ...]  # on the roster, and unregistered: Flower does not take such a key again
    strange: tuple[Node, ...]  # registered, not on the roster


def known(home: Home, settings: Settings) -> tuple[Node, ...]:
    """Return every node key that the SuperLink knows, also those that were taken away; raises ConfigError without an answer."""
    from flwr.proto.control_pb2 import ListNodesRequest, ListNodesResponse  # noqa: PLC0415  (0.7 s, for three commands only)

    answer = ListNodesResponse()
    answer.ParseFromString(_ask(home, settings, "list-nodes", ListNodesRequest()))
    return tuple(
        Node(number=one.node_id, key=one.public_key, name=one.name, taken_away=one.status == UNREGISTERED)
        for one in answer.nodes_info
    )


def compare(found: Sequence[Node], roster: Roster) -> Compared:
    """Return what differs between the SuperLink's node keys and the roster's; raises ConfigError on a node key that is none."""
    taken_away = {node.key for node in found if node.taken_away}
    here = {node.key for node in found} - taken_away
    keys = {member.name: _pem(member) for member in roster.members}
    return Compared(
        missing=tuple(member for member in roster.members if keys[member.name] not in here | taken_away),
        taken_away=tuple(name for name, key in keys.items() if key in taken_away),
        strange=tuple(node for node in found if not node.taken_away and node.key not in keys.values()),
    )


def match(home: Home, settings: Settings, roster: Roster) -> Compared:
    """Register what the roster names and take away what it does not; return what differed. Raises ConfigError.

    Doing it twice changes nothing. Whose key is taken away is refused by the SuperLink from that moment on.
    """
    from flwr.proto.control_pb2 import RegisterNodeRequest, UnregisterNodeRequest  # noqa: PLC0415

    differs = compare(known(home, settings), roster)
    refused: ConfigError | None = None
    for node in differs.strange:
        try:
            _ask(home, settings, "unregister-node", UnregisterNodeRequest(node_id=node.number))
        except ConfigError as error:
            refused = error
    for member in differs.missing:
        try:
            _ask(home, settings, "register-node", RegisterNodeRequest(public_key=_pem(member), name=member.name))
        except ConfigError as error:
            refused = error
    if refused is not None:  # `serve` and `revoke` may do the same at the same time: what counts is how it stands
        left = compare(known(home, settings), roster)
        if left.strange or left.missing:
            raise refused
    return differs


def _pem(member: Member) -> bytes:
    """Return a member's node key as Flower keeps it."""
    try:
        key = serialization.load_ssh_public_key(member.node_key.encode())
        return key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    except (ValueError, UnsupportedAlgorithm):
        raise ConfigError(f"The node key of {member.name} is none.", action="Ask the hospital to enrol again.") from None


def _ask(home: Home, settings: Settings, what: str, message: "Message") -> bytes:
    trust = ssl.create_default_context(cafile=str(home.certificates / "ca.crt"))
    request = urllib.request.Request(
        f"https://{settings.superlink}/v1/control/{what}",
        data=message.SerializeToString(),
        headers={"content-type": "application/protobuf"},
        method="POST",
    )
    try:
        with urllib.request.urlopen(request, context=trust, timeout=ANSWER_S) as answer:  # noqa: S310  (https, our own SuperLink)
            data: Any = answer.read(BYTES_MOST)
    except urllib.error.HTTPError as error:
        raise ConfigError(f"The SuperLink refused {what} ({error.code}).", action="Read superlink.log.") from None
    except OSError:
        raise ConfigError("The SuperLink does not answer.", action="Is `motet-coordinator serve` up?") from None
    return bytes(data)
