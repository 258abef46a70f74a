"""The chain rule through a standardised weight, patient by patient, so that the raw weight's gradient is what is clipped.

A filter w of k elements acts as u = (w - mean w) / (s sqrt(k)), s^2 = var w + eps. Its Jacobian is symmetric:
J = (I - 1 1^T / k - u u^T) / (s sqrt(k)), with u.1 = 0 and |u| <= 1.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["Standardisation"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Standardisation:
    """The standardised weight, (o, k), and the factor 1 / (s sqrt(k)) of each filter, (o,), as used in forward."""

    used: Tensor
    scale: Tensor

    def pull_back(self, gradients: Tensor) -> Tensor:
        """Apply J: (patient, o * k) for the standardised weight gives the same shape for the raw one."""
        shaped = gradients.view(len(gradients), *self.used.shape) * self.scale.to(gradients.dtype)[:, None]
        return self.projected(shaped).flatten(1)

    def projected(self, gradients: Tensor) -> Tensor:
        """Return (I - 1 1^T / k - u u^T) gradients, (patient, o, k), float32 or float64."""
        used = self.used.to(gradients.dtype)
        basis = torch.stack([torch.full_like(used, used.shape[1] ** -0.5), used], dim=2)  # (o, k, 2)
        turned = gradients.transpose(0, 1)
        return torch.baddbmm(turned, turned @ basis, basis.transpose(1, 2), alpha=-1).transpose(0, 1)

    def removed(self, left: Tensor, right: Tensor) -> Tensor:
        """Return by how much `projected` lowers the squared norm of sum_t left_t right_t^T, (patient,), float64.

        `left` holds the scale already. Per filter: (G.1)^2 / k + (2 - |u|^2) (G.u)^2.
        """
        used = self.used.double()
        along_one = torch.einsum("pto,pt->po", left, right.sum(2)).square() / used.shape[1]
        along_used = torch.einsum("pto,pto->po", left, right @ used.t()).square()
        return (along_one + along_used * (2 - used.square().sum(1))).sum(1)
