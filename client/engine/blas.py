"""Products of float64 matrices: on the processor by NumPy's BLAS, on other devices by torch's.

Torch's uses all of a processor's registers for float64 on Intel's only; NumPy's on every one that has AVX-512 (on a Zen 5 core
46 G products a second, torch's 26), and of a matrix with itself it computes one half.
"""

import numpy as np
import torch
from torch import Tensor

__all__ = ["multiplied", "put"]


def multiplied(left: Tensor, right: Tensor) -> Tensor:
    """Return left @ right, float64, of matrices or stacks of them."""
    if left.device.type != "cpu":
        return left @ right
    with np.errstate(all="ignore"):  # a warning would tell of a patient
        return torch.from_numpy(np.matmul(left.numpy(), right.numpy()))


def put(left: Tensor, right: Tensor, *, into: Tensor, add: bool) -> None:
    """Write left @ right into `into`, or add it, float64; a matrix beside a stack of them stands for as many of itself.

    Numbers side by side in memory along one of the last two axes make it fast.
    """
    if add:
        into += multiplied(left, right)
    elif into.device.type != "cpu":
        into.copy_(left @ right)
    else:
        with np.errstate(all="ignore"):
            np.matmul(left.numpy(), right.numpy(), out=into.numpy())
