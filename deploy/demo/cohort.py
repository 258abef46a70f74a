"""The scans of `make demo`: real LIDC lesions rendered into simulated CT, and a clinical table, for each hospital.

python -m deploy.demo.cohort OUT [--patients N] [--seed S]
"""

import argparse
import csv
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

from rich.progress import Progress

from common import commands
from common.errors import AlreadyExists, ConfigError
from deploy.demo import dicom, lidc
from deploy.demo.lidc import Lesion
from deploy.demo.render import anatomy, render
from deploy.demo.scanner import SCANNERS, reproducible

VERSION = "v1"  # of the rendering; part of the folder's name, so that old scans are not taken for new ones
HOSPITALS = ("hosp-a", "hosp-b", "hosp-c", "hosp-d")
POSITIVE_ABOVE = 3.0
SECOND_SERIES_EVERY = 8  # every so many patients a follow-up scan, outlined by another reader
WITHOUT_ROW = (5, 23)  # patients whom the clinical table forgot
WITHOUT_AGE, WITHOUT_PACK_YEARS = (11, 31), (17,)


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """What was written."""

    hospitals: int
    patients: int
    series: int
    files: int
    positive: int  # patients whose mean malignancy is above 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One patient to render: which lesion, where. Small enough to be handed to another process."""

    hospital: str
    site: int
    number: int
    lesion: int  # index into lidc.lesions
    seed: int


def write_cohort(
    folder: Path,
    *,
    hospitals: Sequence[str],
    patients_per_hospital: int,
    seed: int,
    progress: Callable[[int, int], None] | None,
) -> Summary:
    """Write folder/<hospital>/{scans,clinical.csv} on all cores; the same arguments give the same bytes.

    The folder appears when everything is there; a half-written one is called `<folder>.partial` and is not reused. Raises
    AlreadyExists when one is there, ConfigError when there are too few lesions for so many patients.
    """
    partial = folder.with_name(f"{folder.name}.partial")
    if folder.exists() or partial.exists():
        raise AlreadyExists(f"{folder} or {partial.name} exists already.", action="Remove it, or choose another folder.")
    path = lidc.find()
    lesions = lidc.lesions(path)
    cases = _cases(lesions, hospitals=hospitals, patients=patients_per_hospital, seed=seed)
    partial.mkdir(parents=True)
    files = 0
    with ProcessPoolExecutor(os.cpu_count(), mp_context=get_context("spawn"), initializer=_load, initargs=(path,)) as pool:
        waiting = [pool.submit(_write_case, partial, case) for case in cases]
        for done, finished in enumerate(as_completed(waiting), start=1):
            files += finished.result()
            if progress is not None:
                progress(done, len(cases))
    for name in hospitals:
        own = [case for case in cases if case.hospital == name]
        _write_clinical(partial / name / "clinical.csv", own, lesions)
    partial.rename(folder)
    return Summary(
        hospitals=len(hospitals),
        patients=len(cases),
        series=sum(1 + _second(case) for case in cases),
        files=files,
        positive=sum(lesions[case.lesion].malignancy > POSITIVE_ABOVE for case in cases),
    )


def _cases(lesions: Sequence[Lesion], *, hospitals: Sequence[str], patients: int, seed: int) -> list[Case]:
    if not 1 <= len(hospitals) <= len(SCANNERS):
        raise ConfigError(f"There are scanners for 1 to {len(SCANNERS)} hospitals.", action="Name fewer hospitals.")
    random = reproducible(seed, "allocation")
    order = [int(index) for index in random.permutation(len(lesions))]
    positive = [index for index in order if lesions[index].malignancy > POSITIVE_ABOVE]
    negative = [index for index in order if lesions[index].malignancy <= POSITIVE_ABOVE]
    cases = []
    for site, hospital in enumerate(hospitals):
        wanted = round(SCANNERS[site].positive_share * patients)
        own = [positive.pop() for _ in range(min(wanted, len(positive)))]
        own += [negative.pop() for _ in range(min(patients - wanted, len(negative)))]
        if len(own) < patients:
            raise ConfigError("There are too few lesions for so many patients.", action="Ask for fewer patients.")
        mixed = [own[int(at)] for at in random.permutation(patients)]
        cases += [
            Case(hospital=hospital, site=site, number=number, lesion=index, seed=seed)
            for number, index in enumerate(mixed, start=1)
        ]
    return cases


_LESIONS: list[Lesion] = []  # of this worker process


def _load(path: Path) -> None:
    os.environ["OMP_NUM_THREADS"] = "1"
    _LESIONS.extend(lidc.lesions(path))


def _write_case(folder: Path, case: Case) -> int:
    lesion, scanner = _LESIONS[case.lesion], SCANNERS[case.site]
    clinical = _clinical(case, lesion)
    patient = dicom.Patient(hospital=case.hospital, number=case.number, age_years=clinical["age_years"], sex=clinical["sex"])
    body = anatomy(lesion.readings[0], scanner=scanner, random=reproducible(case.seed, case.hospital, case.number, "body"))
    files = 0
    for series in range(1 + _second(case)):
        reading = lesion.readings[min(series, len(lesion.readings) - 1)]
        random = reproducible(case.seed, case.hospital, case.number, "scan", series)
        rendered = render(reading, body, scanner=scanner, random=random, moved_mm=2.0 * series)
        place = folder / case.hospital / "scans" / f"p{case.number:04d}" / f"s{series}"
        files += dicom.write(place, rendered, patient=patient, scanner=scanner, seed=case.seed, series=series)
    return files


def _second(case: Case) -> bool:
    return case.number % SECOND_SERIES_EVERY == 0


def _clinical(case: Case, lesion: Lesion) -> dict[str, int | str]:
    """Return age and smoking, which rise with the malignancy rating: 45 + 5 m and 9 m, with spread 9 and 14."""
    random = reproducible(case.seed, case.hospital, case.number, "clinical")
    return {
        "age_years": int(min(90, max(30, 45 + 5 * lesion.malignancy + 9 * random.standard_normal()))),
        "pack_years": int(max(0, 9 * lesion.malignancy + 14 * random.standard_normal())),
        "sex": "F" if random.random() < 0.45 else "M",
    }


def _write_clinical(path: Path, cases: Sequence[Case], lesions: Sequence[Lesion]) -> None:
    issuer = SCANNERS[cases[0].site].issuer
    rows: list[list[object]] = []
    for case in cases:
        if case.number in WITHOUT_ROW:
            continue
        lesion = lesions[case.lesion]
        clinical = _clinical(case, lesion)
        rows.append([
            f"MRN-{case.hospital.upper()}-{case.number:04d}^^^{issuer}",
            clinical["sex"],
            "" if case.number in WITHOUT_AGE else clinical["age_years"],
            "" if case.number in WITHOUT_PACK_YEARS else clinical["pack_years"],
            f"{lesion.malignancy:.2f}",
        ])  # fmt: skip
    rows.append([f"MRN-{cases[0].hospital.upper()}-9999^^^{issuer}", "F", 61, 12, "2.50"])  # never scanned
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([["patient_id", "sex", "age_years", "pack_years", "malignancy"], *rows])


def main() -> None:
    """Write a cohort to look at."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--patients", type=int, default=65, help="per hospital")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    with Progress() as shown:
        bar = shown.add_task("patients", total=None)
        print_summary = write_cohort(
            options.out,
            hospitals=HOSPITALS,
            patients_per_hospital=options.patients,
            seed=options.seed,
            progress=lambda done, total: shown.update(bar, completed=done, total=total),
        )
    print(print_summary)


if __name__ == "__main__":
    commands.run_function(main)
