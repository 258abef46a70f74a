"""The exact ways to a convolution's per-patient weight gradients; which one is fastest depends on the layer's shape.

| kernel | what it does | can |
|---|---|---|
| grouped | one grouped backward of the library: patients become groups, views its batch | everything |
| unfolded | patches times output gradients, one matrix product per row | groups = 1 |
| shifted | one product per kernel element over slices of the padded input | groups = 1 |
| gram | exact norm from products of positions, nothing instantiated (taps.py) | groups = 1 |
| toom | the same, delivered with fewer products (toom.py) | groups = 1, stride and dilation 1, one or two axes |

Source: reference training.md 2.2 and 2.3.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from client.engine.geometry import Geometry
from client.engine.outer import Gram, instantiated
from client.engine.tape import Chunks, PatientGradients
from client.engine.taps import Taps
from client.engine.toom import Toom, products

__all__ = ["CHUNK_BYTES", "KEPT_BYTES", "KERNELS", "candidates", "gradients"]

CHUNK_BYTES = 2 << 20  # instantiated at once: what stays in cache, and below what the allocator returns to the system
SIDE_BY_SIDE = 1 << 18  # numbers of one layer that are put beside those of other layers
KEPT_BYTES = 256 << 20  # instantiated and kept in all by one layer; above it only Gram is left, where that fits

Kernel = Callable[[Tensor, Tensor, Geometry, int], Tensor]


def grouped(inputs: Tensor, outputs: Tensor, geometry: Geometry, views: int) -> Tensor:
    """Return (patient, weight element) from rows of input and output gradient."""
    patients = len(inputs) // views
    weight = torch.zeros(1, dtype=inputs.dtype, device=inputs.device).expand(
        patients * geometry.weight[0], *geometry.weight[1:]
    )
    found = geometry.backward(
        _folded(inputs, views), _folded(outputs, views), weight, mask=[False, True, False], groups=patients * geometry.groups
    )
    return found.view(patients, -1)


def unfolded(inputs: Tensor, outputs: Tensor, geometry: Geometry, views: int) -> Tensor:
    """Return (patient, weight element)."""
    found = torch.bmm(outputs.flatten(2), geometry.patches(inputs).transpose(1, 2)).flatten(1)
    return found if views == 1 else found.view(-1, views, found.shape[1]).sum(1)


def shifted(inputs: Tensor, outputs: Tensor, geometry: Geometry, views: int) -> Tensor:
    """Return (patient, weight element)."""
    flat, out = outputs.flatten(2), tuple(outputs.shape[2:])
    parts = [torch.bmm(flat, cut.flatten(2).transpose(1, 2)) for cut in geometry.offsets(inputs, out=out)]
    found = torch.stack(parts, dim=3).flatten(1)
    return found if views == 1 else found.view(-1, views, found.shape[1]).sum(1)


KERNELS: dict[str, Kernel] = {"grouped": grouped, "unfolded": unfolded, "shifted": shifted}


def candidates(
    geometry: Geometry, *, patients: int, views: int, inputs: tuple[int, ...], outputs: tuple[int, ...]
) -> tuple[str, ...]:
    """Return the kernels that can do it within the memory cap, for `views` rows a patient of axes `inputs` and `outputs`."""
    if geometry.groups > 1:
        return ("grouped",)
    positions, seen = views * math.prod(outputs), views * math.prod(inputs)
    out, channels = geometry.weight[:2]
    fits = 4 * patients * geometry.size <= KEPT_BYTES
    worthwhile = positions**2 * out + seen**2 * channels <= 4 * positions * geometry.size
    small = 8 * patients * (positions * (out + positions) + seen * (channels + seen)) <= KEPT_BYTES
    gram = ("gram",) if small and (worthwhile or not fits) else ()
    fewer = products(geometry, inputs=inputs, outputs=outputs) if gram else None
    toom = () if fewer is None or 8 * patients * views * fewer * (out + channels) > KEPT_BYTES else ("toom",)
    return (*(KERNELS if fits or not gram else ()), *gram, *toom)


def gradients(
    name: str,
    inputs: Tensor,
    outputs: Tensor,
    *,
    geometry: Geometry,
    views: int,
    standardised: tuple[Tensor, Tensor] | None = None,
) -> PatientGradients | Tensor:
    """Return the patients' weight gradients; (patient, element) where they are few.

    Of a `standardised` weight, that as used and the scale of each filter: each times its scale, and delivered projected.
    """
    filters, scale = standardised or (None, None)
    patients = len(inputs) // views
    late = scale is not None and name in KERNELS and patients * geometry.size < outputs.numel()
    if scale is not None and not late:
        outputs = outputs * scale.view(-1, *[1] * len(geometry.kernel))
    if name == "gram":
        return Taps(inputs, outputs, geometry=geometry, views=views, filters=filters)
    if name == "toom":
        return Toom(inputs, outputs, geometry=geometry, views=views, filters=filters)
    chunk = max(1, CHUNK_BYTES // (4 * geometry.size))
    parts = []
    for first in range(0, patients, chunk):
        rows = slice(first * views, (first + chunk) * views)
        found = KERNELS[name](inputs[rows], outputs[rows], geometry, views)
        if scale is not None and late:
            found.view(len(found), len(scale), -1).mul_(scale[:, None])
        parts.append(found)
    if filters is None and len(parts) == 1 and parts[0].numel() <= SIDE_BY_SIDE:
        return parts[0]
    return Chunks(parts, shape=geometry.weight, filters=filters)


def linear(left: Tensor, right: Tensor) -> PatientGradients | Tensor:
    """Return the gradients of a linear layer from (patient, t, out) and (patient, t, in); by Gram where they are many."""
    patients, positions, out = left.shape
    size = out * right.shape[2]
    if patients * size <= SIDE_BY_SIDE or positions * (out + right.shape[2]) > size:
        return instantiated(left, right)
    return Gram(left, right)


def _folded(rows: Tensor, views: int) -> Tensor:
    patients = len(rows) // views
    shaped = rows.reshape(patients, views, *rows.shape[1:]).transpose(0, 1)
    return shaped.reshape(views, patients * rows.shape[1], *rows.shape[2:])
