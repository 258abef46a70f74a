"""Checks of drawn batches: Poisson sampling at the claimed rate, every patient and every step independent of the others."""

from collections.abc import Iterator
from typing import Final

import numpy as np
from scipy.special import bdtr, bdtrc

from common.audit.attack.check import Check, dispersion, smallest_deficit, two_sided, unrelated
from common.audit.attack.drawn import Drawn

LAGS: Final = 8


def checks(drawn: Drawn) -> Iterator[Check]:
    """Yield the checks of the samples; a right build fails one of them with probability LEVEL each."""
    rate = float(drawn.rate)
    steps, patients = drawn.samples.shape
    variance = rate * (1 - rate)
    sizes, times = drawn.samples.sum(axis=1), drawn.samples.sum(axis=0)
    n, drawn_in = drawn.samples.size, int(sizes.sum())
    above = float(bdtrc(drawn_in - 1, n, rate)) if drawn_in else 1.0
    p = two_sided(below=float(bdtr(drawn_in, n, rate)), above=above)
    seen = f"{drawn_in / n:.5f}"
    yield Check(name="sampling rate", claim=f"{drawn.rate}", seen=seen, p=p)
    yield dispersion(
        "batch sizes",
        claim=f"binomial of {patients} patients",
        squares=float(np.square(sizes - patients * rate).sum() / (patients * variance)),
        freedom=steps,
        power=f"finds sizes that spread {100 * smallest_deficit(steps):.0f} % too little",
    )
    yield dispersion(
        "patients' turns",
        claim=f"binomial of {steps} steps",
        squares=float(np.square(times - steps * rate).sum() / (steps * variance)),
        freedom=patients,
        power=f"finds turns that spread {100 * smallest_deficit(patients):.0f} % too little",
    )
    rows = (drawn.samples - rate) / np.sqrt(variance)
    yield unrelated("steps", claim="independent of the steps before", rows=rows, lags=LAGS)
    yield unrelated("patients", claim="independent of their neighbours", rows=rows.T, lags=LAGS)
