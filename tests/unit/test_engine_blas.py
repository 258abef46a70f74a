import warnings

import numpy as np
import pytest
import torch

from client.engine import blas


def stacks():
    random = torch.Generator().manual_seed(0)
    drawn = torch.randn(5, 7, 6, generator=random, dtype=torch.float64)
    return drawn, torch.randn(5, 6, 8, generator=random, dtype=torch.float64)


def test_products_are_those_of_torch():
    left, right = stacks()
    torch.testing.assert_close(blas.multiplied(left, right), left @ right, rtol=1e-13, atol=1e-13)
    torch.testing.assert_close(blas.multiplied(left, left.mT), left @ left.mT, rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("add", [False, True])
@pytest.mark.parametrize("layout", [(0, 1, 2), (1, 0, 2), (0, 2, 1), (2, 1, 0)])
def test_a_product_is_written_or_added_in_any_layout(add, layout):
    left, right = stacks()
    shape = [(5, 7, 8)[axis] for axis in layout]
    into = torch.full(shape, 3.0 if add else float("nan"), dtype=torch.float64).permute(*np.argsort(layout).tolist())
    blas.put(left, right, into=into, add=add)
    torch.testing.assert_close(into, left @ right + (3.0 if add else 0.0), rtol=1e-13, atol=1e-13)


def test_a_matrix_beside_a_stack_stands_for_as_many_of_itself():
    left, right = stacks()
    into = torch.empty(5, 7, 8, dtype=torch.float64)
    blas.put(left[0], right, into=into, add=False)
    torch.testing.assert_close(into, left[0] @ right, rtol=1e-13, atol=1e-13)


def test_products_of_nothing_are_zeros_or_nothing():
    empty = torch.empty(3, 0, dtype=torch.float64)
    assert not blas.multiplied(empty, empty.t()).any()
    into = torch.full((3, 3), float("nan"), dtype=torch.float64)
    blas.put(empty, empty.t(), into=into, add=False)
    assert not into.any()
    assert blas.multiplied(empty.t(), empty).shape == (0, 0)


@pytest.mark.parametrize("number", [float("inf"), float("nan"), 1e308])
@pytest.mark.parametrize("add", [False, True])
def test_numbers_out_of_range_pass_without_a_word(number, add):
    left, right = stacks()
    left[2, 3, 4] = number
    into = torch.zeros(5, 7, 8, dtype=torch.float64)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert not torch.isfinite(blas.multiplied(1e10 * left, right)[2, 3]).all()
        blas.put(1e10 * left, right, into=into, add=add)
    assert torch.isfinite(into[[0, 1, 3, 4]]).all()
