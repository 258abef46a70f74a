"""Which patients entered which exact sum, so that no two sums over overlapping columns differ by a few patients or hospitals.

Complete cases depend on the columns: a patient who lacks one value is in one sum and not in the other, and the difference of
the two is that patient. The rule, for sums that share a variable, of any analysis, study or run: the same roster, and either
the same patients or at least k different ones, of whom the two sums together tell no more than one sum may (client/between.py).
So it is of patients whom three or more of them leave alone (client/overlaps.py).
Also counts the distinct queries that each analysis has asked, answered or not, and which of them was not answered: a refusal is
a bit about the data, and after one no other question of its form is taken.
"""

import hashlib
import hmac
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol

from client import kin, overlaps
from common import files
from common.errors import AlreadyAnswered, OutsidePolicy, RecordDamaged

TAG_BYTES = 12

Grids = tuple[tuple[str, tuple[float, ...]], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Released:
    """One kind of sum: its name, the variables behind it, its roster, and which set of patients."""

    label: str
    variables: frozenset[str]
    roster: tuple[str, ...]
    patients: str
    kernel: str = "gram"
    grids: Grids = ()  # of the variables that it counts
    functions: tuple[str, ...] = ()  # of variables, of which products are summed


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """What is on disk: sets of patients as keyed hashes, the sums over them, and the queries of each analysis.

    `open`: of a form of a study's queries, the one that was asked and not answered.
    """

    sets: dict[str, frozenset[str]]
    sums: tuple[Released, ...]
    queries: dict[str, frozenset[str]]
    open: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Asking:
    """What is asked now; `query_sha256`, `counted` and `form` are empty for a Gram."""

    label: str
    variables: frozenset[str]
    roster: tuple[str, ...]
    patients: Sequence[str]
    kernel: str = "gram"
    grids: Grids = ()
    functions: tuple[str, ...] = ()
    query_sha256: str = ""
    counted: str = ""  # under what the query counts against its cap
    form: str = ""  # what it is a question of: other numbers, the same sums


class Judge(Protocol):
    """What says whether sums over shared variables may be had together; it raises where they may not."""

    def pair(self, earlier: Released, now: Released, apart: frozenset[str]) -> None:
        """Judge two sums; `apart` are the tags of the patients who are in one of them only."""

    def span(self, now: Released, functions: frozenset[str]) -> None:
        """Judge all functions of variables of which this sum and earlier ones hold products."""


def check(record: Record, *, asking: Asking, cell_min: int, secret: bytes, judge: Judge) -> Record:
    """Return the record with this sum in it, to be saved before anything leaves; the same object when nothing is new.

    `judge` judges a new sum beside each earlier one that shares a variable. Raises AlreadyAnswered, which names the earlier
    sum, when the roster is another, or 1 to k - 1 patients are, of one that shares a variable or holds what determines one
    (client/kin.py); by Grams too, since client/exact.py does not know a pair of columns again whose bounds are others.
    """
    tags = frozenset(tag(patient, secret) for patient in asking.patients)
    name = hashlib.sha256("".join(sorted(tags)).encode()).hexdigest()
    now = Released(
        label=asking.label,
        variables=asking.variables,
        roster=asking.roster,
        patients=name,
        kernel=asking.kernel,
        grids=asking.grids,
        functions=asking.functions,
    )
    beside = [earlier for earlier in record.sums if earlier.variables & asking.variables]
    for earlier in record.sums:
        if earlier not in beside and not kin.related(earlier.variables, asking.variables):
            continue
        if earlier.roster != asking.roster:
            raise AlreadyAnswered(
                f"The roster is another than that of an earlier sum ({earlier.label}).", action="Wait for the full roster."
            )
        apart = tags ^ record.sets[earlier.patients]
        if 0 < len(apart) < cell_min:
            raise AlreadyAnswered(
                f"The patients are nearly those of an earlier sum ({earlier.label}).",
                action="Leave out the variable that few patients lack, or let a study share its patients (complete_cases).",
            )
        if now not in record.sums and earlier in beside:
            judge.pair(earlier, now, apart)
    if now in record.sums:
        return record
    _check_overlaps({**record.sets, name: tags}, record.sums, now, cell_min=cell_min, judge=judge)
    alike = [[one for one in beside if one.patients == patients] for patients in {one.patients: None for one in beside}]
    for together in (*alike, beside):  # each set by itself too: a sum that few patients entered leaves few to look at
        functions = frozenset(name for one in (*together, now) for name in one.functions)
        if now.functions and functions > frozenset(now.functions):
            judge.span(now, functions)
    return replace(record, sets={**record.sets, name: tags}, sums=(*record.sums, now))


def _check_overlaps(
    sets: Mapping[str, frozenset[str]], sums: Sequence[Released], now: Released, *, cell_min: int, judge: Judge
) -> None:
    """Refuse a sum that with two or more earlier ones of a variable leaves few patients alone, or too much of many.

    Of variables that determine one another (client/kin.py): few patients.
    """
    found: dict[frozenset[str], tuple[frozenset[str], ...]] = {}  # most variables have the same sums
    judged: set[tuple[Released, frozenset[str]]] = set()
    for group, with_it in _together(sums, now):
        names = frozenset(one.patients for one in (*with_it, now))
        if names not in found:
            found[names] = tuple(overlaps.alone([sets[name] for name in sorted(names)], few=cell_min - 1))
        shared = now.variables.intersection(*(one.variables for one in with_it))
        functions = frozenset(now.functions).intersection(*(one.functions for one in with_it))
        kernel = next((one.kernel for one in with_it if not one.functions), now.kernel)
        common = replace(now, variables=shared, functions=tuple(sorted(functions)), grids=(), kernel=kernel)
        for alone in found[names]:
            if not alone:
                raise AlreadyAnswered(
                    f"With earlier sums of {', '.join(sorted(group & now.variables))}, this one leaves few patients alone.",
                    action="Let a study share its patients (complete_cases), or leave out a variable that patients lack.",
                )
            if shared and (common, alone) not in judged:
                judge.pair(common, now, alone)
                judged.add((common, alone))


def _together(sums: Sequence[Released], now: Released) -> Iterator[tuple[frozenset[str], list[Released]]]:
    """Yield which earlier sums are looked at with `now`, and what they share: a variable or family, or functions.

    Of sums that only count, or hold fewer functions, the others together may show more.
    """
    for group in (*(frozenset({name}) for name in sorted(now.variables)), *kin.families(now.variables)):
        yield group, [one for one in sums if not group.isdisjoint(one.variables)]
    shared = {frozenset(now.functions).intersection(one.functions) for one in sums}
    for functions in sorted({one & other for one in shared for other in shared} - {frozenset()}, key=sorted):
        with_it = [one for one in sums if functions <= frozenset(one.functions)]
        yield now.variables.intersection(*(one.variables for one in with_it)), with_it


def asked(record: Record, *, asking: Asking, queries_most: int) -> Record:
    """Return the record that counts this query and holds it open, to be saved before it meets a value.

    The same object when it was answered before. Raises OutsidePolicy when the analysis has asked `queries_most` other queries
    before, whatever restarts or runs lie between, or when another one of this form was not answered.
    """
    before = record.queries.get(asking.counted, frozenset())
    waiting = record.open.get(asking.form)
    if asking.query_sha256 in before and asking.query_sha256 != waiting:
        return record
    if waiting not in {None, asking.query_sha256}:
        raise OutsidePolicy("An earlier question of this form was refused.", action="Ask it again, or propose a new study.")
    if asking.query_sha256 not in before and len(before) >= queries_most:
        raise OutsidePolicy("The analysis has asked as often as its study allows.", action="Propose a new study.")
    return replace(
        record,
        queries={**record.queries, asking.counted: before | {asking.query_sha256}},
        open={**record.open, asking.form: asking.query_sha256},
    )


def answered(record: Record, *, asking: Asking) -> Record:
    """Return the record in which this query is not open any more."""
    left = {form: waiting for form, waiting in record.open.items() if (form, waiting) != (asking.form, asking.query_sha256)}
    return replace(record, open=left)


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
                    kernel=one.get("kernel", "gram"),
                    functions=tuple(one.get("functions", ())),
                    grids=tuple(sorted((key, tuple(map(float.fromhex, at))) for key, at in one.get("grids", {}).items())),
                )
                for one in plain["sums"]
            ),
            queries={label: frozenset(hashes) for label, hashes in plain["queries"].items()},
            open=dict(plain.get("open", {})),
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
                "kernel": one.kernel,
                "functions": list(one.functions),
                "grids": {key: [edge.hex() for edge in edges] for key, edges in one.grids},
            }
            for one in record.sums
        ],
        "queries": {label: sorted(hashes) for label, hashes in record.queries.items()},
        "open": record.open,
    }
    files.write(path, json.dumps(plain, sort_keys=True).encode(), private=True)


def tag(patient: str, secret: bytes) -> str:
    """Return the keyed hash under which a patient stands in the record."""
    return hmac.new(secret, b"released\0" + patient.encode(), hashlib.sha256).digest()[:TAG_BYTES].hex()
