"""Products of float64 matrices: on the processor by NumPy's BLAS, on other devices by torch's.

On processors with AVX-512 that are not Intel's, torch's uses half of their registers for float64, NumPy's all; and of a matrix
with itself NumPy's computes one half.
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
