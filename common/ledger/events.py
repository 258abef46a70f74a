"""What a ledger entry is: one line of canonical JSON of a known type, with exactly that type's fields."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from enum import StrEnum
from functools import lru_cache
from typing import Any

from common import canonical, mechanism
from common.errors import RecordDamaged
from common.mechanism import Mechanism

VERSION = 1
ENTRY_BYTES_MOST = 65_535  # a bundle of tlog-tiles has 16-bit lengths
ROSTER_MOST = 64
HEADER = frozenset({"v", "seq", "type", "ts"})

ID = re.compile(r"[\x21-\x7e]{1,200}\Z")
HASH = re.compile(r"[0-9a-f]{64}\Z")
SIGNATURE = re.compile(r"[0-9a-f]{128}\Z")
SALT = re.compile(r"[0-9a-f]{32}\Z")
NAME = re.compile(r"[a-z][a-z0-9_-]{0,63}\Z")
CODE = re.compile(r"[A-Z][A-Z0-9-]{0,63}\Z")
DECIMAL = re.compile(r"(0|[1-9][0-9]{0,23})(\.[0-9]{1,40})?\Z")
MECHANISM_DECIMALS = ("noise_multiplier", "clip_norm", "sampling_rate")

ABORT_REASONS = frozenset(
    {
        "hospital-missing",  # the round cannot open any more
        "cancelled-by-coordinator",
        "stopped-by-hospital",
        "no-memory-before-reading",
    }
)
"""Why a reservation may be given back: none of them depends on a patient's data."""


class Kind(StrEnum):
    """The types of entries."""

    GENESIS = "genesis"
    POLICY = "policy"
    PLAN = "plan"
    RESERVE = "reserve"
    RELEASE = "release"
    COMMIT = "commit"
    VOID = "void"
    ABORT = "abort"
    FORFEIT = "forfeit"
    REFUSE = "refuse"


SALTED = frozenset({Kind.POLICY, Kind.REFUSE})
"""Entries whose hash must not tell by trial what they say: witnesses see hashes. Ledgers write a salt into them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """One entry: its number, its type, when (seconds since 1970), and the fields of its type."""

    seq: int
    kind: Kind
    ts: int
    fields: Mapping[str, Any]


def encode(event: Event) -> bytes:
    """Return the entry's line, without the newline; raises ValueError when a field is missing, unknown or malformed."""
    if not (_whole(event.seq) and _whole(event.ts)):
        raise ValueError("an entry needs a number and a time")
    try:
        fields = canonical.decode(canonical.encode(dict(event.fields)))
    except TypeError as error:
        raise ValueError(str(error)) from None
    _check_fields(event.kind, fields)
    data = canonical.encode({"v": VERSION, "seq": event.seq, "type": event.kind.value, "ts": event.ts, **fields})
    if len(data) > ENTRY_BYTES_MOST:
        raise ValueError("an entry is too long")
    return data


def decode(data: bytes) -> Event:
    """Read an entry back; raises RecordDamaged unless it is exactly what `encode` writes."""
    try:
        if len(data) > ENTRY_BYTES_MOST:
            raise ValueError("too long")
        plain = canonical.decode(data)
        if not isinstance(plain, dict) or not plain.keys() >= HEADER or plain["v"] is True or plain["v"] != VERSION:
            raise ValueError("not an entry of version 1")
        if not (_whole(plain["seq"]) and _whole(plain["ts"])):
            raise ValueError("no number or no time")
        kind = Kind(plain["type"])
        fields = {key: value for key, value in plain.items() if key not in HEADER}
        _check_fields(kind, fields)
    except (ValueError, TypeError, KeyError, RecursionError):
        raise RecordDamaged(
            "An entry of the ledger is not one that Motet writes.",
            action="Do not trust this record; ask the hospital for the original.",
        ) from None
    return Event(seq=plain["seq"], kind=kind, ts=plain["ts"], fields=fields)


