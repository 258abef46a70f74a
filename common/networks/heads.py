"""What a study's network says at its end: its loss, the loss' slope in closed form, and what its outputs predict.

| head | outputs | loss of a view | prediction |
|---|---|---|---|
| binary | 1 | cross-entropy of sigmoid | probability of the positive class |
| classes | one a class | cross-entropy of softmax | probability of each class |
| ordinal | one between neighbours | cross-entropies of "further than this class", for who came so far | likewise |
| regression | 1 | half the squared error | a value, cut to its bounds |

Source: binary and classes: Bishop 2006, 4.3; ordinal: continuation ratios, Fienberg 1980, as a network: Shi, Cao, Raschka 2023.
Every loss is of one row alone: rows never mix, so that the engine's per-patient gradients hold (client/engine/clipped.py).
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from common.training import Training

__all__ = ["Head", "of"]

Float = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Head:
    """A head by its kind; `classes` is 2 for binary, 0 for regression. Targets are class numbers, or values in [0, 1]."""

    kind: Literal["binary", "classes", "ordinal", "regression"]
    classes: int

    @property
    def outputs(self) -> int:
        """Return how many numbers the network gives a view."""
        return {"classes": self.classes, "ordinal": self.classes - 1}.get(self.kind, 1)

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the loss of each row, (row,): outputs (row,) or, where there are several, (row, outputs); targets (row,)."""
        if self.kind == "binary":
            return nn.functional.binary_cross_entropy_with_logits(outputs, targets, reduction="none")
        if self.kind == "regression":
            return torch.square(outputs - targets) / 2
        rows = outputs.reshape(len(targets), self.outputs)
        if self.kind == "classes":
            return nn.functional.cross_entropy(rows, targets.long(), reduction="none")
        steps = torch.arange(self.outputs, device=targets.device)
        further, reached = (targets[:, None] > steps).to(rows.dtype), (targets[:, None] >= steps).to(rows.dtype)
        return torch.sum(nn.functional.binary_cross_entropy_with_logits(rows, further, reduction="none") * reached, dim=1)

    def residuals(self, outputs: Float, *, target: float) -> Float:
        """Return the slope of each row's loss in its outputs, (row, outputs), of a patient whose target is `target`."""
        if self.kind == "regression":
            return outputs - target
        if self.kind == "classes":
            return np.asarray(_softmax(outputs) - (np.arange(self.classes) == target))
        if self.kind == "binary":
            return _sigmoid(outputs) - target
        steps = np.arange(self.outputs)
        return np.asarray((_sigmoid(outputs) - (target > steps)) * (target >= steps))

    def predictions(self, outputs: Float) -> Float:
        """Return the probabilities of the classes, (row, classes), or the values, (row, 1), of outputs (row, outputs)."""
        if self.kind == "regression":
            return np.asarray(np.clip(outputs, 0.0, 1.0))
        if self.kind == "classes":
            return _softmax(outputs)
        going = _sigmoid(outputs)
        reached = np.concatenate([np.ones((len(outputs), 1)), np.cumprod(going, axis=1)], axis=1)
        stays = np.concatenate([1 - going, np.ones((len(outputs), 1))], axis=1)
        return np.asarray(reached * stays)


def of(training: Training) -> Head:
    """Return the head that a study names."""
    classes = {"binary": 2, "regression": 0}.get(training.head, len(training.classes))
    return Head(kind=training.head, classes=classes)


def _sigmoid(logits: Float) -> Float:
    return np.asarray(0.5 * (1 + np.tanh(0.5 * logits)))


def _softmax(logits: Float) -> Float:
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=1, keepdims=True))
