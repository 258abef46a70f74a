"""A convolution's weight gradients with fewer products: positions are coefficients of polynomials, multiplied at points.

Along an axis of stride and dilation one, the elements of the gradient G_d = sum_t g_t x_{t+d} are coefficients of a product of
two polynomials. By evaluation at N points (one at infinity) it takes N products in place of one for each pair of t and d: for
four outputs and a kernel of three 6, not 12; on an image 36, not 144. Norms are those of taps.py; all is in float64. Rounding
grows by A: the sum over patients is off by at most 2 A (n + 100) 2^-53 |g||x| for each, where n patients and tiles meet in one
product, and A < 130 on two axes is a norm of the algorithm's tensor of absolute numbers. A gradient shorter than FLOOR |g||x|
is therefore clipped as if it were that long: rounding stays below 1e-6 of the clip norm for each patient, for n up to 3000,
which no micro-batch of ours reaches. Kernels are of at most three: A is 132, 192 and 382 for four, five and six.
Source: Toom 1963; Cook 1966; Winograd, Arithmetic Complexity of Computations, 1980.
"""

from collections.abc import Callable
from functools import lru_cache, reduce
from math import prod
from typing import ClassVar

import torch
from torch import Tensor
from typing_extensions import override

from client.engine import blas
from client.engine.geometry import Geometry
from client.engine.taps import Taps

__all__ = ["Toom", "products"]

POINTS = (0.0, 0.625, -0.625, 1.75, -1.75)  # and infinity; of short binary numbers, those that let rounding grow least
KERNEL_MOST = 3  # along an axis
Tile = tuple[Tensor, slice]  # (point, position), and which positions
Axis = tuple[list[Tile], list[Tile], Tensor]  # outputs at points tile by tile, inputs at points, and back: (element, point)


class Toom(Taps):
    """Gradients that are never instantiated, of a convolution along one or two axes with stride and dilation one."""

    FLOOR: ClassVar[float] = 1e-4

    @override
    def _writer(self, left: Tensor, right: Tensor) -> Callable[[slice, Tensor], None]:
        axes = _algorithm(self._geometry, tuple(left.shape[:-2]), tuple(right.shape[:-2]))
        first = _at_points(left, [axis[0] for axis in axes]).transpose(1, 2)
        second = _at_points(right, [axis[1] for axis in axes])
        back = reduce(torch.kron, [axis[2] for axis in axes]).t().contiguous().to(left.device)

        def write(some: slice, part: Tensor) -> None:
            met = part.new_empty(len(part), len(first), part.shape[1])
            blas.put(first[:, some], second, into=met.transpose(0, 1), add=False)
            blas.put(met.transpose(1, 2), back, into=part, add=False)

        return write


def products(geometry: Geometry, *, inputs: tuple[int, ...], outputs: tuple[int, ...]) -> int | None:
    """Return how many products of two numbers it takes for a pair of channels; None where it cannot be."""
    if geometry.groups > 1 or len(inputs) > 2 or any(step > 1 for step in (*geometry.stride, *geometry.dilation)):
        return None
    if any(kernel > KERNEL_MOST for kernel in geometry.kernel):
        return None
    return prod(len(tiles) * len(tiles[0][0]) for tiles, _, _ in _algorithm(geometry, outputs, inputs))


def _at_points(rows: Tensor, axes: list[list[Tile]]) -> Tensor:
    """Return (*axes, row, channel) at the points: (point, tile and row, channel)."""
    points, tiles, sizes = 1, 1, list(rows.shape)
    for tiled in axes:
        held = rows.view(points, tiles, sizes.pop(0), prod(sizes))
        made = held.new_empty(points, len(tiled[0][0]), tiles, len(tiled), held.shape[3])
        for number, (matrix, seen) in enumerate(tiled):
            every = matrix.to(rows.device).expand(points, -1, -1)
            for tile in range(tiles):
                torch.bmm(every, held[:, tile, seen], out=made[:, :, tile, number])
        rows, points, tiles = made, points * made.shape[1], tiles * made.shape[3]
    return rows.view(points, -1, sizes[-1])


@lru_cache(maxsize=256)
def _algorithm(geometry: Geometry, outputs: tuple[int, ...], inputs: tuple[int, ...]) -> tuple[Axis, ...]:
    """Return the algorithm of the fewest products along each axis."""
    return tuple(_along(*one) for one in zip(geometry.kernel, geometry.padding, outputs, inputs, strict=True))


def _along(kernel: int, padding: int, outputs: int, inputs: int) -> Axis:
    most = len(POINTS) + 1
    taken = {tile: (kernel + tile - 1) * -(-outputs // tile) for tile in range(1, most + 2 - kernel)}
    if outputs + inputs - 1 <= min(most, *taken.values()):
        return _whole(kernel, padding, outputs, inputs)
    return _tiled(kernel, padding, outputs, inputs, tile=min(taken, key=taken.__getitem__))


def _whole(kernel: int, padding: int, outputs: int, inputs: int) -> Axis:
    """Return the product of the inputs with the outputs in reverse, of whose coefficients each is an element or unused."""
    size = outputs + inputs - 1
    inverse, back = torch.linalg.inv(_powers(size, size)), torch.zeros(kernel, size, dtype=torch.float64)
    for element in range(kernel):
        coefficient = element - padding + outputs - 1
        if 0 <= coefficient < size:
            back[element] = inverse[coefficient]
    every = slice(None)
    return [(_powers(size, outputs).flip(1), every)], [(_powers(size, inputs), every)], back


def _tiled(kernel: int, padding: int, outputs: int, inputs: int, *, tile: int) -> Axis:
    """Return the transposed product of the kernel's elements with `tile` outputs, tile by tile."""
    size, starts = kernel + tile - 1, range(0, outputs, tile)
    of_tile, inverse = _powers(size, tile), torch.linalg.inv(_powers(size, size)).t()
    at_outputs = [(of_tile[:, : outputs - start].contiguous(), slice(start, min(start + tile, outputs))) for start in starts]
    at_inputs = []
    for start in starts:
        first = min(max(0, start - padding), inputs)
        seen = slice(first, max(first, min(inputs, start - padding + size)))
        at_inputs.append((inverse[:, seen.start - start + padding : seen.stop - start + padding].contiguous(), seen))
    return at_outputs, at_inputs, _powers(size, kernel).t().contiguous()


def _powers(points: int, count: int) -> Tensor:
    """Return the powers 0 to `count` - 1 of each of `points` points, (point, power), of which the last is infinity."""
    finite = torch.tensor(POINTS[: points - 1], dtype=torch.float64)[:, None] ** torch.arange(count)
    return torch.cat([finite, torch.eye(count, dtype=torch.float64)[-1:]])
