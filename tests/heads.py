"""The study of blobs with each head, and cohorts whose labels fit it."""

from dataclasses import replace

import numpy as np

from common.study import Study
from tests import learning

CLASSES = ("small", "middle", "large")
GIVEN = {
    "binary": {"positive_above": "3"},
    "classes": {"classes": CLASSES},
    "ordinal": {"classes": CLASSES, "thresholds": ["2", "4"]},
    "regression": {},
}


def study(head, **changes):
    """The study of blobs with another head; the label of `classes` has three levels."""
    plain = learning.study(**changes).model_dump()
    plain["training"] |= {"head": head, "positive_above": None, **GIVEN[head]}
    if head == "classes":
        label = {"name": "malignancy", "source": "clinical", "unit": "1", "levels": CLASSES}
        plain["variables"] = (plain["variables"][0], label, {**plain["variables"][0], "name": "depth_mm"})
        plain["statistics"]["correlation"] = ["length_mm", "depth_mm"]
        plain["statistics"]["regression"] = {"outcome": "length_mm", "predictors": ["depth_mm"]}
    return Study.model_validate(plain)


def cohort(head, n, **changes):
    """Blobs whose size is the label: of `classes`, the position of a third."""
    made = learning.cohort(n, **changes)
    if head != "classes":
        return made
    table = np.column_stack([made.table[:, 0], np.digitize(made.table[:, 1], [2.5, 3.5]), made.table[:, 0]])
    return replace(made, columns=("length_mm", "malignancy", "depth_mm"), table=table)
