"""Small networks, bags and oracles for the tests of the engine: one patient at a time, in float64."""

import numpy as np
import torch
from torch import nn

from client.engine import toom
from client.engine.batch import packed
from common.networks.standardised import EPSILON, StandardisedConv2d, StandardisedConv3d

STANDARDISED = StandardisedConv2d | StandardisedConv3d


class Small2d(nn.Module):
    """Convolutions of every kind: plain, strided, grouped, dilated, 1x1 without bias, standardised; GroupNorm; a head."""

    def __init__(self):
        super().__init__()
        self.plain = nn.Conv2d(2, 8, 3, padding=1)
        self.norm = nn.GroupNorm(4, 8)
        self.grouped = nn.Conv2d(8, 8, 3, padding=2, dilation=2, groups=2, stride=2)
        self.dilated = nn.Conv2d(8, 12, (3, 1), padding=(2, 0), dilation=(2, 1))
        self.point = nn.Conv2d(12, 12, 1, stride=2, bias=False)
        self.standard = StandardisedConv2d(12, 10, 3, padding=1)
        self.head = nn.Linear(10, 1)

    def forward(self, views):
        x = torch.relu(self.norm(self.plain(views)))
        x = torch.tanh(self.dilated(torch.tanh(self.grouped(x))))
        return self.head(torch.relu(self.standard(torch.tanh(self.point(x)))).mean((2, 3))).squeeze(1)


class Small3d(nn.Module):
    def __init__(self):
        super().__init__()
        self.one, self.norm = nn.Conv3d(1, 6, 3, padding=1), nn.GroupNorm(3, 6)
        self.two, self.head = nn.Conv3d(6, 8, 3, stride=2, padding=1), nn.Linear(8, 1)

    def forward(self, views):
        x = torch.relu(self.norm(self.one(views)))
        return self.head(torch.relu(self.two(x)).amax((2, 3, 4))).squeeze(1)


class Standardised3d(nn.Module):
    """Standardised convolutions of volumes: with and without bias, strided, grouped, dilated."""

    def __init__(self):
        super().__init__()
        self.one, self.norm = StandardisedConv3d(1, 6, 3, padding=1, bias=False), nn.GroupNorm(3, 6)
        self.two = StandardisedConv3d(6, 8, (3, 1, 2), stride=(2, 1, 1), padding=(1, 0, 1))
        self.grouped = StandardisedConv3d(8, 8, 3, padding=2, dilation=2, groups=2)
        self.head = nn.Linear(8, 1)

    def forward(self, views):
        x = torch.tanh(self.two(torch.relu(self.norm(self.one(views)))))
        return self.head(torch.relu(self.grouped(x)).mean((2, 3, 4))).squeeze(1)


class Sequence(nn.Module):
    """LayerNorm and linear layers on sequences: each image row is a token."""

    def __init__(self):
        super().__init__()
        self.inner, self.norm = nn.Linear(16, 24), nn.LayerNorm(24)
        self.outer, self.head = nn.Linear(24, 16, bias=False), nn.Linear(16, 1)

    def forward(self, views):
        x = torch.tanh(self.norm(self.inner(views[:, 0])))
        return self.head(torch.tanh(self.outer(x)).mean(1)).squeeze(1)


KERNELS = ("grouped", "unfolded", "shifted", "gram", "toom")


def always(kernel):
    """A choice of kernels that takes `kernel` wherever it can do it."""

    def chosen(geometry, *, inputs, outputs, **_):
        if geometry.groups > 1:
            return "grouped"
        can = kernel != "toom" or toom.products(geometry, inputs=inputs[1:], outputs=outputs[1:]) is not None
        return kernel if can else "gram"

    return chosen


def made(network, *, seed=0):
    """`network` with random weights, those of norms included."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in network.parameters():
            spread = parameter[0].numel() ** -0.5 if parameter.ndim > 1 else 0.5
            parameter.copy_(spread * torch.randn(parameter.shape, generator=generator) + (parameter.ndim == 1) * 0.3)
    return network


def loss(outputs, targets):
    return nn.functional.binary_cross_entropy_with_logits(outputs, targets, reduction="none")


def views(count, *shape, seed=0):
    return np.random.default_rng(seed).normal(size=(count, *shape)).astype(np.float32)


def bags(sizes):
    """Consecutive rows; labels alternate."""
    ends = np.cumsum(sizes)
    return [(float(at % 2), tuple(range(end - size, end))) for at, (size, end) in enumerate(zip(sizes, ends, strict=True))]


def gradients(network, images, patients, *, dtype=torch.float64):
    """The oracle, (patient, d): autograd, one patient at a time.

    For a standardised weight it is the gradient before its projection: times the filters' scale, of the weight as used.
    """
    network = network.to(dtype)
    names = [name for name, parameter in network.named_parameters() if parameter.requires_grad]
    scales = {}
    for name, module in network.named_modules():
        if isinstance(module, STANDARDISED):
            module.used, scale = (one.detach() for one in module.standardised())
            module.used.requires_grad_()
            vars(module)["standardised"] = lambda module=module: (module.used, None)
            scales[f"{name}.weight"] = module.used, scale
    held = dict(network.named_parameters())
    trained = [scales[name][0] if name in scales else held[name] for name in names]
    factors = [_beside(*scales[name]) if name in scales else 1.0 for name in names]
    rows = []
    for label, bag in patients:
        shown = torch.from_numpy(images[list(bag)]).to(dtype)
        mean = loss(network(shown), torch.full((len(bag),), label, dtype=dtype)).mean()
        found = torch.autograd.grad(mean, trained)
        rows.append(torch.cat([(one * factor).ravel() for one, factor in zip(found, factors, strict=True)]).double().numpy())
    for module in network.modules():
        if isinstance(module, STANDARDISED):
            del vars(module)["standardised"], module.used
    network.float()
    return np.array(rows)


def _beside(weight, scale):
    """The filters' scales, (out,), as what multiplies their weight."""
    return scale.view(-1, *[1] * (weight.ndim - 1))


def projected(network, vector):
    """What becomes of a sum of gradients when standardised weights are projected."""
    parts, first = [], 0
    modules = {id(one.weight): one for one in network.modules() if isinstance(one, STANDARDISED)}
    for parameter in network.parameters():
        if parameter.requires_grad:
            part = torch.from_numpy(vector[first : first + parameter.numel()]).view(parameter.shape)
            first += parameter.numel()
            module = modules.get(id(parameter))
            if module is not None:  # the chain rule, by autograd
                raw = parameter.detach().double().requires_grad_()
                flat = raw.flatten(1)
                variance, mean = torch.var_mean(flat, dim=1, correction=0, keepdim=True)
                scale = ((variance + EPSILON) * flat.shape[1]).rsqrt()
                used = ((flat - mean) * scale).view_as(raw)
                part = torch.autograd.grad((used * part / _beside(raw, scale.detach())).sum(), raw)[0]
            parts.append(part.ravel())
    return torch.cat(parts).numpy()


def clipped(rows, *, norm):
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    return (rows * np.minimum(1, norm / norms)).sum(0)


def flat(named):
    return torch.cat([part.ravel() for part in named.values()]).numpy()


def batches(images, patients, *, rows_at_once=8):
    return packed(images, bags=patients, rows_at_once=rows_at_once)
