"""NVIDIA FLARE's FedAvg in its simulator as a rival: optional, in an environment of its own that MOTET_NVFLARE_PYTHON names."""

import json
import os
import re
import subprocess
import sys
from datetime import datetime
from pathlib import Path

VARIABLE = "MOTET_NVFLARE_PYTHON"
RUN_S = 240
STARTED = re.compile(r"(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3}) - INFO - \n-+\n\s+Round (\d+) started")
TRAINER = """
import numpy as np
import nvflare.client as flare

flare.init()
while flare.is_running():
    got = flare.receive()
    if got is None:
        break
    params = {name: np.asarray(value, np.float32) + np.float32(0.01) for name, value in got.params.items()}
    flare.send(flare.FLModel(params=params, metrics={"loss": 0.0}, meta={"NUM_STEPS_CURRENT_ROUND": 1}))
"""
JOB = """
import sys
import numpy as np
import nvflare
from nvflare.app_common.np.recipes.fedavg import NumpyFedAvgRecipe
from nvflare.recipe import SimEnv

dimension, rounds, clients, folder = int(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
np.save(folder + "/model.npy", np.random.default_rng(1).standard_normal(dimension, dtype=np.float32))
recipe = NumpyFedAvgRecipe(
    name="bench", min_clients=clients, num_rounds=rounds, train_script=folder + "/trainer.py",
    initial_ckpt=folder + "/model.npy",
)
recipe.execute(SimEnv(num_clients=clients, num_threads=clients, workspace_root=folder + "/workspace"))
print("version", nvflare.__version__)
"""


def run(folder, *, sizes, rounds, hospitals):
    """Return the seconds of each round by size, or why there are none; the first, which starts the clients, is left out."""
    python = os.environ.get(VARIABLE)
    if not python:
        return _skipped(f"{VARIABLE} does not name a Python with nvflare (it needs an environment of its own)")
    figures = {"seconds": {}, "version": None}
    for name, dimension in sizes.items():
        place = folder / name
        place.mkdir(parents=True)
        (place / "trainer.py").write_text(TRAINER)
        try:
            done = subprocess.run(
                [Path(python).absolute(), "-c", JOB, str(dimension), str(rounds), str(hospitals), str(place)],
                capture_output=True,
                text=True,
                timeout=RUN_S,
                check=False,
                cwd=place,
                env={key: value for key, value in os.environ.items() if key != "PYTHONPATH"},
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            return _skipped(f"the Python that {VARIABLE} names could not run it ({type(error).__name__} at {name})")
        (place / "said").write_text(done.stdout + done.stderr)
        stamps = {
            int(number): datetime.strptime(stamp, "%Y-%m-%d %H:%M:%S,%f").timestamp()  # noqa: DTZ007  (differences only)
            for stamp, number in STARTED.findall(done.stdout + done.stderr)
        }
        figures["seconds"][name] = [stamps[at + 1] - stamps[at] for at in sorted(stamps) if at and at + 1 in stamps]
        figures["version"] = (re.findall(r"^version (\S+)$", done.stdout, re.MULTILINE) or [figures["version"]])[-1]
        if not figures["seconds"][name]:
            return _skipped(f"FLARE's simulator made no rounds of {name} (exit code {done.returncode})")
    return figures


def _skipped(reason):
    sys.stderr.write(f"NVIDIA FLARE skipped: {reason}\n")
    return {"skipped": reason}


if __name__ == "__main__":
    print(json.dumps(run(Path(sys.argv[1]), sizes={"1e3": 10**3}, rounds=6, hospitals=4)))
