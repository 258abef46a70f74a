"""The clinical table out of a FHIR bundle: Patient, Observation and Condition become one row per patient, or a coded doubt.

Only what the study's dictionary names is read (`Variable.fhir`). A value enters if it says what the dictionary says: its code,
its unit, one of its levels; what is doubtful is missing, and counted by reason. No text of the bundle is in any message.
Source: HL7 FHIR R4 (Patient, Observation, Condition), a JSON Bundle.
"""

import json
import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, Final

from client.inside import SetAside
from common.errors import ClinicalTableWrong
from common.study import Study
from common.variable import Variable

ENTRIES_MOST: Final = 2_000_000
_FINAL: Final = frozenset({"final", "amended", "corrected"})
_WITHDRAWN: Final = frozenset({"entered-in-error", "cancelled"})

Json = dict[str, Any]


class Doubt(StrEnum):
    """Why a resource gives no value; `SetAside.reason`, whose name is the variable's, or "bundle"."""

    NO_SUBJECT = "FHIR_NO_SUBJECT"  # of nobody, or of a patient who is not in the bundle
    IDENTIFIER = "FHIR_IDENTIFIER"  # a patient without an identifier, or with several of which not exactly one is of type MR
    DUPLICATE_PATIENT = "FHIR_DUPLICATE_PATIENT"  # several patients with one identifier: none is used
    NOT_FINAL = "FHIR_NOT_FINAL"  # preliminary, registered, unknown
    WITHDRAWN = "FHIR_WITHDRAWN"  # entered in error, cancelled
    UNIT = "FHIR_UNIT"  # another unit than the dictionary's
    COMPARATOR = "FHIR_COMPARATOR"  # below or above something, not a number
    VALUE = "FHIR_VALUE"  # no value, or one of a kind that the variable cannot have
    SEVERAL = "FHIR_SEVERAL"  # different values, and no date that says which is the newest
    UNCONFIRMED = "FHIR_UNCONFIRMED"  # a condition that is suspected


@dataclass(frozen=True, slots=True, kw_only=True)
class Read:
    """The rows by pseudonym, cells as a CSV would have them, and what was doubtful."""

    rows: dict[str, dict[str, str]]
    doubtful: tuple[SetAside, ...]


def read(text: str, *, study: Study, pseudonym: Callable[[str, str], str]) -> Read:
    """Return the patients of a bundle with the study's clinical variables.

    | `Variable.fhir` | value |
    |---|---|
    | `patient:gender`, `patient:birth-year` | a level, spelled as FHIR does; the year of birthDate |
    | `observation:SYSTEM|CODE`, a number | a quantity in the dictionary's unit, or an integer where that is "1" |
    | `observation:SYSTEM|CODE`, levels | a coding's code or display, a concept's text, a string, true or false |
    | `condition:SYSTEM|CODE` | the second level: ever confirmed; the first: none, or refuted; missing: only suspected |

    Of several observations the newest by effectiveDateTime counts. A patient is the identifier of type MR, or the only one: the
    DICOM PatientID. Raises ClinicalTableWrong on what is not a JSON bundle, more than 2 million entries, a clinical variable
    without `fhir`, and where no patient is usable.
    """
    wanted = [one for one in study.variables if one.source == "clinical"]
    unnamed = [one.name for one in wanted if not one.fhir]
    if unnamed:
        raise _wrong(f"the study does not say where FHIR has {', '.join(unnamed)}", "Give a CSV, or ask for a study that does.")
    doubtful: list[SetAside] = []
    resources = _resources(text)
    people, rows = _patients(resources, wanted=wanted, pseudonym=pseudonym, doubtful=doubtful)
    by_code = {one.fhir: one for one in wanted if not one.fhir.startswith("patient:")}
    seen: dict[tuple[str, str], list[tuple[str, str]]] = defaultdict(list)
    for _, resource in resources:
        kind = str(resource.get("resourceType")).lower()
        codes = [f"{kind}:{code}" for code in _codings(resource.get("code"))]
        variable = next((by_code[code] for code in codes if code in by_code), None)
        if variable is None:
            continue
        who = people.get(_text(_map(resource.get("subject")).get("reference")))
        found = _stated(resource, variable=variable)
        if who is None or (isinstance(found, Doubt) and found != Doubt.UNCONFIRMED):
            doubtful.append(SetAside(name=variable.name, reason=found if isinstance(found, Doubt) else Doubt.NO_SUBJECT))
            continue
        seen[who, variable.name].append((_text(resource.get("effectiveDateTime")), str(found)))
    for variable in by_code.values():
        for who, row in rows.items():
            row[variable.name] = _settled(seen.get((who, variable.name), []), variable=variable, doubtful=doubtful)
    if not rows:
        raise _wrong("no patient in it can be used", "Each Patient needs one identifier, or one of type MR: the PatientID.")
    return Read(rows=rows, doubtful=tuple(doubtful))


def _resources(text: str) -> list[tuple[str, Json]]:
    """Return the resources of a bundle, each with its full URL."""
    try:
        bundle = json.loads(text)
    except (ValueError, RecursionError):
        raise _wrong("it is not JSON", "Export a FHIR bundle in JSON.") from None
    entries = _list(_map(bundle).get("entry"))
    if _map(bundle).get("resourceType") != "Bundle" or len(entries) > ENTRIES_MOST:
        raise _wrong("it is no FHIR bundle of at most 2 million entries", "Export one bundle of the study's patients.")
    return [(_text(_map(entry).get("fullUrl")), _map(_map(entry).get("resource"))) for entry in entries]


