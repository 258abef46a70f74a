"""What one backward leaves: every patient's squared gradient norm, and closures that deliver the weighted sum of gradients.

Source: Bu et al., Differentially Private Optimization on Large Model at Small Cost, ICML 2023 (book-keeping); reference 2.1.
"""

from typing import Protocol

import torch
from torch import Tensor
from torch.nn import Parameter

from common.errors import InternalError
from common.networks.standardised import project

__all__ = ["Chunks", "PatientGradients", "Tape"]


class PatientGradients(Protocol):
    """The gradients of one parameter, one per patient, instantiated or not."""

    def squares(self) -> Tensor:
        """Return the squared L2 norm of each, shape (patient,), float64."""
        ...

    def deliver(self, factors: Tensor, *, into: Tensor | None) -> Tensor:
        """Return `into` plus the sum of factor times gradient, float64; a patient of factor zero is not touched.

        `into` is contiguous and overwritten; None gives a total of its own.
        """
        ...


class Chunks:
    """Gradients that were instantiated, (patient, element), float32, in chunks of patients that stay in cache."""

    def __init__(self, chunks: list[Tensor], *, shape: tuple[int, ...], filters: Tensor | None = None) -> None:
        """Take the chunks, the shape of the parameter, and the standardised weight if it is one."""
        self._chunks, self._shape, self._filters = chunks, shape, filters

    def squares(self) -> Tensor:
        """Return squared norms by square().sum(): float32 norm() is too small on long vectors (reference 2.5)."""
        return torch.cat([chunk.square().sum(1).double() for chunk in self._chunks])

    def deliver(self, factors: Tensor, *, into: Tensor | None) -> Tensor:
        """Return `into` plus the sum, in products of float64, so that no patient's part is rounded by another's."""
        first, found = 0, None
        for chunk in self._chunks:
            of_chunk = factors[first : first + len(chunk)]
            first, kept = first + len(chunk), of_chunk != 0
            if bool(kept.any()):
                rows = chunk if bool(kept.all()) else chunk[kept]
                part = of_chunk[kept] @ rows.double()
                found = part if found is None else found.add_(part)
        if found is None:
            return factors.new_zeros(self._shape) if into is None else into
        if self._filters is not None:
            project(found.view(len(self._filters), -1), self._filters.flatten(1))
        return found.view(self._shape) if into is None else into.add_(found.view(self._shape))


class Tape:
    """Collects during one backward; then `squares` and `deliver` each may be asked for.

    Bits: everything that is kept for a patient was computed from the patient's own rows; rows mix in float64 sums only.
    """

    def __init__(self, *, patients: int, views: int, products: torch.dtype | None = None) -> None:
        """Take the micro-batch's shape, and what layers round to before they multiply; None: not at all."""
        self.patients, self.views, self._products = patients, views, products
        self._rows: list[tuple[Parameter, Tensor]] = []
        self._large: list[tuple[Parameter, PatientGradients]] = []
        self._seen: set[Parameter] = set()

    def put(self, parameter: Parameter, gradients: PatientGradients | Tensor) -> None:
        """Record the gradients of a parameter: side by side, (patient, element), or kept by their kernel.

        Raises InternalError when the parameter has some already: the norms of two uses do not add.
        """
        if parameter in self._seen:
            raise InternalError(
                "A parameter is used twice in one forward; norms of its uses do not add.", action="Report this."
            )
        self._seen.add(parameter)
        if isinstance(gradients, Tensor):
            self._rows.append((parameter, gradients))
        else:
            self._large.append((parameter, gradients))

    def rounded(self, numbers: Tensor) -> Tensor:
        """Return what a layer multiplies on the way forward, and back to its input."""
        return numbers if self._products is None else numbers.to(self._products)

    @property
    def recorded(self) -> set[Parameter]:
        """Return the parameters whose gradients arrived."""
        return set(self._seen)

    def squares(self) -> Tensor:
        """Return each patient's squared gradient norm over all parameters, (patient,), float64; not finite where it is not."""
        total = torch.cat([rows for _, rows in self._rows], dim=1).double().square().sum(1) if self._rows else 0.0
        parts = [gradients.squares() for _, gradients in self._large]
        return torch.as_tensor(sum(parts, start=total))

    def deliver(self, factors: Tensor, *, into: dict[Parameter, Tensor]) -> None:
        """Add the sum over patients of factor times gradient to each parameter's float64 total; `factors` is (patient,).

        `into` gets a total for a parameter that it does not have, zeros where nobody is left.
        """
        for parameter, _ in self._rows:
            if parameter not in into:
                into[parameter] = factors.new_zeros(parameter.shape)
        kept = factors != 0
        if self._rows and bool(kept.any()):
            rows = torch.cat([rows for _, rows in self._rows], dim=1)
            delivered = factors[kept] @ (rows if bool(kept.all()) else rows[kept]).double()
            first = 0
            for parameter, part in self._rows:
                into[parameter].add_(delivered[first : first + part.shape[1]].view(parameter.shape))
                first += part.shape[1]
        for parameter, gradients in self._large:
            into[parameter] = gradients.deliver(factors, into=into.get(parameter))
