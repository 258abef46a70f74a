"""Pictures of random processes, of which the shipped prior learned its features: no real image, repeatable from a seed.

Every image is a blob with a random outline on coloured noise, with random tubes and a random wall. Its process's own parameters
(size, outline, softness, contrast, spectrum ...) come with it. Generator and idea: see server/prior.py.
"""

import math

import torch
from torch import Tensor, nn

__all__ = ["Draw", "images"]


class Draw:
    """Random numbers from a public seed: these pictures protect nobody and must be repeatable."""

    def __init__(self, seed: int) -> None:
        self._generator = torch.Generator().manual_seed(seed)

    def uniform(self, *shape: int) -> Tensor:
        """Return numbers in [0, 1)."""
        return torch.rand(*shape, generator=self._generator)

    def normal(self, *shape: int) -> Tensor:
        """Return standard normal numbers."""
        return torch.randn(*shape, generator=self._generator)

    def angle(self, n: int) -> Tensor:
        """Return angles, (n, 1, 1), radians."""
        return _wide(self.uniform(n) * 2 * math.pi)


def images(n: int, *, side: int, draw: Draw) -> tuple[Tensor, Tensor]:
    """Return `n` images (n, 2, side, side) in [0, 1], intensity and edge, and what made them, (n, 12)."""
    axis = torch.arange(side, dtype=torch.float32) - (side - 1) / 2
    y, x = (grid[None] for grid in torch.meshgrid(axis, axis, indexing="ij"))
    radius = torch.exp(math.log(1.2) + draw.uniform(n) * math.log(side * 0.45 / 1.2))
    elongation = 1 + 1.2 * draw.uniform(n) ** 2
    lobes = 0.35 * draw.uniform(n) * (draw.uniform(n) < 0.7)
    spikes = 0.5 * draw.uniform(n) * (draw.uniform(n) < 0.5)
    softness = 0.3 + 2 * draw.uniform(n) ** 2
    inside = _blob(x, y, radius, elongation, lobes, spikes, softness, draw=draw)

    spectrum, grain, inner = 2 * draw.uniform(n), 0.01 + 0.05 * draw.uniform(n), 0.12 * draw.uniform(n) ** 2
    base, contrast = 0.03 + 0.2 * draw.uniform(n), 0.15 + 0.6 * draw.uniform(n)
    behind = _wide(base) + _wide(grain) * _noise(n, side=side, exponent=spectrum, draw=draw)
    tubes = torch.floor(5 * draw.uniform(n))
    for number in range(4):
        angle, offset = draw.angle(n), side * (_wide(draw.uniform(n)) - 0.5)
        across = (angle.cos() * x + angle.sin() * y - offset) / _wide(0.6 + 1.2 * draw.uniform(n))
        behind = torch.maximum(behind, _wide((tubes > number) * 0.6 * draw.uniform(n)) * torch.exp(-(across**2)))
    wall, angle = (draw.uniform(n) < 0.3).float(), draw.angle(n)
    beyond = angle.cos() * x + angle.sin() * y - _wide(side * (0.25 + 0.3 * draw.uniform(n)))
    behind = behind + _wide(wall * (0.4 + 0.3 * draw.uniform(n))) * torch.sigmoid(2 * beyond) * (1 - inside)

    texture = _wide(inner) * _noise(n, side=side, exponent=1 + draw.uniform(n), draw=draw)
    image = behind * (1 - inside) + inside * (_wide(base + contrast) + texture)
    image = (image + _wide(0.03 * draw.uniform(n)) * draw.normal(n, side, side)).clamp(0, 1)
    shown = _wide((draw.uniform(n) < 0.5).float())  # half of the time the edge channel is absent, as in a study without one
    attributes = (radius.log(), (inside.mean((1, 2)) + 1e-3).log(), elongation.log(), lobes, spikes, softness)
    more = (contrast, inner, spectrum, grain, tubes, wall)
    return torch.stack([image, shown * _edges(image)], dim=1), torch.stack([*attributes, *more], dim=1)


def _wide(values: Tensor) -> Tensor:
    return values[:, None, None]


def _blob(
    x: Tensor, y: Tensor, radius: Tensor, elongation: Tensor, lobes: Tensor, spikes: Tensor, softness: Tensor, *, draw: Draw
) -> Tensor:
    n = len(radius)
    dx, dy, turn = x - _wide(1.5 * draw.normal(n)), y - _wide(1.5 * draw.normal(n)), draw.angle(n)
    u = (turn.cos() * dx + turn.sin() * dy) * _wide(elongation.sqrt())
    v = (turn.cos() * dy - turn.sin() * dx) / _wide(elongation.sqrt())
    angle, outline = torch.atan2(v, u), torch.ones(())
    for order in (2, 3, 4):
        outline = outline + _wide(0.6 * lobes * draw.normal(n)) * torch.cos(order * angle + draw.angle(n))
    count = _wide(torch.floor(5 + 6 * draw.uniform(n)))
    outline = outline + _wide(spikes) * torch.cos(count * angle + draw.angle(n)).clamp(min=0) ** 2
    return torch.sigmoid(2 * (_wide(radius) * outline.clamp(min=0.2) - torch.sqrt(u**2 + v**2)) / _wide(softness))


def _noise(n: int, *, side: int, exponent: Tensor, draw: Draw) -> Tensor:
    axis = torch.fft.fftfreq(side)
    frequency = torch.sqrt(axis[:, None] ** 2 + axis[None] ** 2)
    frequency[0, 0] = 1 / side
    field: Tensor = torch.fft.ifft2(torch.fft.fft2(draw.normal(n, side, side)) / frequency[None] ** _wide(exponent)).real
    return field.div(field.std((1, 2), keepdim=True))


def _edges(image: Tensor) -> Tensor:
    """Return the length of the central-difference gradient, clipped to [0, 1]."""
    padded = nn.functional.pad(image[:, None], (1, 1, 1, 1), mode="replicate")[:, 0]
    across = (padded[:, 1:-1, 2:] - padded[:, 1:-1, :-2]) / 2
    down = (padded[:, 2:, 1:-1] - padded[:, :-2, 1:-1]) / 2
    return torch.sqrt(across**2 + down**2).clamp(0, 1)
