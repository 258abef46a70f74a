"""OpenDP's discrete Gaussian as a rival: optional, by the interpreter that MOTET_OPENDP_PYTHON names; prints its speed."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

VARIABLE = "MOTET_OPENDP_PYTHON"
SAMPLES = 20_000
PATIENCE_S = 120


def speed(*, bits):
    """Return {"samples_per_s", "version"} of OpenDP's sampler at scale 2**bits, or {"skipped": why}."""
    python = os.environ.get(VARIABLE)
    if not python:
        return {"skipped": f"{VARIABLE} names no interpreter that has opendp"}
    done = subprocess.run(
        [python, str(Path(__file__)), str(bits)], capture_output=True, text=True, timeout=PATIENCE_S, check=False
    )
    return json.loads(done.stdout) if done.returncode == 0 else {"skipped": f"{VARIABLE} failed: {done.stderr.strip()[-200:]}"}


def main():
    from importlib.metadata import version

    import opendp.prelude as dp  # of the other interpreter

    dp.enable_features("contrib")
    space = dp.vector_domain(dp.atom_domain(T=int)), dp.l2_distance(T=float)
    measure = dp.m.make_gaussian(*space, scale=2.0 ** int(sys.argv[1]))
    began = time.process_time()
    measure([0] * SAMPLES)
    print(json.dumps({"samples_per_s": SAMPLES / (time.process_time() - began), "version": version("opendp")}))


if __name__ == "__main__":
    main()
