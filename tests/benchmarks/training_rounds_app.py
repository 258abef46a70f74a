"""The benchmark's ServerApp: the coordinator's own, except that it only trains, and writes what each step took.

Set-up, carrier, rounds, optimiser and journal are the product's. The run's folder gets figures.json: of each step the seconds
from announcement to opened sum, those of adding the masked uploads (unmask), and those of the optimiser's step and the next
model's bytes (update).
"""

import json
import time

from common.crypto.adding import Adder
from server import app as coordinator
from server import rounds as product
from server import train
from server.run import begin
from server.setup import set_up

steps, unmasked = [], []


class Timed(product.Rounds):
    """Rounds that say what they took."""

    def secure_sum(self, **asked):
        began = time.perf_counter()
        if steps:
            steps[-1]["update"] = began - steps[-1].pop("ended")
        unmasked.clear()
        found = super().secure_sum(**asked)
        ended = time.perf_counter()
        steps.append({"seconds": ended - began, "unmask": sum(unmasked), "ended": ended, "round": self.number})
        return found


class TimedAdder(Adder):
    """Adds as the product does; the threads' seconds are added up."""

    def begin(self, *given):
        take = super().begin(*given)

        def timed(piece):
            began = time.perf_counter()
            take(piece)
            unmasked.append(time.perf_counter() - began)

        return timed

    def total(self, heads):
        began = time.perf_counter()
        found = super().total(heads)
        unmasked.append(time.perf_counter() - began)
        return found


def drive(*, study, roster, key, carrier, folder, run):
    """Train as the study says."""
    exchange = begin(study=study, roster=roster, key=key, carrier=carrier, folder=folder, run=run)
    rounds = Timed(exchange=exchange, keys=set_up(exchange))
    train.train(rounds, study=study, folder=folder)
    steps[-1]["update"] = time.perf_counter() - steps[-1].pop("ended")
    opened = [event for event in exchange.journal.rounds().values() if event["state"] == "opened"]
    if len(opened) != study.training.steps:
        raise SystemExit("a round was void: no figure is worth reading")
    rounds.close()
    figures = {"rounds": steps, "dimension": opened[0]["mechanism"]["dimension"]}
    (folder / "figures.json").write_text(json.dumps(figures))
    exchange.say("done")


product.Adder = TimedAdder
coordinator.run_study = drive
app = coordinator.app
