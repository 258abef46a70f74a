"""Which exact sums this hospital took part in: of what, over which rows and roster; across runs, restarts and studies.

Exact sums can be added and subtracted. The rule: what was summed once is summed again only over the identical rows and the
identical roster, where the answer tells nothing new. A Gram is a sum for every pair of its columns, so the rule holds pair by
pair: another study that shares two columns asks about them again.
"""

import hashlib
import hmac
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import MappingProxyType

from common import files
from common.errors import AlreadyAnswered, RecordDamaged


@dataclass(frozen=True, slots=True, kw_only=True)
class Answered:
    """One question: a keyed hash of the rows that were summed, the hospitals over which, and under which roster's hash."""

    rows: str
    roster: tuple[str, ...]
    under: str = ""


Record = dict[str, Answered]


def check(
    path: Path,
    *,
    questions: Mapping[str, bytes],
    roster: Sequence[str],
    secret: bytes,
    under: str = "",
    again: bool = False,
    definitions: Mapping[str, str] = MappingProxyType({}),
) -> Record:
    """Return the record with these sums in it, to be saved before anything leaves.

    questions: what is asked -> what enters the sum, any bytes; kept as keyed hashes only. `under`: the approved roster's hash.
    `again`: the ledger knows that these sums left before and will not count them a second time; then each must stand in the
    record under the same roster's hash, since the same name under another key may be another hospital. `definitions`: of the
    variables in them, by name and bounds, what makes their values, in words that a log may hold.
    Raises AlreadyAnswered when one of them was answered over other rows or another roster, or a variable of it was made by
    something else, RecordDamaged when the record cannot
    be read, or has forgotten what the ledger knows.
    """
    record = _read(path)
    if again and not questions.keys() <= record.keys():
        raise RecordDamaged(
            "The ledger shows exact sums that the record of exact sums does not know.",
            action="Restore state/exact.json from your newest backup, or ask for a new study.",
        )
    made = {
        name: Answered(rows=hmac.new(secret, words.encode(), hashlib.sha256).hexdigest(), roster=())
        for name, words in definitions.items()
    }
    for name, now in made.items():
        if record.get(name, now) != now:
            raise AlreadyAnswered(
                f"Exact sums of a variable of this name were had of another network; now it is {definitions[name]}.",
                action="Propose the study with the network of the earlier one, without this variable, or with noise.",
            )
    asked = {
        question: Answered(rows=hmac.new(secret, rows, hashlib.sha256).hexdigest(), roster=tuple(roster), under=under)
        for question, rows in questions.items()
    }
    for question, now in asked.items():
        before = record.get(question, now)
        if before.rows != now.rows:
            raise AlreadyAnswered(
                "This exact statistic was answered over other rows, or with other numbers, before.",
                action="Restore the earlier scans and table, or propose a study with noise.",
            )
        if before.roster != now.roster:
            raise AlreadyAnswered(
                "This exact statistic was answered over another roster before.",
                action="Send the identical request again, or wait until the full roster is back.",
            )
        if again and before.under != now.under:
            raise AlreadyAnswered(
                "This exact statistic was answered under a roster with other keys before.",
                action="Ask for a new study: its sums are counted as new ones.",
            )
    return {**record, **made, **asked}


def save(path: Path, record: Record) -> None:
    """Write the record, 0600, synced to disk before it returns."""
    plain = {key: asdict(one) for key, one in record.items()}
    files.write(path, json.dumps(plain, sort_keys=True).encode(), private=True)


def _read(path: Path) -> Record:
    if not path.exists():
        return {}
    try:
        return {
            key: Answered(rows=one["rows"], roster=tuple(one["roster"]), under=one.get("under", ""))
            for key, one in json.loads(path.read_bytes()).items()
        }
    except (ValueError, KeyError, TypeError, AttributeError):
        raise RecordDamaged("The record of exact sums cannot be read.", action="Restore it from your backup.") from None
