"""Claims about FHIR bundles: they give the rows that a CSV would, and what is doubtful is missing and counted by reason."""

import hashlib
import json
from collections import Counter
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from client import cohort, fhir
from client.inside import Measured
from common.errors import ClinicalTableWrong
from common.recipe import Recipe
from common.study import Study
from common.training import Training
from common.variable import Variable

LOINC = "http://loinc.org"
SMOKER = "observation:http://loinc.org|72166-2"
COPD = "condition:http://snomed.info/sct|13645005"


def variable(name: str, **more: Any) -> Variable:
    number = {} if "levels" in more else {"lower": Decimal(0), "upper": Decimal(500)}
    return Variable.model_validate({"name": name, "source": "clinical", "unit": "1", **number, **more})


STUDY = Study.model_construct(
    variables=(
        variable("sex", levels=["female", "male"], fhir="patient:gender"),
        variable("born", fhir="patient:birth-year", lower=Decimal(1900), upper=Decimal(2020)),
        variable("creatinine", unit="umol/L", fhir=f"observation:{LOINC}|14682-9"),
        variable("smoker", levels=["never", "current"], fhir=SMOKER),
        variable("copd", levels=["no", "yes"], fhir=COPD),
    ),
    recipe=Recipe.model_construct(patch_voxels=8, edge_channel=False),
    training=Training.model_construct(views_per_patient_max=2),
)


def pseudonym(kind: str, raw: str) -> str:
    return hashlib.sha256(f"{kind}/{raw}".encode()).hexdigest()


def patient(key: str, *, identifiers: list[dict[str, Any]] | None = None, **more: Any) -> dict[str, Any]:
    return {"resourceType": "Patient", "id": key, "identifier": identifiers or [{"value": f"PID-{key}"}], **more}


def concept(key: str) -> dict[str, Any]:
    system, code = key.partition(":")[2].split("|")
    return {"coding": [{"system": "http://other", "code": "x"}, {"system": system, "code": code}]}


def observation(who: str, key: str, **more: Any) -> dict[str, Any]:
    return {
        "resourceType": "Observation",
        "status": "final",
        "code": concept(key),
        "subject": {"reference": f"Patient/{who}"},
        **more,
    }


def creatinine(who: str, value: float, *, unit: str = "umol/L", **more: Any) -> dict[str, Any]:
    return observation(who, f"observation:{LOINC}|14682-9", valueQuantity={"value": value, "code": unit}, **more)


def condition(who: str, status: str | None) -> dict[str, Any]:
    said = {} if status is None else {"verificationStatus": {"coding": [{"code": status}]}}
    return {"resourceType": "Condition", "code": concept(COPD), "subject": {"reference": f"Patient/{who}"}, **said}


def read(*resources: dict[str, Any]) -> tuple[dict[str, dict[str, str]], Counter[tuple[str, str]]]:
    text = json.dumps({"resourceType": "Bundle", "entry": [{"resource": one} for one in resources]})
    found = fhir.read(text, study=STUDY, pseudonym=pseudonym)
    return found.rows, Counter((item.name, item.reason) for item in found.doubtful)


def test_a_bundle_gives_the_row_that_a_csv_would() -> None:
    rows, doubts = read(
        patient("a", gender="female", birthDate="1951-02-04"),
        creatinine("a", 88.5),
        observation("a", SMOKER, valueCodeableConcept={"coding": [{"code": "8392000", "display": "never"}]}),
        condition("a", "confirmed"),
    )
    assert rows == {
        pseudonym("patient", "PID-a"): {"sex": "female", "born": "1951", "creatinine": "88.5", "smoker": "never", "copd": "yes"}
    }
    assert not doubts


@pytest.mark.parametrize(
    ("resource", "name", "reason"),
    [
        (creatinine("a", 1.0, unit="mg/dL"), "creatinine", "FHIR_UNIT"),
        (creatinine("a", 1.0, status="preliminary"), "creatinine", "FHIR_NOT_FINAL"),
        (creatinine("a", 1.0, status="entered-in-error"), "creatinine", "FHIR_WITHDRAWN"),
        (creatinine("nobody", 1.0), "creatinine", "FHIR_NO_SUBJECT"),
        (
            observation("a", f"observation:{LOINC}|14682-9", valueQuantity={"value": 1, "code": "umol/L", "comparator": "<"}),
            "creatinine",
            "FHIR_COMPARATOR",
        ),
        (observation("a", f"observation:{LOINC}|14682-9", valueString="88"), "creatinine", "FHIR_VALUE"),
        (observation("a", SMOKER, valueString="sometimes"), "smoker", "FHIR_VALUE"),
        (condition("a", "provisional"), "copd", "FHIR_UNCONFIRMED"),
        (patient("b", identifiers=[{"value": "1"}, {"value": "2"}]), "bundle", "FHIR_IDENTIFIER"),
        (patient("b", identifiers=[{"value": " "}]), "bundle", "FHIR_IDENTIFIER"),
    ],
)
def test_what_is_doubtful_is_missing_and_counted(resource: dict[str, Any], name: str, reason: str) -> None:
    rows, doubts = read(patient("a"), resource)
    assert doubts == {(name, reason): 1}
    (row,) = rows.values()
    assert row == {"sex": "", "born": "", "creatinine": "", "smoker": "", "copd": "" if name == "copd" else "no"}