def _patients(
    resources: Sequence[tuple[str, Json]],
    *,
    wanted: Sequence[Variable],
    pseudonym: Callable[[str, str], str],
    doubtful: list[SetAside],
) -> tuple[dict[str, str], dict[str, dict[str, str]]]:
    """Return the pseudonym by what a subject may say, and each patient's row."""
    found = [(url, one, _identifier(one)) for url, one in resources if one.get("resourceType") == "Patient"]
    often = Counter(raw for _, _, raw in found)
    people: dict[str, str] = {}
    rows: dict[str, dict[str, str]] = {}
    for url, resource, raw in found:
        if raw is None or often[raw] > 1:
            doubtful.append(SetAside(name="bundle", reason=Doubt.IDENTIFIER if raw is None else Doubt.DUPLICATE_PATIENT))
            continue
        who = pseudonym("patient", raw)
        people |= {name: who for name in (url, f"Patient/{_text(resource.get('id'))}") if name not in {"", "Patient/"}}
        own = {"patient:gender": _text(resource.get("gender")), "patient:birth-year": _text(resource.get("birthDate"))[:4]}
        rows[who] = {one.name: own.get(one.fhir, "") for one in wanted}
    return people, rows


def _identifier(patient: Json) -> str | None:
    """Return the identifier that is the PatientID: the one of type MR, or the only one."""
    given = [_map(one) for one in _list(patient.get("identifier"))]
    numbers = [
        one for one in given if "MR" in {_text(_map(code).get("code")) for code in _list(_map(one.get("type")).get("coding"))}
    ]
    chosen = numbers or given
    return (_text(chosen[0].get("value")).strip() or None) if len(chosen) == 1 else None


def _stated(resource: Json, *, variable: Variable) -> str | Doubt:
    """Return the cell that one observation or condition makes, or why it makes none."""
    if variable.fhir.startswith("condition:"):
        status = {_text(_map(code).get("code")) for code in _list(_map(resource.get("verificationStatus")).get("coding"))}
        if "entered-in-error" in status:
            return Doubt.WITHDRAWN
        if "refuted" in status:
            return variable.levels[0]
        return variable.levels[1] if not status or "confirmed" in status else Doubt.UNCONFIRMED
    status_of = _text(resource.get("status"))
    if status_of not in _FINAL:
        return Doubt.WITHDRAWN if status_of in _WITHDRAWN else Doubt.NOT_FINAL
    return _level(resource, variable=variable) if variable.levels else _quantity(resource, variable=variable)


def _quantity(resource: Json, *, variable: Variable) -> str | Doubt:
    whole = resource.get("valueInteger")
    if isinstance(whole, int) and not isinstance(whole, bool):
        return repr(whole) if variable.unit == "1" else Doubt.UNIT
    quantity = _map(resource.get("valueQuantity"))
    value = quantity.get("value")
    if isinstance(value, bool) or not isinstance(value, int | float):
        return Doubt.VALUE
    if quantity.get("comparator") is not None:
        return Doubt.COMPARATOR
    units = {_text(quantity.get("code")), _text(quantity.get("unit"))} - {""}
    return repr(value) if variable.unit in units or (not units and variable.unit == "1") else Doubt.UNIT


def _level(resource: Json, *, variable: Variable) -> str | Doubt:
    concept = _map(resource.get("valueCodeableConcept"))
    said = {_text(concept.get("text")), _text(resource.get("valueString"))}
    said |= {_text(_map(code).get(key)) for code in _list(concept.get("coding")) for key in ("code", "display")}
    if isinstance(resource.get("valueBoolean"), bool):
        said.add(str(resource["valueBoolean"]).lower())
    levels = [one for one in variable.levels if one in said]
    return levels[0] if len(levels) == 1 else Doubt.VALUE


def _settled(found: Sequence[tuple[str, str]], *, variable: Variable, doubtful: list[SetAside]) -> str:
    """Return a patient's cell out of all that was stated, "" where it is missing."""
    if variable.fhir.startswith("condition:"):
        said = {value for _, value in found}
        if variable.levels[1] in said:
            return variable.levels[1]
        if Doubt.UNCONFIRMED in said:
            doubtful.append(SetAside(name=variable.name, reason=Doubt.UNCONFIRMED))
            return ""
        return variable.levels[0]
    if not found:
        return ""
    newest = max(_moment(when) for when, _ in found)
    values = {value for when, value in found if _moment(when) == newest}
    if len(values) > 1:
        doubtful.append(SetAside(name=variable.name, reason=Doubt.SEVERAL))
        return ""
    return values.pop()


def _moment(when: str) -> float:
    """Return a FHIR dateTime as seconds: of a day, month or year alone its beginning, in UTC; before all else what is none."""
    day, time = when[:10], when[10:]
    try:
        made = datetime.fromisoformat(day + "-01-01"[len(day) - 4 :] * (len(day) in {4, 7}) + time)
    except (ValueError, OverflowError):
        return -math.inf
    return (made if made.tzinfo else made.replace(tzinfo=UTC)).timestamp()


def _codings(concept: object) -> Iterator[str]:
    for code in _list(_map(concept).get("coding")):
        yield f"{_text(_map(code).get('system'))}|{_text(_map(code).get('code'))}"


def _map(value: object) -> Json:
    return value if isinstance(value, dict) else {}


def _list(value: object) -> list[object]:
    return value if isinstance(value, list) else []


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""


def _wrong(what: str, action: str) -> ClinicalTableWrong:
    return ClinicalTableWrong(f"The clinical table cannot be used: {what}.", action=action)
