"""A real vault whose compute is a ready vector: reading scans and training are replaced in this process, and nothing else.

`python -m tests.benchmarks.rounds_vault HOME`. An odd index announces a step whose noise is drawn as always, an even one a step
whose noise share is zeros: drawing noise is compute, and the benchmark reports rounds with it beside rounds without.
"""

import functools
import sys
from pathlib import Path

import numpy as np

from client import pipeline, shelf
from client.config import Home, read_site
from client.inside import Cohort
from common.contribution import Contribution
from common.crypto import rng
from tests.benchmarks import rounds_vectors, serving_vault


def main(home):
    name = read_site(Home(home)).name
    columns = ("longest_diameter_mm", "malignancy")
    nobody = Cohort(
        patients=tuple(f"p{at:03d}" for at in range(12)),
        columns=columns,
        table=np.zeros((12, len(columns))),
        views=np.zeros((0, 1, 8, 8), np.float32),
        bags=((),) * 12,
    )
    draw, drawn = rng.discrete_gaussian, [True]

    @functools.lru_cache(maxsize=1)
    def vector(mechanism):
        parts = rounds_vectors.blocks(name, dimension=mechanism.dimension, most=rounds_vectors.most(mechanism))
        return np.concatenate(list(parts))

    def contribute(announced, **_):
        drawn[0] = announced.index % 2 == 1
        return Contribution(values=vector(announced.mechanism), mechanism=announced.mechanism)

    def noise(n, *, share_bits):
        return draw(n, share_bits=share_bits) if drawn[0] else np.zeros(n, np.int64)

    shelf.cohort = lambda *_, **__: nobody
    pipeline.dimension = lambda announced, **_: announced.dimension
    pipeline.contribute = contribute
    rng.discrete_gaussian = noise

    serving_vault.until_ended(home)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
