"""Made-up cohorts in a federation's vaults, kept where a vault keeps measured ones; each counted cell holds patients."""

import hashlib
from dataclasses import replace
from decimal import Decimal
from typing import Any

import numpy as np

from client import shelf
from client.config import SHARE_MAX, read_site
from client.inside import Cohort
from common.study import Study
from tests import federation
from tests.federation import HOSPITALS, Federation

PATIENTS = 160  # per hospital
BINS = 8


def number(name: str, lower: float, upper: float, **more: Any) -> dict[str, Any]:
    return {"name": name, "source": "clinical", "unit": "1", "lower": Decimal(lower), "upper": Decimal(upper), **more}


VARIABLES = [
    number("x1", -16, 16),
    number("x2", -16, 16),
    number("score", 0, 1),
    number("y", 0, 1),
    number("time", 0, 64),
    number("dead", 0, 1),
    {"name": "sex", "source": "clinical", "unit": "1", "levels": ["f", "m"]},
    number("malignancy", 0, 8),
]
NAMES = [one["name"] for one in VARIABLES]


def study(*analyses: dict[str, Any], **parts: Any) -> Study:
    """A study over these variables that declares `analyses`."""
    parts.setdefault("variables", VARIABLES)
    wanted = {
        "correlation": ["x1", "x2", "malignancy"],
        "regression": {"outcome": "malignancy", "predictors": ["x1", "x2"]},
        "analyses": list(analyses),
        **parts.pop("statistics", {}),
    }
    return federation.study(statistics=wanted, training={"steps": 1, "patients_per_step_max": 256}, **parts)


def table(hospital: int = 0, *, patients: int = PATIENTS) -> np.ndarray:
    """One hospital's rows: eight score and time bins, five patients or more in every cell that an analysis counts."""
    random = np.random.default_rng(100 + hospital)
    at = np.arange(patients)
    score = at % BINS
    rank = at // BINS  # 0 .. 19 in each bin
    y = (rank < 5 + score).astype(float)
    sex = (at // BINS) % 2
    when = (at * 3 + at // BINS) % BINS
    dead = ((at // BINS) % 4 < 2).astype(float)
    x1 = 0.6 * score + y + random.normal(0, 1.5, patients)
    x2 = np.where(sex == 1, 5.0, -5.0) + random.normal(0, 1, patients) - 0.3 * when
    malignancy = np.clip(1 + 0.4 * score + random.normal(0, 0.7, patients), 0, 8)
    return np.column_stack([x1, x2, (score + 0.5) / BINS, y, (when + 0.5) * 64 / BINS, dead, sex, malignancy])


def put(one: Federation, wanted: Study, tables: dict[str, np.ndarray], *, views: dict[str, np.ndarray] | None = None) -> None:
    """Approve `wanted` and keep these tables as the vaults' cohorts of it, under the shares that `init` writes.

    `views`: of each hospital, one a patient, (patient, channel, side, side); blank ones where none are given.
    """
    one.approve(wanted)
    for name, rows in tables.items():
        home = one.homes[name]
        text = home.site_file.read_text().replace("share_max = 0.99 ", f"share_max = {SHARE_MAX} ")
        assert f"\nshare_max = {SHARE_MAX} " in text
        home.site_file.write_text(text)
        if home.cohorts.is_symlink():
            home.cohorts.unlink()
            home.cohorts.mkdir(mode=0o700)
        made = cohort(name, rows, wanted)
        if views is not None:
            made = replace(made, views=views[name])
        shelf.save(home.cohorts / f"{shelf._fingerprint(read_site(home), wanted)}.npz", made)


def cohort(name: str, rows: np.ndarray, wanted: Study) -> Cohort:
    """One hospital's rows as a vault holds them, one blank view a patient."""
    return Cohort(
        patients=tuple(sorted(hashlib.sha256(f"{name}{at}".encode()).hexdigest()[:32] for at in range(len(rows)))),
        columns=tuple(variable.name for variable in wanted.variables),
        table=rows.astype(np.float64),
        views=np.zeros((len(rows), 1, 32, 32), dtype=np.float32),
        bags=tuple((at,) for at in range(len(rows))),
    )


def tables() -> dict[str, np.ndarray]:
    return {name: table(at) for at, name in enumerate(HOSPITALS)}


def pooled(dealt: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """All hospitals' columns by name."""
    return dict(zip(NAMES, np.concatenate(list(dealt.values())).T, strict=True))
