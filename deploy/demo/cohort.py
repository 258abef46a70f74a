"""The scans of `make demo`: real LIDC lesions rendered into simulated CT, and a clinical table, for each hospital.

    folder/<hospital>/scans/p0001/s0/  *.dcm and seg.dcm of one series; every eighth patient has two series
    folder/<hospital>/clinical.csv     patient_id (with issuer), sex, female_01, age_years, pack_years, malignancy

python -m deploy.demo.cohort OUT [--patients N] [--seed S]
"""

import argparse
import csv
import os
import re
import shutil
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

VERSION = "v2"  # of the rendering; part of the folder's name, so that old scans are not taken for new ones
NAME = re.compile(r"[a-z][a-z0-9-]{0,31}")
HOSPITALS = ("hosp-a", "hosp-b", "hosp-c", "hosp-d")
POSITIVE_ABOVE = 3.0
SECOND_SERIES_EVERY = 8  # every so many patients a follow-up scan, outlined by another reader
WITHOUT_ROW = (5, 23)  # patients whom the clinical table forgot
COLUMNS = ("patient_id", "sex", "female_01", "age_years", "pack_years", "malignancy")
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
    """One patient to render, small enough to be handed to another process."""

    hospital: str
    site: int
    number: int
    lesion: Lesion
    seed: int

    @property
    def series(self) -> int:
        """How many series the patient has."""
        return 2 if self.number % SECOND_SERIES_EVERY == 0 else 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Clinical:
    """What the clinical table says about a patient besides the malignancy rating."""

    age_years: int
    pack_years: int
    sex: str  # "F" or "M"


def write_cohort(
    folder: Path,
    *,
    hospitals: Sequence[str],
    patients_per_hospital: int,
    seed: int,
    progress: Callable[[int, int], None] | None,
) -> Summary:
    """Write folder/<hospital>/{scans,clinical.csv} on all cores; the same arguments give the same bytes.

    The folder appears when everything is there. Until then it is `<folder>.partial`, which is removed when writing fails,
    and left where the process was killed. `progress` hears how many patients of how many are done.

    | input | result |
    |---|---|
    | folder there and not empty, or its `.partial` there | AlreadyExists |
    | no hospital, more than there are scanners, a name twice or not a plain name | ConfigError |
    | patients below 1, or more than there are lesions | ConfigError |
    | annotations not installed / another file | NotSetUp / DataError |
    """
    _check(hospitals, patients_per_hospital)
    partial = folder.with_name(f"{folder.name}.partial")
    if partial.exists() or (folder.exists() and (not folder.is_dir() or any(folder.iterdir()))):
        raise AlreadyExists(f"{folder} or {partial.name} exists already.", action="Remove it, or choose another folder.")
    cases = _cases(lidc.lesions(lidc.find()), hospitals=hospitals, patients=patients_per_hospital, seed=seed)
    partial.mkdir(parents=True)
    try:
        files = _write_scans(partial, cases, progress=progress)
        for name in hospitals:
            _write_clinical(partial / name / "clinical.csv", [case for case in cases if case.hospital == name])
        partial.rename(folder)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    return Summary(
        hospitals=len(hospitals),
        patients=len(cases),
        series=sum(case.series for case in cases),
        files=files,
        positive=sum(case.lesion.malignancy > POSITIVE_ABOVE for case in cases),
    )


def _check(hospitals: Sequence[str], patients: int) -> None:
    if not 1 <= len(hospitals) <= len(SCANNERS):
        raise ConfigError(f"There are scanners for 1 to {len(SCANNERS)} hospitals.", action="Name that many hospitals.")
    if len(set(hospitals)) < len(hospitals) or not all(NAME.fullmatch(name) for name in hospitals):
        raise ConfigError("A hospital's name is there twice, or is not a plain name.", action="Use a-z, 0-9 and -, once each.")
    if patients < 1:
        raise ConfigError("There are no patients to render.", action="Ask for at least one per hospital.")


