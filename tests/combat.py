"""ComBat on the pooled table as published: one regression on batches and covariates, then empirical Bayes, to convergence."""

import numpy as np


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
