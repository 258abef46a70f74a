"""The sum of clipped per-patient gradients over micro-batches: one forward and one backward each.

Sensitivity. What one patient adds is a function of the own rows, the model, the micro-batch's fixed shape and the kernels
that were chosen before: no bit of it depends on who else is there (independence.py says on what that rests, and checks it).
Its norm, of the numbers that are delivered (outer.py for the exception), is at most the clip norm, up to float32 rounding
of a sum of squares. Patients meet in float64 sums only, so adding or removing one moves the sum by at most
clip_norm * (1 + 1e-6) and twice the sum's rounding, below 1e-6 * clip_norm for each patient in it (toom.py has most), for any
weights; the ledger's numerical slack, 1e-3 or 6e-6 for each patient where that is more, covers it.
Source: Abadi et al. 2016, Algorithm 1; reference training.md 1.2 and 2.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from client.engine.attach import attached, refuse_unknown
from client.engine.batch import Batch
from client.engine.tape import Tape
from common.errors import InternalError

__all__ = ["LARGEST_NORM", "Loss", "clipped_sum", "full_precision", "recorded"]

LARGEST_NORM = 1e30  # a gradient above it counts as not finite
Loss = Callable[[Tensor, Tensor], Tensor]  # outputs and targets of rows to the loss of each row


def clipped_sum(
    network: nn.Module, batches: Iterable[Batch], *, loss: Loss, clip_norm: float, products: torch.dtype | None = None
) -> dict[str, Tensor]:
    """Return the sum over patients of their gradients, each clipped to L2 norm `clip_norm`: name to float64 tensor.

    A patient's gradient is that of the weighted sum of the losses of the own rows, with respect to all parameters that require
    a gradient. That of a standardised weight is clipped before its projection, which never lengthens and is applied to the sum
    (common/networks/standardised.py). No batches give zeros; a patient whose gradient is not finite contributes exactly zero.
    `products` is mixed precision: convolutions and linear layers round to it before they multiply, forward and back to their
    input; what is clipped and delivered is computed in full from there, so the bound holds as it does without. No study trains
    so (CONTRIBUTING.md, decision 21).
    Raises ConfigError on a layer that the engine does not know, InternalError on a parameter used twice, not at all, or beside
    its layer.
    """
    refuse_unknown(network)
    trained = {name: parameter for name, parameter in network.named_parameters() if parameter.requires_grad}
    total: dict[nn.Parameter, Tensor] = {}
    for batch in batches:
        tape = recorded(network, batch, loss=loss, products=products)
        with torch.no_grad():
            tape.deliver(_factors(tape.squares(), present=batch.present, clip_norm=clip_norm), into=total)
    for parameter in trained.values():
        if parameter not in total:
            total[parameter] = torch.zeros(parameter.shape, dtype=torch.float64, device=parameter.device)
    return {name: total[parameter] for name, parameter in trained.items()}


def recorded(network: nn.Module, batch: Batch, *, loss: Loss, products: torch.dtype | None = None) -> Tape:
    """Return the tape of one forward and backward; the network must have been let pass by refuse_unknown."""
    tape = Tape(patients=batch.places, views=batch.views_per_patient, products=products)
    trained = {parameter for parameter in network.parameters() if parameter.requires_grad}
    for parameter in trained:
        parameter.grad = None
    with full_precision(on=batch.views.is_cuda), attached(network, tape):
        losses = loss(network(batch.views), batch.targets)
        if losses.shape != batch.weights.shape:
            raise InternalError("The loss is not one number per row.", action="Report this.")
        torch.autograd.backward(losses, batch.weights.to(losses.dtype))
    if any(parameter.grad is not None for parameter in trained):
        raise InternalError("A parameter is used beside its layer, where it is not clipped.", action="Report this.")
    if tape.recorded != trained:
        raise InternalError("A trainable parameter delivered no per-patient gradient.", action="Report this.")
    return tape


def _factors(squares: Tensor, *, present: int, clip_norm: float) -> Tensor:
    """Return min(1, clip_norm / norm) per patient, zero where the norm is not finite or nobody is there."""
    norms = squares.sqrt()
    factors = (clip_norm / norms.clamp(min=clip_norm)).where(norms < LARGEST_NORM, 0.0)  # false for NaN
    factors[present:] = 0
    return factors


@contextmanager
def full_precision(*, on: bool) -> Iterator[None]:
    """On a GPU: no TF32, no kernels whose bits or choice change from call to call.

    The switches are the process's: where several threads compute, one must hold this around all of them.
    """
    if not on:
        yield
        return
    products = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = False
    try:
        with torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False):
            yield
    finally:
        torch.backends.cuda.matmul.allow_tf32 = products