def _cases(lesions: Sequence[Lesion], *, hospitals: Sequence[str], patients: int, seed: int) -> list[Case]:
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
            Case(hospital=hospital, site=site, number=number, lesion=lesions[index], seed=seed)
            for number, index in enumerate(mixed, start=1)
        ]
    return cases


def _write_scans(folder: Path, cases: Sequence[Case], *, progress: Callable[[int, int], None] | None) -> int:
    """Return the number of files."""
    files = 0
    workers = min(os.cpu_count() or 1, len(cases))
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        waiting = [pool.submit(_write_case, folder, case) for case in cases]
        try:
            for done, finished in enumerate(as_completed(waiting), start=1):
                files += finished.result()
                if progress is not None:
                    progress(done, len(cases))
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    return files


def _write_case(folder: Path, case: Case) -> int:
    """Write the first scan, and the second where there is one: moved by up to 2 mm, other noise, another reader's outline."""
    lesion, scanner, clinical = case.lesion, SCANNERS[case.site], _clinical(case)
    patient = dicom.Patient(hospital=case.hospital, number=case.number, age_years=clinical.age_years, sex=clinical.sex)
    body = anatomy(lesion.readings[0], scanner=scanner, random=reproducible(case.seed, case.hospital, case.number, "body"))
    files = 0
    for series in range(case.series):
        reading = lesion.readings[min(series, len(lesion.readings) - 1)]
        random = reproducible(case.seed, case.hospital, case.number, "scan", series)
        rendered = render(reading, body, scanner=scanner, random=random, moved_mm=2.0 * series)
        place = folder / case.hospital / "scans" / f"p{case.number:04d}" / f"s{series}"
        files += dicom.write(place, rendered, patient=patient, scanner=scanner, seed=case.seed, series=series)
    return files


def _clinical(case: Case) -> Clinical:
    """Return age and smoking, which rise with the malignancy rating m, and a sex that does not depend on it.

    age_years = 45 + 5 m + 9 z, within 30 and 90; pack_years = 9 m + 14 z', not below 0; z, z' standard normal; 45 % women.
    """
    random = reproducible(case.seed, case.hospital, case.number, "clinical")
    return Clinical(
        age_years=int(min(90, max(30, 45 + 5 * case.lesion.malignancy + 9 * random.standard_normal()))),
        pack_years=int(max(0, 9 * case.lesion.malignancy + 14 * random.standard_normal())),
        sex="F" if random.random() < 0.45 else "M",
    )


def _write_clinical(path: Path, cases: Sequence[Case]) -> None:
    """Write the rows in a shuffled order, with the gaps that a real table has and one patient who was never scanned."""
    issuer = SCANNERS[cases[0].site].issuer
    rows: list[tuple[object, ...]] = []
    for case in cases:
        if case.number in WITHOUT_ROW:
            continue
        clinical = _clinical(case)
        rows.append((
            f"MRN-{case.hospital.upper()}-{case.number:04d}^^^{issuer}",
            clinical.sex,
            int(clinical.sex == "F"),
            "" if case.number in WITHOUT_AGE else clinical.age_years,
            "" if case.number in WITHOUT_PACK_YEARS else clinical.pack_years,
            f"{case.lesion.malignancy:.2f}",
        ))  # fmt: skip
    rows.append((f"MRN-{cases[0].hospital.upper()}-9999^^^{issuer}", "F", 1, 61, 12, "2.50"))
    order = reproducible(cases[0].seed, cases[0].hospital, "rows").permutation(len(rows))
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([COLUMNS, *(rows[int(at)] for at in order)])


def main() -> None:
    """Write a cohort to look at."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--patients", type=int, default=65, help="per hospital")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    with Progress() as shown:
        bar = shown.add_task("patients", total=None)
        summary = write_cohort(
            options.out,
            hospitals=HOSPITALS,
            patients_per_hospital=options.patients,
            seed=options.seed,
            progress=lambda done, total: shown.update(bar, completed=done, total=total),
        )
    print(summary)


if __name__ == "__main__":
    commands.run_function(main)
