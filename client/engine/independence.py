"""Whether a patient's gradient has the same bits whoever else is in the micro-batch, and wherever: tried on made-up patients.

Why it matters: with weights that the coordinator chose, one bit of difference in a patient's forward can switch a gate and
change the patient's gradient by as much as the clip norm. Batching patients is safe only if no bit depends on the others.
On what it rests: the shape of a micro-batch is constant, the kernels are chosen before, and the library's kernels for one
shape do the same operations on every row, whatever the other rows hold. The last is no promise of the library's, so it is
tried here, on this machine, with these shapes and threads, before the first step. Where it fails, patients go one at a time.
"""

import copy
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from client.engine.batch import Batch, places
from client.engine.clipped import Loss, recorded

__all__ = ["rows_at_once"]

NEIGHBOURS = (0.0, 1.0, 1e30, float("inf"), float("nan"))  # what others are multiplied by
_found: dict[tuple[object, ...], bool] = {}


def rows_at_once(network: nn.Module, *, shape: tuple[int, ...], sizes: Sequence[int], wanted: int, loss: Loss) -> int:
    """Return `wanted`, or 1 (patients one at a time) where patients of some size in `sizes` would depend on one another.

    `shape` is (channel, *axes). The answer is kept for the process; the network's weights play no part and are left alone.
    """
    layers = tuple((name, type(module).__name__) for name, module in network.named_modules())
    weights = tuple((tuple(one.shape), one.requires_grad, str(one.device)) for one in network.parameters())
    for size in sizes:
        key = (layers, weights, shape, size, wanted, torch.get_num_threads(), torch.__version__)
        if key not in _found:
            _found[key] = _independent(network, shape=shape, places=places(wanted, views=size), views=size, loss=loss)
        if not _found[key]:
            return 1
    return wanted


def _independent(network: nn.Module, *, shape: tuple[int, ...], places: int, views: int, loss: Loss) -> bool:
    device = next(network.parameters()).device
    generator = torch.Generator(device).manual_seed(0)
    tried = copy.deepcopy(network)
    with torch.no_grad():
        for parameter in tried.parameters():
            spread = parameter[0].numel() ** -0.5 if parameter.ndim > 1 else 1.0
            parameter.copy_(spread * torch.randn(parameter.shape, generator=generator, device=device))
    drawn = torch.randn(places * views, *shape, generator=generator, device=device)
    one = torch.randn(views, *shape, generator=generator, device=device)
    expected: tuple[Tensor, Tensor] | None = None
    for at, scale in enumerate(NEIGHBOURS):
        place = at * (places - 1) // (len(NEIGHBOURS) - 1)  # from the first place to the last
        shown = drawn * scale
        shown[place * views : (place + 1) * views] = one
        found = _alone(tried, shown, place=place, views=views, loss=loss)
        expected = expected or found
        if not all(torch.equal(a, b) for a, b in zip(found, expected, strict=True)):
            return False
    return expected is not None and bool(torch.isfinite(expected[1]).all()) and bool(expected[0] > 0)


def _alone(network: nn.Module, shown: Tensor, *, place: int, views: int, loss: Loss) -> tuple[Tensor, Tensor]:
    """Return the squared norm and the gradient of the patient at `place`."""
    ones = torch.ones(len(shown), device=shown.device)
    batch = Batch(views=shown, targets=ones, weights=ones / views, views_per_patient=views, present=len(shown) // views)
    tape = recorded(network, batch, loss=loss)
    factors = torch.zeros(batch.places, dtype=torch.float64, device=shown.device)
    factors[place] = 1
    total: dict[nn.Parameter, Tensor] = {}
    squares = tape.squares()[place]
    tape.deliver(factors, into=total)
    return squares, torch.cat([part.ravel() for part in total.values()])
