"""A contribution: one read-only vector with a mechanism."""

import numpy as np
import pytest

from common.contribution import Contribution
from common.mechanism import Exact

EXACT = Exact(statistic="gram", ring_bits=64)


@pytest.mark.parametrize("dtype", [np.int64, np.float64, object])
def test_a_contribution_cannot_be_changed(dtype):
    one = Contribution(values=np.zeros(3, dtype), mechanism=EXACT)
    with pytest.raises(ValueError, match="read-only"):
        one.values[0] = 1
    with pytest.raises(AttributeError):
        one.values = np.ones(3)


@pytest.mark.parametrize(
    "values",
    [np.zeros((2, 2)), np.zeros(()), np.zeros(3, np.float32), np.zeros(3, np.int32), np.zeros(3, np.uint64), np.array(["a"])],
    ids=lambda values: f"{values.dtype}{values.shape}",
)
def test_another_shape_or_dtype_is_refused(values):
    with pytest.raises(TypeError, match="one vector"):
        Contribution(values=values, mechanism=EXACT)
