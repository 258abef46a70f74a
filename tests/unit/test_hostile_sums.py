"""Whatever a hospital adds to a sum, its analysis ends with a result or a named error, and never the study."""

import contextlib
import json
import random
from decimal import Decimal

import pytest

from common import query
from common.errors import DataError, ProtocolError
from server import analyse
from server.infer import adjust, declared
from tests.cohorts import study

DECLARED = (
    {"kind": "logistic", "formula": "y ~ x1 + sex", "queries_max": 40},
    {"kind": "robust", "formula": "x1 ~ x2 + sex"},
    {"kind": "fixed-site", "formula": "x1 ~ x2 + sex"},
    {"kind": "meta-analysis", "formula": "x1 ~ x2"},
    {"kind": "forest", "formula": "x1 ~ x2"},
    {"kind": "mixed", "formula": "x1 ~ x2", "queries_max": 40},
    {"kind": "cox", "formula": "time ~ x1", "event": "dead", "bins": 8, "queries_max": 40},
    {"kind": "cox", "formula": "time ~ x1", "event": "dead", "queries_max": 40},
    {"kind": "kaplan-meier", "time": "time", "event": "dead", "bins": 8, "group": "sex"},
    {"kind": "roc", "outcome": "y", "score": "score", "bins": 8},
    {"kind": "ranks", "response": "x1", "group": "sex", "bins": 8},
    {"kind": "spearman", "variables": ["score", "time"], "bins": 8},
    {"kind": "quantiles", "variable": "x1", "bins": 8, "probabilities": [Decimal("0.5")]},
    {"kind": "k-means", "variables": ["x1", "x2"], "sizes": [2, 3], "queries_max": 40},
    {"kind": "mixture", "variables": ["x1", "x2"], "components": 2, "queries_max": 40},
    {"kind": "agreement", "readers": ["x1", "x2", "malignancy"]},
    {"kind": "combat", "features": ["x1", "x2"], "covariates": ["score"]},
)
ONE = 1 << 64
MADE = {
    "nothing": lambda _: 0,
    "the largest": lambda _: (1 << 127) - 1,
    "the smallest": lambda _: -(1 << 127),
    "anything": lambda of: of.getrandbits(128) - (1 << 127),
    "counts": lambda of: of.randrange(50) * ONE,
    "few": lambda of: of.choice((0, 0, 1, 2)) * ONE,
    "numbers": lambda of: int(of.gauss(0, 3) * ONE),
    "whole numbers": lambda of: of.randrange(100),
    "the last digit": lambda of: of.choice((-1, 0, 1)),
}


@pytest.mark.parametrize("one", DECLARED, ids=lambda one: f"{one['kind']}-{len(one)}")
@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # numpy's, of numbers that are none; no figure comes of them
def test_no_sums_end_an_analysis_without_a_name(one):
    wanted = study(one)
    for seed in range(3):
        for make in MADE.values():
            of, running, answered = random.Random(seed), declared.start(wanted, position=0), {}
            asked = next(running)
            with contextlib.suppress(DataError, ProtocolError):
                try:
                    while len(answered) < 40:
                        sums = [100 * ONE, *(make(of) for _ in range(query.dimension(asked) - 1))]
                        sums = answered.setdefault(asked.bytes(), sums if seed else sums[1:] + sums[:1])
                        asked = analyse.advance(running, sums)
                except StopIteration as end:
                    plain = analyse._plain(end.value)
                    json.dumps([plain, adjust.of_terms(plain)], allow_nan=False)
            running.close()
