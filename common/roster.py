"""The roster: which hospitals and which coordinator make up a federation, by their keys. Approved by its hash."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from common import canonical
from common.errors import ConfigError

NAME = re.compile(r"[a-z][a-z0-9-]{0,31}\Z")
HEX_KEY = re.compile(r"[0-9a-f]{64}\Z")
MEMBERS_FEWEST, MEMBERS_MOST = 2, 64
BYTES_MOST = 1 << 20
DOMAIN = b"motet/roster/v1\0"


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """One hospital: identity key (Ed25519), ledger keys (C2SP verifier keys), Flower node key, and its relay's certificate.

    A member that enrolled before ledgers had a second key has none, and its roster and hash stay what they were.
    """

    name: str
    identity: str  # hex
    ledger_key: str  # vkey
    node_key: str  # OpenSSH public key
    relay_certificate: str  # PEM, self-signed: the lane lets in exactly these
    ledger_ml_dsa: str = ""  # vkey of the second signature on its checkpoints

    def __post_init__(self) -> None:
        if not NAME.match(self.name):
            raise ValueError("a hospital's name is 1-32 lower-case letters, digits and hyphens, letter first")
        if not HEX_KEY.match(self.identity):
            raise ValueError("an identity key is 64 hex digits")
        texts = (self.ledger_key, self.ledger_ml_dsa, self.node_key, self.relay_certificate)
        if not self.ledger_key or max(map(len, texts)) > 4096:
            raise ValueError("a key is missing or too long")

    def plain(self) -> dict[str, str]:
        """Return the member as JSON."""
        return {
            "name": self.name,
            "identity": self.identity,
            "ledger": self.ledger_key,
            "node": self.node_key,
            "relay": self.relay_certificate,
            **({"ledger_ml_dsa": self.ledger_ml_dsa} if self.ledger_ml_dsa else {}),
        }

    @classmethod
    def from_plain(cls, plain: Mapping[str, Any]) -> Self:
        """Read a member; raises KeyError, TypeError or ValueError."""
        return cls(
            name=plain["name"],
            identity=plain["identity"],
            ledger_key=plain["ledger"],
            node_key=plain["node"],
            relay_certificate=plain["relay"],
            ledger_ml_dsa=plain.get("ledger_ml_dsa", ""),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Roster:
    """A federation's members in sorted order, signed by the coordinator."""

    federation: str
    coordinator: str
    coordinator_identity: str  # hex
    members: tuple[Member, ...]
    signature: str  # hex, by the coordinator over DOMAIN and the canonical bytes of everything else

    @property
    def names(self) -> tuple[str, ...]:
        """Return the hospitals' names, sorted."""
        return tuple(member.name for member in self.members)

    def member(self, name: str) -> Member:
        """Return the hospital called `name`; raises KeyError."""
        return {member.name: member for member in self.members}[name]

    def identity(self, name: str) -> Ed25519PublicKey:
        """Return the public identity key of a hospital or of the coordinator; raises KeyError."""
        key = self.coordinator_identity if name == self.coordinator else self.member(name).identity
        return Ed25519PublicKey.from_public_bytes(bytes.fromhex(key))

    def body(self) -> dict[str, Any]:
        """Return what is hashed and signed."""
        return {
            "version": 1,
            "federation": self.federation,
            "coordinator": {"name": self.coordinator, "identity": self.coordinator_identity},
            "members": [member.plain() for member in self.members],
        }

    def hash(self) -> str:
        """Return the SHA-256 that each hospital approves, as 64 hex digits."""
        return canonical.digest(self.body())

    def bytes(self) -> bytes:
        """Return the roster file."""
        return canonical.encode({**self.body(), "signature": self.signature})


def in_groups(identity: str) -> str:
    """Return an identity key's hex digits in groups of four, as two people read them to each other."""
    return " ".join(identity[at : at + 4] for at in range(0, len(identity), 4))


def sign(*, federation: str, coordinator: str, key: Ed25519PrivateKey, members: tuple[Member, ...]) -> Roster:
    """Return the roster of `members`, signed by the coordinator; raises ConfigError on doubles or fewer than two."""
    unsigned = Roster(
        federation=federation,
        coordinator=coordinator,
        coordinator_identity=key.public_key().public_bytes_raw().hex(),
        members=tuple(sorted(members, key=lambda member: member.name)),
        signature="",
    )
    try:
        _distinct(unsigned)
    except ValueError as error:
        raise ConfigError(
            f"These make no roster: {error}.",
            action="Give every hospital's request once, all in one call, under names that differ.",
        ) from None
    signature = key.sign(DOMAIN + canonical.encode(unsigned.body())).hex()
    return parse(canonical.encode({**unsigned.body(), "signature": signature}))


def parse(data: bytes) -> Roster:
    """Read and check a roster file; raises ConfigError when it is malformed or its signature does not hold.

    The signature shows only that the file is whole: who the coordinator is, the hospital decides by approving the hash.
    """
    try:
        if len(data) > BYTES_MOST:
            raise ValueError("too large")
        plain = canonical.decode(data)
        roster = Roster(
            federation=_name(plain["federation"]),
            coordinator=_name(plain["coordinator"]["name"]),
            coordinator_identity=plain["coordinator"]["identity"],
            members=tuple(Member.from_plain(item) for item in plain["members"]),
            signature=plain["signature"],
        )
        if roster.bytes() != data:
            raise ValueError("unknown keys")
        _distinct(roster)
        key = Ed25519PublicKey.from_public_bytes(bytes.fromhex(roster.coordinator_identity))
        key.verify(bytes.fromhex(roster.signature), DOMAIN + canonical.encode(roster.body()))
    except InvalidSignature:
        raise ConfigError("The roster's signature does not hold.", action="Ask the coordinator for it again.") from None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        reason = str(error) if isinstance(error, ValueError) else "malformed"
        raise ConfigError(f"The roster is not valid: {reason}.", action="Ask the coordinator for it again.") from None
    return roster


def _name(value: object) -> str:
    if not isinstance(value, str) or not NAME.match(value):
        raise ValueError("a name is 1-32 lower-case letters, digits and hyphens, letter first")
    return value


def _distinct(roster: Roster) -> None:
    if not HEX_KEY.match(roster.coordinator_identity):
        raise ValueError("an identity key is 64 hex digits")
    names = [roster.coordinator, *roster.names]
    keys = [roster.coordinator_identity, *(member.identity for member in roster.members)]
    certificates = [member.relay_certificate for member in roster.members if member.relay_certificate]
    if not MEMBERS_FEWEST <= len(roster.members) <= MEMBERS_MOST:
        raise ValueError(f"a roster has {MEMBERS_FEWEST} to {MEMBERS_MOST} hospitals")
    distinct = all(len(set(values)) == len(values) for values in (names, keys, certificates))
    if list(roster.names) != sorted(roster.names) or not distinct:
        raise ValueError("two members share a name or a key, or the order is wrong")
