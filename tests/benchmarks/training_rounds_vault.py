"""A real vault over made-up patients: only the reading of scans is replaced in this process; what takes how long is written.

`python -m tests.benchmarks.training_rounds_vault HOME`. A line of HOME/timings.jsonl for each training upload: the seconds of
the clipped sum (compute), of rounding, noise and masks (mask), and of the whole answer, ledger and disk included.
"""

import json
import sys
import time
import zlib
from pathlib import Path

import numpy as np

from client import pipeline, shelf, vault
from client.config import Home, read_site
from client.inside import Cohort
from tests.benchmarks import serving_vault

PATIENTS = 100


def made_up(study, *, name):
    """PATIENTS patients with one view each, of the study's shape."""
    random = np.random.default_rng(zlib.crc32(name.encode()))
    columns = tuple(variable.name for variable in study.variables)
    table = np.zeros((PATIENTS, len(columns)))
    table[:, columns.index(study.training.label)] = 1 + 4 * (np.arange(PATIENTS) % 2)
    return Cohort(
        patients=tuple(f"{name}-p{at:03d}" for at in range(PATIENTS)),
        columns=columns,
        table=table,
        views=random.random((PATIENTS, *study.recipe.view_shape), np.float32),
        bags=tuple((at,) for at in range(PATIENTS)),
    )


def timed(function, *, into, part):
    """Return `function`, which also says what it took."""

    def call(*given, **named):
        began = time.perf_counter()
        try:
            return function(*given, **named)
        finally:
            into[part] = time.perf_counter() - began

    return call


def main(home):
    name = read_site(Home(home)).name
    taken, answer = {}, vault.Vault.answer

    def answered(self, data):
        taken.clear()
        began = time.perf_counter()
        reply = answer(self, data)
        if "mask" in taken:
            taken["answer"] = time.perf_counter() - began
            with (home / "timings.jsonl").open("a") as file:
                file.write(json.dumps(taken) + "\n")
        return reply

    shelf.cohort = lambda *_, study, **__: made_up(study, name=name)
    pipeline.contribute = timed(pipeline.contribute, into=taken, part="compute")
    vault.mask = timed(vault.mask, into=taken, part="mask")
    vault.Vault.answer = answered

    serving_vault.until_ended(home)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
