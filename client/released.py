"""Which patients entered which exact sum, so that no two sums over overlapping columns differ by a few patients or hospitals.

Complete cases depend on the columns: a patient who lacks one value is in one sum and not in the other, and the difference of
the two is that patient. The rule, for sums that share a variable, of any analysis, study or run: the same roster, and either
the same patients or at least k different ones. Also counts the distinct queries that each analysis of a study has asked.
"""

import hashlib
import hmac
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from common import files
from common.errors import AlreadyAnswered, OutsidePolicy, RecordDamaged

TAG_BYTES = 12


@dataclass(frozen=True, slots=True, kw_only=True)
class Released:
    """One kind of sum: its name, the variables behind it, its roster, and which set of patients."""

    label: str
    variables: frozenset[str]
    roster: tuple[str, ...]
    patients: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """What is on disk: sets of patients as keyed hashes, the sums over them, and the queries of each analysis."""

    sets: dict[str, frozenset[str]]
    sums: tuple[Released, ...]
    queries: dict[str, frozenset[str]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Asking:
    """What is asked now; `query_sha256` and `counted` are empty for a Gram."""

    label: str
    variables: frozenset[str]
    roster: tuple[str, ...]
    patients: Sequence[str]
    query_sha256: str = ""
    counted: str = ""  # under what the query counts against its cap


def check(record: Record, *, asking: Asking, cell_min: int, queries_most: int, secret: bytes) -> Record:
    """Return the record with this sum in it, to be saved before anything leaves; the same object when nothing is new.

    Raises AlreadyAnswered, which names the earlier sum, when the rule is broken; by Grams too, since client/exact.py does not
    know a pair of columns again whose bounds are others. Raises OutsidePolicy when the analysis has asked `queries_most` other
    queries before; one that was asked before counts once, whatever restarts or runs lie between.
    """
    tags = frozenset(_tag(patient, secret) for patient in asking.patients)
    name = hashlib.sha256("".join(sorted(tags)).encode()).hexdigest()
    for earlier in record.sums:
        if not earlier.variables & asking.variables:
            continue
        if earlier.roster != asking.roster:
            raise _differs(f"The roster is another than that of an earlier sum ({earlier.label}).")
        if 0 < len(tags ^ record.sets[earlier.patients]) < cell_min:
            raise _differs(f"The patients are nearly those of an earlier sum ({earlier.label}).")
    now = Released(label=asking.label, variables=asking.variables, roster=asking.roster, patients=name)
    made = record if now in record.sums else replace(record, sets={**record.sets, name: tags}, sums=(*record.sums, now))
    if not asking.query_sha256:
        return made
    before = record.queries.get(asking.counted, frozenset())
    if asking.query_sha256 in before:
        return made
    if len(before) >= queries_most:
        raise OutsidePolicy("The analysis has asked as often as its study allows.", action="Propose a new study.")
    return replace(made, queries={**record.queries, asking.counted: before | {asking.query_sha256}})


def read(path: Path) -> Record:
    """Read the record, an empty one where there is none; raises RecordDamaged."""
    if not path.exists():
        return Record(sets={}, sums=(), queries={})
    try:
        plain = json.loads(path.read_bytes())
        record = Record(
            sets={name: frozenset(tags) for name, tags in plain["sets"].items()},
            sums=tuple(
                Released(
                    label=one["label"],
                    variables=frozenset(one["variables"]),
                    roster=tuple(one["roster"]),
                    patients=one["patients"],
                )
                for one in plain["sums"]
            ),
            queries={label: frozenset(hashes) for label, hashes in plain["queries"].items()},
        )
        if not {one.patients for one in record.sums} <= set(record.sets):
            raise KeyError("a set of patients is missing")
    except (ValueError, KeyError, TypeError, AttributeError):
        raise RecordDamaged("The record of released sums cannot be read.", action="Restore it from your backup.") from None
    return record


def save(path: Path, record: Record) -> None:
    """Write the record, 0600, synced to disk before it returns."""
    plain = {
        "sets": {name: sorted(tags) for name, tags in record.sets.items()},
        "sums": [
            {
                "label": one.label,
                "variables": sorted(one.variables),
                "roster": list(one.roster),
                "patients": one.patients,
            }
            for one in record.sums
        ],
        "queries": {label: sorted(hashes) for label, hashes in record.queries.items()},
    }
    files.write(path, json.dumps(plain, sort_keys=True).encode(), private=True)


def _tag(patient: str, secret: bytes) -> str:
    return hmac.new(secret, b"released\0" + patient.encode(), hashlib.sha256).digest()[:TAG_BYTES].hex()


def _differs(what: str) -> AlreadyAnswered:
    return AlreadyAnswered(what, action="Leave out the variable that few patients lack, or wait for the full roster.")
