"""The cohort on the vault's own disk, so that scans are read once per study; no pickle, mode 0600."""

import functools
import hashlib
import io
import json
import logging
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from client import embedding, pipeline, points
from client.config import Home, Site
from client.inside import Cohort, SetAside
from client.kept import Kept
from client.quarantine import Quarantine
from common import canonical, files
from common.errors import ClinicalTableWrong, NoScans, RecordDamaged
from common.study import Study

STEPS = (  # what makes a cohort, beside the study itself, whose values are hashed on their own
    *(
        "client/cohort.py",
        "client/embedding.py",
        "client/fhir.py",
        "client/inside.py",
        "client/pipeline.py",
        "client/points.py",
    ),
    *("client/imaging/**/*.py", "client/measure/**/*.py"),
    *("common/embedding.py", "common/modality.py", "common/model.py", "common/recipe.py", "common/variable.py"),
    "common/networks/*.py",
)
LIBRARIES = (  # whose numbers are in it
    *("numpy", "scipy", "scikit-image", "SimpleITK", "pydicom", "torch"),
    *("pyjpegls", "pylibjpeg", "pylibjpeg-openjpeg", "pylibjpeg-rle"),
)

_INSTALLED = Path(__file__).parents[1]  # the folder of the packages client and common

log = logging.getLogger("motet.vault")


def cohort(
    home: Home, site: Site, *, study: Study, pseudonym: Callable[[str, str], str], progress: pipeline.Progress
) -> Cohort:
    """Return the cohort of `study`, measured now or kept from an earlier run of the same code over the same files.

    One that is kept and damaged is measured again.
    Raises NoScans or ClinicalTableWrong when there is nothing to read.
    """
    path = home.cohorts / f"{_fingerprint(site, study)}.npz"
    if path.exists():
        try:
            return load(path)
        except RecordDamaged as error:  # only a copy of what the scans say
            log.warning("cohort-damaged", extra={"code": error.code})
    with closing(Quarantine(home.quarantine, clock=lambda: int(time.time()))) as quarantine:
        recipe = canonical.digest({"recipe": study.recipe.model_dump(mode="python")})
        fresh = pipeline.read_cohort(
            scans=site.scans,
            clinical=site.clinical,
            study=study,
            pseudonym=pseudonym,
            progress=progress,
            points=points.read(site.points, pseudonym=pseudonym) if site.points and study.recipe.points else None,
            kept=Kept(folder=home.cohorts / "series", asked=_asked(study)),
            reading=quarantine.begin(root=site.scans, recipe=recipe, code=_code(_INSTALLED), pseudonym=pseudonym),
        )
    save(path, fresh, provenance=_provenance(study))
    return fresh


def save(path: Path, kept: Cohort, *, provenance: Mapping[str, Any] | None = None) -> None:
    """Write a cohort in one step, 0600, and with it where its numbers come from."""
    names = {
        "provenance": dict(provenance or {}),
        "patients": kept.patients,
        "columns": kept.columns,
        "bags": kept.bags,
        "set_aside": [[item.name, item.reason] for item in kept.set_aside],
    }
    buffer = io.BytesIO()
    text = np.frombuffer(json.dumps(names).encode(), np.uint8)
    np.savez(buffer, allow_pickle=False, table=kept.table, views=kept.views, names=text)
    files.write(path, buffer.getvalue(), private=True)


def load(path: Path) -> Cohort:
    """Read a kept cohort; raises RecordDamaged."""
    with _opened(path) as arrays:
        names = json.loads(arrays["names"].tobytes())
        return Cohort(
            patients=tuple(names["patients"]),
            columns=tuple(names["columns"]),
            table=arrays["table"],
            views=arrays["views"],
            bags=tuple(tuple(bag) for bag in names["bags"]),
            set_aside=tuple(SetAside(name=name, reason=reason) for name, reason in names["set_aside"]),
        )


def provenance(path: Path) -> dict[str, Any]:
    """Return where a kept cohort's numbers come from: hashes of study, recipe and code, the version, levels and units.

    Empty for a cohort that an older version kept. Raises RecordDamaged.
    """
    with _opened(path) as arrays:
        return dict(json.loads(arrays["names"].tobytes()).get("provenance", {}))


@contextmanager
def _opened(path: Path) -> Iterator[Mapping[str, NDArray[Any]]]:
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            yield arrays
    except Exception:  # noqa: BLE001  (a damaged zip raises almost anything)
        raise RecordDamaged(
            f"The kept cohort {path.stem[:8]} is damaged.", action="Delete its file in cohorts/; the vault measures it again."
        ) from None


def _provenance(study: Study) -> dict[str, Any]:
    return {
        "study": study.hash(),
        "recipe": canonical.digest(study.recipe.model_dump(mode="python")),
        "code": _code(_INSTALLED),
        "version": metadata.version("motet"),
        "levels": {one.name: list(one.levels) for one in study.variables if one.levels},
        "units": {one.name: one.unit for one in study.variables},
    }


def _asked(study: Study) -> bytes:
    """Return what a study wants of one series, and the code that gives it."""
    variables = sorted((one.name, one.levels) for one in study.variables if one.source == "image")
    wanted = {
        "recipe": study.recipe.model_dump(mode="python"),
        "variables": [[name, list(levels)] for name, levels in variables],
        "network": _network(study),
    }
    return canonical.encode(wanted) + _code(_INSTALLED).encode()


def _network(study: Study) -> list[str]:
    """Return the network whose embedding a study names, and its weights' hash; nothing where it names none."""
    return [study.training.model, study.training.prior_sha256] if embedding.wanted(study) else []


def _fingerprint(site: Site, study: Study) -> str:
    if not site.scans.is_dir():
        raise NoScans("The folder of scans is not there.", action="Set `scans` in site.toml.")
    if not site.clinical.is_file():
        raise ClinicalTableWrong("The clinical table is not there.", action="Set `clinical` in site.toml.")
    marked = [site.points] if site.points and site.points.is_file() else []
    found = [site.clinical, *marked, *sorted(path for path in site.scans.rglob("*") if path.is_file())]
    listing = "\n".join(f"{path}\0{(stat := path.stat()).st_size}\0{stat.st_mtime_ns}" for path in found)
    views = {"training": {"views_per_patient_max"}}
    wanted = canonical.encode(study.model_dump(mode="python", include={"variables": True, "recipe": True, **views}))
    wanted += canonical.encode({"network": _network(study)})
    return hashlib.sha256(listing.encode() + wanted + _code(_INSTALLED).encode()).hexdigest()[:32]


@functools.cache
def _code(folder: Path) -> str:
    """Return a hash of what measures, as `folder` has it in client and common: another version may give other values."""
    digest = hashlib.sha256(" ".join(f"{name} {metadata.version(name)}" for name in LIBRARIES).encode())
    for path in sorted(path for step in STEPS for path in folder.glob(step)):
        digest.update(f"{path.relative_to(folder)}\0".encode() + hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()
