"""The entries of a bundle in words, one row each; shown as they are written, verified or not."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from common.audit.bundle import Bundle
from common.ledger import events
from common.ledger.events import Event, Kind

LATEST = 253_402_300_799  # the last second of the year 9999


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One entry: number, time (UTC), type, and what it says."""

    seq: int
    time: str
    kind: str
    says: str


def rows(bundle: Bundle) -> Iterator[Row]:
    """Yield the entries in order; raises RecordDamaged at one that is not an entry."""
    for line in bundle.entries:
        event = events.decode(line)
        time = datetime.fromtimestamp(event.ts, tz=UTC).isoformat(sep=" ")[:19] if event.ts <= LATEST else str(event.ts)
        yield Row(seq=event.seq, time=time, kind=event.kind.value, says=_words(event))


def printable(text: str) -> str:
    """Return `text` with everything that could steer a terminal replaced."""
    return "".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in text)


def _words(event: Event) -> str:
    fields = event.fields
    if event.kind == Kind.RESERVE:
        return f"{fields['id']}: {_mechanism(fields['mech'])}, round {fields['round']}, {len(fields['roster'])} hospitals"
    if event.kind == Kind.RELEASE:
        return f"{fields['id']}: {fields['bytes']} bytes, SHA-256 {fields['sha256']}"
    if event.kind == Kind.POLICY:
        return printable(", ".join(f"{name} {value}" for name, value in sorted(fields["policy"].items())))
    return printable(
        ", ".join(f"{name} {value}" for name, value in sorted(fields.items()) if value is not None and name != "salt")
    )


def _mechanism(mech: dict[str, Any]) -> str:
    if mech["name"] == "none":
        return printable(f"EXACT {mech['statistic']}, epsilon infinite")
    drawn = f"sampling rate {mech['sampling_rate']}" if mech["sampling"] == "poisson" else f"{mech['statistic']}, everybody"
    times = f", {mech['steps']} local steps" if mech["name"] == "dp-sgd-local" else ""
    return printable(f"noise {mech['noise_multiplier']}, clip {mech['clip_norm']}, {drawn}{times}")
