"""Raising a cap takes two of the hospital's own officers: their signatures stand beside the new policy in its ledger."""

from collections.abc import Mapping
from decimal import Decimal, InvalidOperation
from typing import Any, Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from common import canonical
from common.errors import OutsidePolicy

CAPS: Final = ("epsilon_cap", "delta_cap", "exact_releases_max")
SIGNERS: Final = 2
DOMAIN: Final = b"motet/policy/v2\0"


def must_sign(before: Mapping[str, Any] | None, after: Mapping[str, Any]) -> frozenset[str]:
    """Return the officers of whom two must sign the step from one recorded policy to the next; none where nobody can or need.

    It needs them when the next policy raises a cap, or names other officers than the one before, if that names any.
    """
    named = (before or {}).get("officers") or []
    officers = frozenset(key for key in named if isinstance(key, str)) if isinstance(named, list) else frozenset()
    return officers if _raises(before, after) or named != (after.get("officers") or []) else frozenset()


def statement(before: Mapping[str, Any], after: Mapping[str, Any], *, origin: str, entry: int) -> bytes:
    """Return what officers sign: the ledger, the policy that it holds, as which entry, and the one that is to follow.

    By the entry's number a signature holds once: not again after the cap was put back to what it was.
    """
    step = {"before": canonical.digest(dict(before)), "entry": entry, "after": dict(after)}
    return DOMAIN + canonical.encode({"ledger": origin, **step})


def sign(
    before: Mapping[str, Any], after: Mapping[str, Any], *, origin: str, entry: int, key: Ed25519PrivateKey
) -> tuple[str, str]:
    """Return an officer's public key and signature, both hexadecimal."""
    public = key.public_key().public_bytes_raw().hex()
    return public, key.sign(statement(before, after, origin=origin, entry=entry)).hex()


def check(
    before: Mapping[str, Any] | None, after: Mapping[str, Any], *, origin: str, entry: int, signatures: Mapping[str, str]
) -> None:
    """Raise OutsidePolicy when the step needs two officers' signatures and has not two that hold; `before` is entry `entry`.

    A policy that names no officers has nobody to sign: its caps stay, and the first officers may be named by anybody.
    """
    officers = must_sign(before, after)
    if not officers and _raises(before, after):
        raise OutsidePolicy(
            "A cap was raised, and the policy before names no officers of whom two could sign.",
            action="Put the old cap back, name two officers in site.toml and restart the vault; then they sign a higher one.",
        )
    found = len(held(before, after, origin=origin, entry=entry, signatures=signatures))
    if officers and found < SIGNERS:
        raise OutsidePolicy(
            f"A cap was raised, or the officers changed, with {found} of {SIGNERS} officers' signatures.",
            action="Let two officers run `motet-hospital sign-policy`, or put the old policy back.",
        )


def held(
    before: Mapping[str, Any] | None, after: Mapping[str, Any], *, origin: str, entry: int, signatures: Mapping[str, str]
) -> dict[str, str]:
    """Return those of the signatures that are officers' who must sign this step, and hold for it."""
    wanted = sorted(must_sign(before, after) & signatures.keys())
    said = statement(before or {}, after, origin=origin, entry=entry)
    return {key: signatures[key] for key in wanted if _holds(key, signatures[key], said)}


def _raises(before: Mapping[str, Any] | None, after: Mapping[str, Any]) -> bool:
    return any(_number((before or {}).get(cap)) < _number(after.get(cap)) for cap in CAPS)


def _holds(key: str, signature: str, said: bytes) -> bool:
    try:
        Ed25519PublicKey.from_public_bytes(bytes.fromhex(key)).verify(bytes.fromhex(signature), said)
    except (InvalidSignature, ValueError):
        return False
    return True


def _number(value: object) -> Decimal:
    """Return a cap as a number; what is missing or malformed is as high as can be: nothing is raised above it."""
    try:
        number = Decimal(value) if isinstance(value, str | int) and not isinstance(value, bool) else Decimal("NaN")
    except InvalidOperation:
        number = Decimal("NaN")
    return Decimal("Infinity") if number.is_nan() else number
