"""First weights without data and without a generator: uniform, from a public hash, the same bits on every machine."""

import hashlib
import math

import numpy as np
import torch
from torch import nn

__all__ = ["fill"]


def fill(network: nn.Module) -> None:
    """Put first weights into `network`: filters uniform with variance 2 / fan-in, gains one, all else and the head zero.

    Each layer's numbers are SHAKE-256 of its name, 24 bits each: nobody chose them. Source: He et al. 2015.
    """
    gains = {f"{name}.weight" for name, module in network.named_modules() if isinstance(module, nn.GroupNorm | nn.LayerNorm)}
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if name in gains:
                parameter.fill_(1)
            elif parameter.ndim > 1 and not name.startswith("head."):
                bound = math.sqrt(6 / parameter[0].numel())
                raw = hashlib.shake_256(f"motet/first-weights/{name}".encode()).digest(4 * parameter.numel())
                drawn = (np.frombuffer(raw, "<u4") >> 8).astype(np.float64) / 2**23 - 1  # [-1, 1), exact
                parameter.copy_(torch.from_numpy((bound * drawn).astype(np.float32)).view_as(parameter))
            else:
                parameter.zero_()
