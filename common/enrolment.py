"""A hospital's request to be put on a roster: its public keys, signed by its identity."""

import itertools
from collections.abc import Mapping

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from common import canonical
from common.errors import ConfigError
from common.roster import Member

DOMAIN = b"motet/enrolment/v1\0"
BYTES_MOST = 1 << 16


def request(member: Member, *, key: Ed25519PrivateKey) -> bytes:
    """Return the enrolment file of `member`, signed by its identity key."""
    signature = key.sign(DOMAIN + canonical.encode(member.plain())).hex()
    return canonical.encode({**member.plain(), "signature": signature})


def parse(data: bytes) -> Member:
    """Read an enrolment file; raises ConfigError when it is malformed or not signed by the identity in it.

    The signature shows that the sender holds the key. Whose key it is, the coordinator asks the hospital by another way.
    """
    action = "Ask the hospital to run `motet-hospital enrol` again."
    try:
        if len(data) > BYTES_MOST:
            raise ValueError("too large")
        plain = canonical.decode(data)
        member = Member.from_plain(plain)
        if canonical.encode({**member.plain(), "signature": plain["signature"]}) != data:
            raise ValueError("unknown keys")
        Ed25519PublicKey.from_public_bytes(bytes.fromhex(member.identity)).verify(
            bytes.fromhex(plain["signature"]), DOMAIN + canonical.encode(member.plain())
        )
    except InvalidSignature:
        raise ConfigError("An enrolment's signature does not hold.", action=action) from None
    except (ValueError, KeyError, TypeError):
        raise ConfigError("An enrolment is malformed.", action=action) from None
    return member


def distinct(requests: Mapping[str, Member]) -> None:
    """Check that no two of these requests, by file name, are of one hospital; raises ConfigError naming the two files."""
    for (first, one), (second, other) in itertools.combinations(requests.items(), 2):
        if one == other:
            what = f"{first} and {second} are the same request of {one.name}."
        elif one.name == other.name:
            what = f"{first} and {second} are requests of two hospitals that are both called {one.name}."
        elif one.identity == other.identity or (one.relay_certificate and one.relay_certificate == other.relay_certificate):
            what = f"{first} and {second} hold one key under the names {one.name} and {other.name}."
        else:
            continue
        raise ConfigError(what, action="Give one of them, or let one hospital choose another name with `init` and enrol again.")
