"""Which kernel a convolution uses: timed once per shape on made-up numbers, never on a patient's, and kept for the process.

The choice must not depend on who is sampled: it is part of the mechanism's public randomness.
"""

import threading
import time
from functools import lru_cache

import torch
from torch import Tensor

from client.engine import kernels
from client.engine.geometry import Geometry
from client.engine.tape import Tape

__all__ = ["fastest"]

REPEATS = 3  # the least of three with warm caches: one timing mis-chose (reference 2.5)

_one_at_a_time = threading.Lock()


def fastest(
    geometry: Geometry,
    *,
    rows: int,
    views: int,
    inputs: tuple[int, ...],
    outputs: tuple[int, ...],
    device: str,
    threads: int,
) -> str:
    """Return the name of the fastest kernel for `rows` rows of shape `inputs` (channel, *axes) and `outputs`.

    `threads` is the number of torch's threads: part of what a timing depends on. Devices that compute at the same time take
    turns here: each shape is timed once, and never while another is.
    """
    with _one_at_a_time:
        return _fastest(geometry, rows, views, inputs, outputs, device, threads)


@lru_cache(maxsize=256)
def _fastest(
    geometry: Geometry, rows: int, views: int, inputs: tuple[int, ...], outputs: tuple[int, ...], device: str, threads: int
) -> str:
    names = kernels.candidates(geometry, patients=rows // views, views=views, inputs=inputs[1:], outputs=outputs[1:])
    if len(names) == 1 or threads < 1:
        return names[0]
    generator = torch.Generator(device).manual_seed(0)
    left = torch.randn(rows, *outputs, generator=generator, device=device)
    right = torch.randn(rows, *inputs, generator=generator, device=device)
    return min(names, key=lambda name: _seconds(name, right, left, geometry=geometry, views=views))


def _seconds(name: str, inputs: Tensor, outputs: Tensor, *, geometry: Geometry, views: int) -> float:
    patients, weight = len(inputs) // views, torch.nn.Parameter(torch.zeros(geometry.weight, device=inputs.device))
    total: dict[torch.nn.Parameter, Tensor] = {}
    factors = torch.ones(patients, dtype=torch.float64, device=inputs.device)

    def once() -> float:
        _wait(inputs)
        began = time.perf_counter() if inputs.is_cuda or torch.get_num_threads() > 1 else time.process_time()
        tape = Tape(patients=patients, views=views)
        found = kernels.gradients(name, inputs, outputs, geometry=geometry, views=views)
        tape.put(weight, found)
        tape.squares()
        tape.deliver(factors, into=total)
        _wait(inputs)
        ended = time.perf_counter() if inputs.is_cuda or torch.get_num_threads() > 1 else time.process_time()
        return ended - began

    once()
    return min(once() for _ in range(REPEATS))


def _wait(tensor: Tensor) -> None:
    if tensor.is_cuda:
        torch.cuda.synchronize(tensor.device)