def test_the_newest_is_that_in_time_wherever_it_was_written() -> None:
    evening = creatinine("a", 80, effectiveDateTime="2020-05-01T23:00:00-05:00")  # four in the morning of the second, in UTC
    night = creatinine("a", 95, effectiveDateTime="2020-05-02T01:00:00+00:00")
    for order in ((evening, night), (night, evening)):
        assert [row["creatinine"] for row in read(patient("a"), *order)[0].values()] == ["80"]
    for text, expected in (("2020", "2020-01-01"), ("2020-03", "2020-03-01"), ("2020-03-02", "2020-03-02T00:00:00Z")):
        assert fhir._moment(text) == fhir._moment(expected) > fhir._moment("yesterday") == fhir._moment("")


def test_the_newest_value_counts_and_without_a_date_none_of_several() -> None:
    first, last = creatinine("a", 80, effectiveDateTime="2019-01-01"), creatinine("a", 95, effectiveDateTime="2020-05-01")
    assert [row["creatinine"] for row in read(patient("a"), last, first)[0].values()] == ["95"]
    rows, doubts = read(patient("a"), creatinine("a", 80), creatinine("a", 95))
    assert [row["creatinine"] for row in rows.values()] == [""]
    assert doubts == {("creatinine", "FHIR_SEVERAL"): 1}
    assert [row["creatinine"] for row in read(patient("a"), creatinine("a", 80), creatinine("a", 80))[0].values()] == ["80"]


def test_the_medical_record_number_is_the_patient_and_two_of_one_number_are_nobody() -> None:
    numbers = [{"value": "insurance"}, {"value": "PID-7", "type": {"coding": [{"code": "MR"}]}}]
    assert list(read(patient("a", identifiers=numbers))[0]) == [pseudonym("patient", "PID-7")]
    with_two = [patient(key, identifiers=numbers) for key in ("a", "b")]
    rows, doubts = read(*with_two, patient("c"))
    assert list(rows) == [pseudonym("patient", "PID-c")]
    assert doubts == {("bundle", "FHIR_DUPLICATE_PATIENT"): 2}


@pytest.mark.parametrize(
    "text", ["", "[]", "{", '{"resourceType": "Patient"}', '{"resourceType": "Bundle", "entry": []}', "[" * 200_000]
)
def test_what_is_no_bundle_is_refused_without_a_word_of_it(text: str) -> None:
    with pytest.raises(ClinicalTableWrong) as refused:
        fhir.read(text, study=STUDY, pseudonym=pseudonym)
    assert "PID" not in str(refused.value)


def test_a_study_without_places_in_fhir_needs_a_csv() -> None:
    bare = STUDY.model_copy(update={"variables": (variable("age"),)})
    with pytest.raises(ClinicalTableWrong, match="age"):
        fhir.read("{}", study=bare, pseudonym=pseudonym)


anything = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=8)),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=8), inner, max_size=3)),
    max_leaves=8,
)
KEYS = (
    "identifier",
    "gender",
    "birthDate",
    "id",
    "code",
    "subject",
    "status",
    "valueQuantity",
    "valueCodeableConcept",
    "fullUrl",
)


@settings(max_examples=80, deadline=None)
@given(
    st.sampled_from(["Patient", "Observation", "Condition", None, 7]),
    st.dictionaries(st.sampled_from(KEYS), anything, max_size=6),
)
def test_nothing_that_a_resource_may_hold_stops_the_rest(kind: object, made: dict[str, Any]) -> None:
    good = patient("good", gender="male")
    rows, _ = read(good, {**made, "resourceType": kind}, {**creatinine("good", 1.0), **made})
    assert rows[pseudonym("patient", "PID-good")]["sex"] == "male"


def test_a_bundle_joins_the_scans_and_doubtful_cells_are_counted(tmp_path: Path) -> None:
    people = [
        patient(key, gender=sex, birthDate="1851-01-01") for key, sex in (("a", "female"), ("b", "unknown"), ("c", "male"))
    ]
    entries = [{"fullUrl": f"urn:uuid:{one['id']}", "resource": one} for one in people]
    entries.append({"resource": {**creatinine("a", 70), "subject": {"reference": "urn:uuid:a"}}})
    path = tmp_path / "clinical.json"
    path.write_text(json.dumps({"resourceType": "Bundle", "entry": entries}))
    items = [Measured(patient=pseudonym("patient", f"PID-{key}"), series="s", values={}) for key in ("a", "b")]
    made = cohort.join(items, [], clinical=path, study=STUDY, pseudonym=pseudonym, set_aside=[])
    assert len(made.patients) == 2
    at = made.patients.index(pseudonym("patient", "PID-a"))
    assert made.table[at, made.columns.index("creatinine")] == 70
    assert made.table[at, made.columns.index("sex")] == 0
    assert Counter(item.reason for item in made.set_aside) == {"NO_SCANS": 1, "OUT_OF_BOUNDS": 2, "UNKNOWN_LEVEL": 1}
