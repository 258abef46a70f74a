"""A private training step beside one without privacy, and beside Opacus, in one run: `make bench-training`.

Writes out/bench/training.json. A step is: gradients of the batch, clipped per patient or not, and one update by Adam; one
view a patient, random images. Both sides take the micro-batch that is fastest for them; step_ratio_as_packed is of the smaller
one that hospitals take (rows_at_once), where few sampled patients do not pay for many absent ones. Process CPU time, one thread
(wall time on a GPU); rounds are interleaved, ratios are medians over rounds of this run. The noise is drawn once a step and is
told apart, under noise.*, and in step_ratio_with_noise. Opacus knows no standardised weights: its rows of resnet18 are with
plain convolutions, beside a plain step with the same. Memory: peak over what was resident before the step, one process each.
Utility and whole rounds are measured elsewhere; their figures in the same file (`utility`, `utility_full`, `round`) are kept.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import time
import warnings
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from statistics import median

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import nn

from client.engine.batch import packed
from client.engine.clipped import clipped_sum
from common.crypto import rng
from common.networks import weights
from common.networks.cnn2d import Cnn2d
from common.networks.cnn3d import Cnn3d
from common.networks.resnet18 import ResNet18
from common.networks.standardised import StandardisedConv2d
from tests import engine
from tests.benchmarks import opendp_sampler

OUT = Path(__file__).parents[2] / "out" / "bench" / "training.json"
NETWORKS = {  # network, image, patients a step, micro-batches tried
    "cnn2d": (Cnn2d, (1, 40, 40), 256, (16, 32, 64)),
    "resnet18": (ResNet18, (1, 64, 64), 64, (16, 32, 64)),
    "cnn3d": (Cnn3d, (1, 32, 32, 32), 32, (4, 8, 16)),
}
RIVALS = ("hooks", "ghost", "functorch")
BAR = 1.3
NOISE_BITS = 16


def network_of(name, *, plain_convolutions=False):
    network = NETWORKS[name][0](channels=1)
    weights.fill(network)
    with torch.no_grad():
        network.head.weight.fill_(0.01)
    for module in network.modules() if plain_convolutions else ():
        for child_name, child in module.named_children():
            if isinstance(child, StandardisedConv2d):
                plain = nn.Conv2d(
                    child.in_channels, child.out_channels, child.kernel_size, child.stride, child.padding, bias=False
                )
                plain.weight = nn.Parameter(child.standardised()[0].detach())
                setattr(module, child_name, plain)
    return network


def step_of(name, mode, *, device="cpu"):
    """A function that makes one step; `mode`: plain16, plain (the whole batch), ours16, mixed16, hooks ..., or plain-conv16."""
    _, shape, patients, _ = NETWORKS[name]
    kind = mode.rstrip("0123456789")
    at_once = int(mode[len(kind) :] or patients)
    network = network_of(name, plain_convolutions=kind in (*RIVALS, "plain-conv")).to(device)
    images = engine.views(patients, *shape)
    targets = torch.from_numpy(np.arange(patients, dtype=np.float32) % 2).to(device)
    held = torch.from_numpy(images).to(device)
    adam = torch.optim.Adam(network.parameters(), 1e-4)
    if kind in {"ours", "mixed"}:
        products = torch.bfloat16 if kind == "mixed" else None
        return lambda: ours(network, images, held, adam, at_once=at_once, device=device, products=products)
    if kind in RIVALS:
        return rival(network, kind, held, targets, adam)

    def plain():
        adam.zero_grad()
        for first in range(0, patients, at_once):
            rows = slice(first, first + at_once)
            (engine.loss(network(held[rows]), targets[rows]).sum() / patients).backward()
        adam.step()

    return plain


def ours(network, images, held, adam, *, at_once, device, products):
    bags = [(float(at % 2), (at,)) for at in range(len(images))]
    if device == "cpu":
        batches = packed(images, bags=bags, rows_at_once=at_once)
    else:  # the views stay on the device between steps
        made = [one.to(device) for one in packed(np.zeros((len(images), 1), np.float32), bags=bags, rows_at_once=at_once)]
        batches = [replace(one, views=held[at * at_once : (at + 1) * at_once]) for at, one in enumerate(made)]
    total = clipped_sum(network, batches, loss=engine.loss, clip_norm=1.0, products=products)
    for name, parameter in network.named_parameters():
        parameter.grad = total[name].to(parameter.dtype).div_(len(images))
    adam.step()


def rival(network, mode, held, targets, adam):
    """A step of Opacus 1.6 with its own clipping, accumulation and float noise of multiplier zero."""
    from opacus import PrivacyEngine
    from torch.utils.data import DataLoader, TensorDataset

    criterion = nn.BCEWithLogitsLoss()
    made = PrivacyEngine().make_private(
        module=network,
        optimizer=adam,
        data_loader=DataLoader(TensorDataset(held, targets), batch_size=len(held)),
        noise_multiplier=0.0,
        max_grad_norm=1.0,
        grad_sample_mode=mode,
        poisson_sampling=False,
        **({"criterion": criterion} if mode == "ghost" else {}),
    )
    private, optimiser = made[0], made[1]
    criterion = made[2] if mode == "ghost" else criterion

    def step():
        optimiser.zero_grad()
        criterion(private(held), targets).backward()
        optimiser.step()

    return step


def clock(device):
    if device == "cpu":
        return time.process_time()
    torch.cuda.synchronize()
    return time.perf_counter()


def modes_of(name, *, rivals, device="cpu"):
    _, _, patients, sizes = NETWORKS[name]
    plain = [f"plain{size}" for size in sizes if size < patients] + ["plain"]
    kinds = ("ours",) if device == "cpu" else ("ours", "mixed")
    own = [f"{kind}{size}" for kind in kinds for size in sizes if size <= patients]
    standardised = any(isinstance(one, StandardisedConv2d) for one in network_of(name).modules())
    return [*plain, *own, *(["plain-conv"] if standardised and rivals else []), *rivals]


def times(name, *, rounds, rivals, device):
    """Seconds of every mode in every round, and why some did not run."""
    steps, refused = {}, {}
    for mode in modes_of(name, rivals=rivals, device=device):
        try:
            steps[mode] = step_of(name, mode, device=device)
            steps[mode]()
        except Exception as error:  # a rival that does not run is a result
            if mode not in RIVALS:
                raise
            steps.pop(mode, None)
            refused[mode] = f"{type(error).__name__}: {str(error)[:200]}"
    spent = {mode: [] for mode in steps}
    for _ in range(rounds):
        for mode, step in steps.items():
            began = clock(device)
            step()
            spent[mode].append(clock(device) - began)
    return spent, refused


def ratio(spent, mode, other):
    return median(a / b for a, b in zip(spent[mode], spent[other], strict=True))


def compare(name, *, rounds, rivals, device):
    spent, refused = times(name, rounds=rounds, rivals=rivals, device=device)
    middle = {mode: median(one) for mode, one in spent.items()}
    best = {
        side: min((mode for mode in middle if mode.rstrip("0123456789") == side), key=middle.get) for side in ("plain", "ours")
    }
    beside = "plain-conv" if "plain-conv" in middle else best["plain"]
    return {
        "step_ratio": ratio(spent, best["ours"], best["plain"]),
        "step_ratio_as_packed": ratio(spent, f"ours{NETWORKS[name][0].rows_at_once}", best["plain"]),
        "best": best,
        "seconds": middle,
        "spread": {mode: [min(one), max(one)] for mode, one in spent.items()},
        "rivals": {
            mode: ratio(spent, mode, best["plain"] if beside == best["plain"] else beside) for mode in rivals if mode in spent
        },
        "rivals_beside": beside,
        "rivals_refused": refused,
    }


def peak_mib(name, mode):
    code = (
        "import sys; from tests.benchmarks import training as t; step = t.step_of(*sys.argv[1:]);"
        "before = t.resident_mib('VmRSS'); step(); step(); print(t.resident_mib('VmHWM') - before)"
    )
    done = subprocess.run([sys.executable, "-c", code, name, mode], capture_output=True, text=True, check=False, timeout=600)
    return float(done.stdout) if done.returncode == 0 else None


def resident_mib(field):
    """Memory of this process now (VmRSS) or at its peak (VmHWM; getrusage would tell the parent's)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(field)).split()[1]) / 1024


def noise(console, *, steps):
    """The sampler's speed and spread, and what a step's noise adds."""
    console.print("noise ...")
    size = 1_000_000
    began = time.process_time()
    drawn = rng.discrete_gaussian(size, share_bits=NOISE_BITS)
    spent = time.process_time() - began
    found = {
        "std_ratio": float(np.sqrt(np.mean(drawn.astype(np.float64) ** 2)) / 2.0**NOISE_BITS),
        "std_ratio_standard_error": (2 * size) ** -0.5,
        "samples_per_s": size / spent,
    }
    dimensions = {name: sum(one.numel() for one in network_of(name).parameters()) for name in steps}
    found["seconds_a_step"] = {name: dimension / found["samples_per_s"] for name, dimension in dimensions.items()}
    found["opendp"] = opendp_sampler.speed(bits=NOISE_BITS)
    return found


def show(report, console):
    detail = report["detail"]
    table = Table("ratio to the plain step", *detail, title="A private step beside the best plain one", title_justify="left")
    verdicts = {name: "holds" if one["step_ratio"] <= BAR else "MISSED" for name, one in detail.items()}
    rows = {
        f"ours, each side's best micro-batch; bar {BAR}": report["step_ratio"],
        "": verdicts,
        "ours, as hospitals pack it": report["step_ratio_as_packed"],
        "ours, with the draw of exact noise": report["step_ratio_with_noise"],
        **{f"Opacus, {mode}": {name: one["rivals"].get(mode) for name, one in detail.items()} for mode in RIVALS},
        "peak memory, ours / plain": report["memory_ratio"],
    }
    for what, cells in rows.items():
        found = [cells.get(name) for name in detail]
        table.add_row(what, *(one if isinstance(one, str) else "-" if one is None else f"{one:.3f}" for one in found))
    console.print(table)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="print the JSON and no table")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--networks", nargs="*", choices=sorted(NETWORKS), default=list(NETWORKS))
    parser.add_argument("--without-rivals", action="store_true")
    parser.add_argument("--without-memory", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore")  # Opacus: hooks on inputs without gradients, noise multiplier zero
    console, began = Console(stderr=True), time.perf_counter()
    rivals = () if options.without_rivals else RIVALS
    detail, memory = {}, {}
    for name in options.networks:
        console.print(f"{name} ...")
        detail[name] = compare(name, rounds=options.rounds, rivals=rivals, device="cpu")
        if not options.without_memory:
            peaks = {side: peak_mib(name, mode) for side, mode in detail[name]["best"].items()}
            whole = peak_mib(name, "plain")
            detail[name]["peak_mib"] = {**peaks, "plain_whole_batch": whole}
            if None not in peaks.values():
                memory[name] = peaks["ours"] / peaks["plain"]
    drawn = noise(console, steps=detail)
    report = {
        "made": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": {
            "cores": len(os.sched_getaffinity(0)),
            "load_average": os.getloadavg(),
            "processor": platform.processor() or platform.machine(),
            "python": platform.python_version(),
            "torch": torch.__version__,
        },
        "seconds": round(time.perf_counter() - began, 1),
        "bars": {f"step_ratio.{name}": BAR for name in detail},
        **{key: {name: one[key] for name, one in detail.items()} for key in ("step_ratio", "step_ratio_as_packed")},
        "step_ratio_with_noise": {
            name: (one["seconds"][one["best"]["ours"]] + drawn["seconds_a_step"][name]) / one["seconds"][one["best"]["plain"]]
            for name, one in detail.items()
        },
        "memory_ratio": memory,
        "noise": drawn,
        "detail": detail,
    }
    if torch.cuda.is_available():
        report["gpu"] = {
            "device": torch.cuda.get_device_name(),
            **{name: compare(name, rounds=options.rounds, rivals=rivals, device="cuda") for name in options.networks},
        }
    before = json.loads(OUT.read_text()) if OUT.exists() else {}
    report |= {key: before[key] for key in ("utility", "utility_full", "round") if key in before}
    OUT.parent.mkdir(parents=True, exist_ok=True)
    OUT.write_text(json.dumps(report, indent=1) + "\n")
    if options.json:
        sys.stdout.write(json.dumps(report, indent=1) + "\n")
    else:
        show(report, Console())
        console.print(f"{OUT} after {report['seconds']} s")


if __name__ == "__main__":
    main()