def mechanism_of(entry: Mapping[str, Any]) -> Mechanism:
    """Return the mechanism of a reserve entry; raises ValueError on an unknown or malformed one, TypeError on a nested one.

    The mechanisms of a ledger are few: each is read once.
    """
    values = tuple(entry.values())
    return _mechanism_read(tuple(entry), values, tuple(map(type, values)))  # in types too: True is not 1


def _check_fields(kind: Kind, fields: Mapping[str, Any]) -> None:
    expected = FIELDS[kind]
    if kind in SALTED and "salt" in fields:
        if not _text(SALT)(fields["salt"]):
            raise ValueError("a salt is 32 hex digits")
        fields = {name: value for name, value in fields.items() if name != "salt"}
    if kind == Kind.POLICY and "signatures" in fields:
        if not _signatures(fields["signatures"]):
            raise ValueError("the signatures of a policy are malformed")
        fields = {name: value for name, value in fields.items() if name != "signatures"}
    if fields.keys() != expected.keys():
        raise ValueError(f"a {kind.value} entry has the fields {', '.join(sorted(expected))}")
    for name, holds in expected.items():
        if not holds(fields[name]):
            raise ValueError(f"the field {name} of a {kind.value} entry is malformed")


def _text(pattern: re.Pattern[str]) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, str) and pattern.match(value) is not None


def _or_none(holds: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: value is None or holds(value)


def _whole(value: Any) -> bool:  # noqa: ANN401
    return type(value) is int and 0 <= value < canonical.LARGEST_INTEGER


def _printable(most: int) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, str) and 0 < len(value) <= most


def _is_object(value: Any) -> bool:  # noqa: ANN401
    return isinstance(value, dict)


def _signatures(value: Any) -> bool:  # noqa: ANN401
    key, signature = _text(HASH), _text(SIGNATURE)
    return (
        isinstance(value, dict)
        and 1 <= len(value) <= ROSTER_MOST
        and all(map(key, value))
        and all(map(signature, value.values()))
    )


def _roster(value: Any) -> bool:  # noqa: ANN401
    named = _text(ID)
    return (
        isinstance(value, list) and 1 <= len(value) <= ROSTER_MOST and all(map(named, value)) and len(set(value)) == len(value)
    )


def _mechanism(value: Any) -> bool:  # noqa: ANN401
    if not isinstance(value, dict):
        return False
    mechanism_of(value)  # raises ValueError or TypeError
    return True


@lru_cache(maxsize=4096)
def _mechanism_read(names: tuple[str, ...], values: tuple[Any, ...], _kinds: tuple[type, ...]) -> Mechanism:
    entry = dict(zip(names, values, strict=True))
    if not all(_decimal(entry[name]) for name in MECHANISM_DECIMALS if name in entry):
        raise ValueError("malformed mechanism")
    return mechanism.from_entry(entry)


def _decimal(value: Any) -> bool:  # noqa: ANN401
    return isinstance(value, str) and DECIMAL.match(value) is not None and canonical.decimal_text(Decimal(value)) == value


def _reason(value: Any) -> bool:  # noqa: ANN401
    return isinstance(value, str) and value in ABORT_REASONS


FIELDS: Mapping[Kind, Mapping[str, Callable[[Any], bool]]] = {
    Kind.GENESIS: {"origin": _printable(255), "key": _printable(4096)},
    Kind.POLICY: {"policy": _is_object},
    Kind.PLAN: {"study": _text(HASH), "title": _printable(200)},
    Kind.RESERVE: {
        "id": _text(ID),
        "study": _text(HASH),
        "purpose": _text(NAME),
        "mech": _mechanism,
        "round": _whole,
        "roster": _roster,
        "epsilon_cap": _decimal,
        "delta_cap": _decimal,
        "delta": _decimal,
    },
    Kind.RELEASE: {"id": _text(ID), "sha256": _text(HASH), "bytes": _whole},
    Kind.COMMIT: {"id": _text(ID)},
    Kind.VOID: {"id": _text(ID)},
    Kind.ABORT: {"id": _text(ID), "reason": _reason},
    Kind.FORFEIT: {"id": _text(ID)},
    Kind.REFUSE: {"code": _text(CODE), "study": _or_none(_text(HASH)), "round": _or_none(_whole)},
}
