"""The benchmark's ServerApp: the coordinator's own, except that it makes planned rounds instead of a study, and times them.

Set-up, carrier, envelopes, rounds, journal and files are those of server.app. The run's folder holds plan.json, and at the end
figures.json.
"""

import json
import os
import socket
import struct
import time
from pathlib import Path

import numpy as np

from common.crypto import ring
from server import app as coordinator
from server import config
from server.rounds import Rounds
from server.run import begin
from server.setup import set_up
from tests.benchmarks import rounds_vectors

SIGMAS = 8  # a sum further away than this from what it should be is wrong


def drive(*, study, roster, key, carrier, folder, run):
    """Make the rounds of the plan, one size after the other; within a size, its kinds in turn."""
    exchange = begin(study=study, roster=roster, key=key, carrier=carrier, folder=folder, run=run)
    began = time.perf_counter()
    rounds = Rounds(exchange=exchange, keys=set_up(exchange))
    figures = {"set_up_s": time.perf_counter() - began, "rounds": []}
    plan = json.loads((folder / "plan.json").read_bytes())
    for dimension in dict.fromkeys(one["dimension"] for one in plan):
        kinds = [one for one in plan if one["dimension"] == dimension]
        for at in range(max(one["rounds"] for one in kinds)):
            for one in (one for one in kinds if at < one["rounds"]):
                kind = {key: one[key] for key in ("dimension", "model", "noise")}
                figures["rounds"].append(measured(rounds, at=at, **kind))
    rounds.close()
    (folder / "figures.json").write_text(json.dumps(figures))
    exchange.say("done")


def measured(made, *, at, dimension, model, noise):
    """Time one secure sum, count its bytes and its memory, and check it; the check is not timed."""
    blob = os.urandom(4 * dimension) if model else b""
    forget_peak()
    wire_before, cpu_before, rss_before = wire_bytes(), time.process_time(), memory("VmRSS")
    began = time.perf_counter()
    announced, words = made.secure_sum(task="train", index=2 - noise, dimension=dimension, blob=blob, attempts=1)
    seconds = time.perf_counter() - began
    cpu, peak = time.process_time() - cpu_before, memory("VmHWM")
    time.sleep(0.05)  # the last acknowledgements of the kernel
    wire = wire_bytes()
    check(words, announced, noise=noise)
    return {
        "dimension": dimension,
        "model": model,
        "noise": noise,
        "at": at,
        "seconds": seconds,
        "coordinator_cpu_s": cpu,
        "coordinator_rss_before_bytes": rss_before,
        "coordinator_peak_bytes": peak,
        "bytes_up": wire[0] - wire_before[0],
        "bytes_down": wire[1] - wire_before[1],
        "hospitals": len(announced.hospitals),
        "load": os.getloadavg()[0],
    }


def check(words, announced, *, noise):
    """End the run unless the opened sum is the sum of the hospitals' vectors, to the rounding and the noise."""
    mechanism, names = announced.mechanism, announced.hospitals
    allowed = 0.5 * len(names) + 1e-6
    if noise:
        allowed += SIGMAS * 2.0**mechanism.share_bits * len(names) ** 0.5
    parts = [rounds_vectors.blocks(name, dimension=mechanism.dimension, most=rounds_vectors.most(mechanism)) for name in names]
    start = 0
    for blocks in zip(*parts, strict=True):
        wanted = np.sum(blocks, axis=0) / mechanism.grid_step
        opened = ring.decode(words[start : start + len(wanted)], bits=mechanism.ring_bits)
        if not np.abs(opened - wanted).max() <= allowed:
            raise SystemExit("a sum is wrong: no figure is worth reading")
        start += len(wanted)


def memory(key):
    """Return a line of this process's status in bytes."""
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(f"{key}:"))
    return int(line.split()[1]) * 1024


def forget_peak():
    """Let VmHWM start from what is in memory now."""
    Path("/proc/self/clear_refs").write_text("5")


def wire_bytes():
    """Return the bytes (received, sent) of the lane's connections, TLS and HTTP/2 included, as the kernel counts them."""
    lane = config.read_settings(config.Home(Path(os.environ["MOTET_COORDINATOR"]))).lane
    port, received, sent = config.split(lane)[1], 0, 0
    for entry in os.scandir("/proc/self/fd"):
        try:
            if not str(Path(entry.path).readlink()).startswith("socket:"):
                continue
            with socket.socket(fileno=os.dup(int(entry.name))) as one:
                if one.family in {socket.AF_INET, socket.AF_INET6} and one.getsockname()[1] == port:
                    one.getpeername()
                    info = one.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 256)
                    acked, got = struct.unpack_from("QQ", info, 120)
                    received, sent = received + got, sent + acked
        except OSError:
            continue
    return received, sent


coordinator.run_study = drive
app = coordinator.app
