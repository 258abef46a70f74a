"""Which model is the result."""

from decimal import Decimal

import numpy as np
import pytest

from server import accept
from server.evaluate import from_histogram
from tests import federation


def scored(auc):
    """Return an evaluation of ten patients a class with about this AUC; None for one class only."""
    counts = np.zeros((2, 10), np.int64)
    if auc is None:
        counts[0, 3] = 10
        return from_histogram(counts)
    counts[0, 5] = 10
    above = round(10 * auc)
    counts[1, 9], counts[1, 0] = above, 10 - above
    return from_histogram(counts)


@pytest.mark.parametrize(
    ("aucs", "drop", "expected"),
    [
        ((0.5, 0.7, 0.8), "0.1", 2),
        ((0.5, 0.9, 0.8), "0.1", 2),
        ((0.5, 0.9, 0.7), "0.1", 1),
        ((0.5, 0.9, 0.9, 0.2), "0", 1),
        ((0.5, 0.9, 0.2), "1", 2),
        ((0.5, 0.9, None), "0", 2),
        ((None, None, None), "0", 2),
        ((0.6,), "0", 0),
    ],
)
def test_the_final_model_stands_unless_an_earlier_one_was_clearly_better(aucs, drop, expected):
    assert accept.accepted([scored(auc) for auc in aucs], auc_drop_max=Decimal(drop)) == expected


def test_with_no_drop_allowed_the_result_is_never_below_what_training_passed_through(make_federation):
    one, wanted = make_federation(), federation.study(training={"steps": 3, "learning_rate": 20, "auc_drop_max": "0"})
    one.approve(wanted)
    result = one.run(wanted)["training"]
    best = max(point["auc"] for point in result["curve"])
    assert result["auc"] >= best
