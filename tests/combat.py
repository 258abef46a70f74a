"""A study of harmonised features, rows for it, and ComBat on the pooled table as published, iterated to convergence."""

from decimal import Decimal

import numpy as np
import pandas as pd

from tests import cohorts, federation

FEATURES = ("f0", "f1", "f2", "f3")
VARIABLES = [
    *({"name": name, "source": "image", "unit": "mm", "lower": Decimal(-64), "upper": Decimal(64)} for name in FEATURES),
    cohorts.number("age", 0, 128),
    cohorts.number("y", 0, 1),
    {"name": "sex", "source": "clinical", "unit": "1", "levels": ["f", "m"]},
    cohorts.number("malignancy", 0, 8),
]
NAMES = [one["name"] for one in VARIABLES]
COMBAT = {"kind": "combat", "features": list(FEATURES), "covariates": ["age", "malignancy"], "apply": True}
LOGISTIC = {"kind": "logistic", "formula": "y ~ f0 + f2 + age", "queries_max": 12}
QUANTILES = {"kind": "quantiles", "variable": "age", "bins": 8, "probabilities": [Decimal("0.5")]}
MODEL = "malignancy ~ f0 + f1 * sex + age"


def study(*declared_, **parts):
    wanted = {"correlation": [*FEATURES, "malignancy"], "regression": {"outcome": "malignancy", "predictors": ["f0", "f1"]}}
    wanted |= {"models": [MODEL], "analyses": list(declared_ or (LOGISTIC, COMBAT, QUANTILES))}
    return federation.study(
        variables=parts.pop("variables", VARIABLES),
        statistics=wanted | parts.pop("statistics", {}),
        training={"steps": 1, "patients_per_step_max": 256} | parts.pop("training", {}),
    )


def table(hospital, patients=80):
    """One hospital's rows: its scanner shifts and stretches every feature; ages in eight bins of ten."""
    random = np.random.default_rng(40 + hospital)
    at = np.arange(patients)
    sex, age = (at // 8) % 2, 20 + 10 * (at % 8) + random.uniform(-4, 4, patients)
    malignancy = np.clip(2 + 0.03 * age + random.normal(0, 1, patients), 0, 8)
    x = (
        random.normal(size=(patients, 4)) * [3, 4, 5, 6]
        + np.outer(malignancy, [1, 0.5, -1, 0])
        + np.outer(age, [0.05, 0, 0.1, 0])
    )
    x = x * random.uniform(0.7, 1.4) + random.normal(0, 4, 4)
    y = (x[:, 0] / 6 + random.logistic(size=patients) > 0).astype(float)
    return np.column_stack([x, age, y, sex, malignancy])


def truth(dealt):
    """The pooled table after ComBat by the plain reference."""
    batch = np.repeat(np.arange(len(dealt)), [len(rows) for rows in dealt.values()])
    pooled = np.concatenate(list(dealt.values()))
    frame = pd.DataFrame(pooled, columns=NAMES)
    frame[list(FEATURES)] = central(pooled[:, :4], pooled[:, [4, 7]], batch)
    frame["sex"] = np.where(frame["sex"] == 1, "m", "f")
    return frame


def central(x: np.ndarray, c: np.ndarray, batch: np.ndarray) -> np.ndarray:
    """Return the harmonised features. Formulas of Johnson, Li, Rabinovic 2007, as neuroCombat has them; 500 iterations."""
    dummies = (batch[:, None] == np.unique(batch)) * 1.0
    sizes = dummies.sum(axis=0)
    b = np.linalg.lstsq(np.column_stack([dummies, c]), x, rcond=None)[0]
    stand = sizes / len(x) @ b[: len(sizes)] + c @ b[len(sizes) :]
    pooled = ((x - np.column_stack([dummies, c]) @ b) ** 2).mean(axis=0)
    z = (x - stand) / np.sqrt(pooled)
    out = np.empty_like(x)
    for k, n in enumerate(sizes):
        own = z[dummies[:, k] == 1]
        g, d = own.mean(axis=0), own.var(axis=0, ddof=1)
        t2, m, s2 = g.var(ddof=1), d.mean(), d.var(ddof=1)
        a, bb = (2 * s2 + m**2) / s2, (m * s2 + m**3) / s2
        gamma, delta = g, d
        for _ in range(500):
            gamma = (t2 * n * g + delta * g.mean()) / (t2 * n + delta)
            delta = (0.5 * ((own - gamma) ** 2).sum(axis=0) + bb) / (n / 2 + a - 1)
        out[dummies[:, k] == 1] = (own - gamma) / np.sqrt(delta) * np.sqrt(pooled) + stand[dummies[:, k] == 1]
    return out
