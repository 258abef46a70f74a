"""Makes the shipped prior: `python -m server.prior OUT` teaches the network to tell random processes apart; no real image.

The images are those of common/networks/processes.py. The embedding learns the process's own parameters (size, outline,
softness, contrast, spectrum ...), scaled by constants of these images alone.
About three minutes on one core. On a processor that rounds otherwise the weights come out as another network; the file's hash,
named in each study, is what counts.
Source: the idea of Tang et al., Differentially Private Image Classification by Learning Priors from Random Processes, 2023;
generator and network are our own.
"""

import math
import sys
from pathlib import Path

import torch
from torch import nn

from common import model
from common.networks.cnn2d import EMBEDDING, Cnn2d
from common.networks.processes import Draw, images

SEED = 20
PATCH = 40
BATCH = 96
STEPS = 2200
LEARNING_RATE = 4e-3
REFERENCE = 4000  # images that fix the scale of the attributes


def train(*, steps: int) -> Cnn2d:
    """Return the network whose embedding tells the processes' attributes, each divided by sqrt(EMBEDDING + 1)."""
    torch.set_num_threads(1)
    torch.manual_seed(SEED)
    draw = Draw(SEED)
    _, attributes = images(REFERENCE, side=PATCH, draw=draw)
    mean, deviation = attributes.mean(0), attributes.std(0)
    network = Cnn2d(channels=Cnn2d.channels[-1])
    optimiser = torch.optim.AdamW(network.parameters(), LEARNING_RATE, weight_decay=1e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, LEARNING_RATE, total_steps=steps)
    for _ in range(steps):
        views, attributes = images(BATCH, side=PATCH, draw=draw)
        loss = nn.functional.mse_loss(network.embed(views), (attributes - mean) / deviation)
        optimiser.zero_grad()
        torch.autograd.backward(loss)
        optimiser.step()
        schedule.step()
    with torch.no_grad():
        network.embedding.weight.div_(math.sqrt(EMBEDDING + 1))
        network.embedding.bias.div_(math.sqrt(EMBEDDING + 1))
        for parameter in network.head.parameters():
            parameter.zero_()
    return network


def main(arguments: list[str]) -> int:
    """Write the prior to the one path named; return the exit code."""
    if len(arguments) != 1:
        sys.stderr.write("usage: python -m server.prior OUT\n")
        return 2
    Path(arguments[0]).write_bytes(model.dump(train(steps=STEPS)))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
