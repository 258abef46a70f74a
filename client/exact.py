"""Which exact sums this hospital took part in, over which rosters and rows: across runs, restarts and studies.

Two exact sums can be subtracted. The rule: from all sums answered on the same rows, no linear combination may leave fewer than
`roster_difference_min` hospitals; and sums on other rows of the same patients are not answered at all.
"""

import hashlib
import hmac
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from pathlib import Path

import numpy as np

from common import canonical, files
from common.errors import AlreadyAnswered, RecordDamaged
from common.study import Study


@dataclass(frozen=True, slots=True, kw_only=True)
class Answered:
    """One statistic: a keyed hash of its rows, and the rosters over which it was answered."""

    rows: str
    rosters: tuple[tuple[str, ...], ...]


Record = dict[str, Answered]


def check(
    path: Path, *, statistic: str, study: Study, roster: Sequence[str], rows: bytes, difference_min: int, secret: bytes
) -> Record:
    """Return the record with this sum in it, to be saved before anything leaves.

    rows: what enters the sum, any bytes; kept only as a keyed hash. Raises AlreadyAnswered when the same statistic was answered
    over other rows, or over rosters from which a combination with this one would isolate fewer than `difference_min`
    hospitals; RecordDamaged when the record cannot be read.
    """
    record = _read(path)
    key = _question(statistic, study)
    fingerprint = hmac.new(secret, rows, hashlib.sha256).hexdigest()
    before = record.get(key)
    rosters = before.rosters if before is not None else ()
    if before is not None and before.rows != fingerprint:
        raise AlreadyAnswered(
            "This exact statistic was answered over other rows before.",
            action="Restore the earlier scans and table, or propose a study with noise.",
        )
    if tuple(roster) not in rosters:
        rosters = (*rosters, tuple(roster))
        if len(rosters) > 1 and isolates(rosters, fewer_than=difference_min):
            raise AlreadyAnswered(
                "This exact statistic was answered over nearly the same roster.",
                action="Send the identical request again, or wait until the full roster is back.",
            )
    return {**record, key: Answered(rows=fingerprint, rosters=rosters)}


def save(path: Path, record: Record) -> None:
    """Write the record, 0600, synced to disk before it returns."""
    plain = {key: asdict(one) for key, one in record.items()}
    files.write(path, json.dumps(plain, sort_keys=True).encode(), private=True)


def isolates(rosters: Sequence[Sequence[str]], *, fewer_than: int) -> bool:
    """Tell whether a linear combination of the rosters' sums involves one to `fewer_than` - 1 hospitals.

    A combination vanishes outside a set of hospitals exactly when dropping that set's columns lowers the rank.
    """
    names = sorted({name for roster in rosters for name in roster})
    matrix = np.array([[float(name in roster) for name in names] for roster in rosters])
    rank = int(np.linalg.matrix_rank(matrix))
    size = min(fewer_than - 1, len(names))
    return any(
        int(np.linalg.matrix_rank(np.delete(matrix, list(dropped), axis=1))) < rank
        for dropped in combinations(range(len(names)), size)
    )


def _question(statistic: str, study: Study) -> str:
    """Return what is asked of the rows: the same columns prepared the same way are the same question in every study."""
    parts = {"variables", "recipe", "statistics"} if statistic == "gram" else {"variables", "recipe", "training"}
    return f"{statistic} {canonical.digest(study.model_dump(mode='python', include=parts))}"


def _read(path: Path) -> Record:
    if not path.exists():
        return {}
    try:
        return {
            key: Answered(rows=one["rows"], rosters=tuple(tuple(roster) for roster in one["rosters"]))
            for key, one in json.loads(path.read_bytes()).items()
        }
    except (ValueError, KeyError, TypeError, AttributeError):
        raise RecordDamaged("The record of exact sums cannot be read.", action="Restore it from your backup.") from None
