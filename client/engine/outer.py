"""Per-patient sums of outer products, the gradient of every linear map: instantiated, or by their exact Gram norm.

A patient's gradient is G = sum_t g_t a_t^T over its positions t. Instantiated, its norm is that of the delivered numbers.
By Gram, ||G||^2 = sum_{t,t'} (g_t.g_t')(a_t.a_t') is another formula than what is delivered, and chosen weights could make
it cancel: rounding would then pass for a small norm. It is therefore computed in float64 and EPSILON * (sum_t |g_t||a_t|)^2,
above its worst rounding error, is added: the norm is never too small, and too large by less than 1e-6 while
sum_t |g_t||a_t| < 100 ||G||.
"""

from abc import ABC, abstractmethod
from typing import ClassVar

import torch
from torch import Tensor
from typing_extensions import override

from client.engine import blas

__all__ = ["Gram", "Products", "instantiated"]

EPSILON = 1e-10  # above 2 * (2 * 10_000 positions and channels) * 2**-53


def instantiated(left: Tensor, right: Tensor) -> Tensor:
    """Return sum_t left_t right_t^T per patient: (patient, t, o) and (patient, t, k) give (patient, o * k)."""
    return torch.bmm(left.transpose(1, 2), right).flatten(1)


class Products(ABC):
    """Gradients of which only the products of positions are formed; patients' norms from these."""

    FLOOR: ClassVar[float] = 0.0  # times the root of sum_t |g_t|^2 sum_t |a_t|^2: no norm is below it

    @abstractmethod
    def grams(self) -> tuple[Tensor, Tensor]:
        """Return g_t.g_t' and a_t.a_t' of each patient, (patient, t, t'), float64."""

    def squares(self) -> Tensor:
        """Return squared norms, never below those of the exact gradients."""
        left, right = self.grams()
        exact = (left * right).sum((1, 2))
        lengths = [_diagonal(one) for one in (left, right)]
        least = self.FLOOR**2 * lengths[0].sum(1) * lengths[1].sum(1)
        return torch.maximum(exact, least) + EPSILON * (lengths[0] * lengths[1]).sqrt().sum(1).square()

    def deliver(self, factors: Tensor, *, into: Tensor | None) -> Tensor:
        """Return `into` plus the sum of factor times gradient, in products of float64 over all patients."""
        if not bool((factors != 0).any()):
            return factors.new_zeros(self.shape) if into is None else into
        found = factors.new_empty(self.shape) if into is None else into
        self.add(factors, into=found, add=into is not None)
        return found

    @property
    @abstractmethod
    def shape(self) -> tuple[int, ...]:
        """Return the parameter's."""

    @abstractmethod
    def add(self, factors: Tensor, *, into: Tensor, add: bool) -> None:
        """Add the sum to `into`, or write it there, whatever `into` held; some factor is not zero."""


class Gram(Products):
    """Gradients that are never instantiated; `left` is (patient, t, o), `right` (patient, t, k), any float."""

    def __init__(self, left: Tensor, right: Tensor) -> None:
        self._left, self._right = left.detach().double(), right.detach().double()

    @override
    def grams(self) -> tuple[Tensor, Tensor]:
        left, right = (blas.multiplied(one, one.transpose(1, 2)) for one in (self._left, self._right))
        return left, right

    @property
    @override
    def shape(self) -> tuple[int, ...]:
        return self._left.shape[2], self._right.shape[2]

    @override
    def add(self, factors: Tensor, *, into: Tensor, add: bool) -> None:
        kept = factors != 0
        every = bool(kept.all())
        left = (self._left if every else self._left[kept]) * factors[kept, None, None]
        right = self._right if every else self._right[kept]
        blas.put(left.flatten(0, 1).t(), right.flatten(0, 1), into=into.view(self.shape), add=add)


def _diagonal(products: Tensor) -> Tensor:
    return products.diagonal(dim1=1, dim2=2).clamp(min=0)
