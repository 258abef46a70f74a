"""Flower's own FedAvg round over the same SuperLink and SuperNodes: one array each way, no training."""

import itertools
import json
import os
import time
from pathlib import Path

import numpy as np
from flwr.app import ArrayRecord, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import ServerApp
from flwr.serverapp.strategy import FedAvg

server = ServerApp()
client = ClientApp()


@client.train()
def train(message, _context):
    """Send the array back, each hospital's another one by a little."""
    (array,) = message.content["arrays"].to_numpy_ndarrays()
    sent = array + np.float32(os.getpid() % 97) / np.float32(97)
    content = {"arrays": ArrayRecord([sent]), "metrics": MetricRecord({"num-examples": 1})}
    return Message(RecordDict(content), reply_to=message)


@server.main()
def main(grid, context):
    """Make the rounds of the plan and write how long each took."""
    folder = Path(str(context.run_config["run"]))
    figures = []
    for one in json.loads((folder / "plan.json").read_bytes()):
        stamps = []
        FedAvg(fraction_evaluate=0.0, min_train_nodes=4, min_available_nodes=4).start(
            grid=grid,
            initial_arrays=ArrayRecord([np.random.default_rng(1).standard_normal(one["dimension"], dtype=np.float32)]),
            num_rounds=one["rounds"],
            evaluate_fn=lambda _number, _arrays, stamps=stamps: stamps.append(time.perf_counter()),
        )
        figures += [
            {"dimension": one["dimension"], "seconds": later - earlier} for earlier, later in itertools.pairwise(stamps)
        ]
    (folder / "figures.json").write_text(json.dumps({"rounds": figures}))
