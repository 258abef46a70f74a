"""Flower's own SecAgg+ workflow, run in this process as a rival: its workflow, its client mod, one grid without a network."""

import logging
import time
from collections import defaultdict

import numpy as np
from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.client.mod import secaggplus_mod
from flwr.common import Code, FitIns, FitRes, Status, ndarrays_to_parameters, parameters_to_ndarrays
from flwr.common.secure_aggregation.secaggplus_constants import RECORD_KEY_CONFIGS
from flwr.common.secure_aggregation.secaggplus_constants import Key as SecAggKey
from flwr.compat.common import recorddict_compat as compat
from flwr.server.client_manager import SimpleClientManager
from flwr.server.compat.grid_client_proxy import GridClientProxy
from flwr.server.compat.legacy_context import LegacyContext
from flwr.server.strategy import FedAvg
from flwr.server.workflow import SecAggPlusWorkflow
from flwr.server.workflow.constant import MAIN_CONFIGS_RECORD, MAIN_PARAMS_RECORD, Key
from flwr.serverapp import Grid
from flwr.supercore.task_identity import TaskIdentity

logging.getLogger("flwr").setLevel(logging.ERROR)
EXAMPLES = 1000  # of each hospital, the workflow's default largest weight: no precision is lost to weighting


class InProcessGrid(Grid):
    """Hands every message to the client mod and times it; what is not the protocol, the training itself, is taken out."""

    def __init__(self, updates):
        self.updates, self.contexts = updates, {}
        self.client_s = defaultdict(lambda: defaultdict(float))
        self.outside_s = 0.0

    def set_run(self, run):
        raise NotImplementedError

    @property
    def run(self):
        raise NotImplementedError

    def create_message(self, *args, **kwargs):
        raise NotImplementedError

    def get_node_ids(self):
        return list(self.updates)

    def push_messages(self, messages):
        raise NotImplementedError

    def pull_messages(self, message_ids):
        raise NotImplementedError

    def send_and_receive(self, messages, *, timeout=None):
        started = time.process_time()
        replies = [self._answer(message) for message in messages]
        self.outside_s += time.process_time() - started
        return replies

    def _answer(self, message):
        node = message.metadata.dst_node_id
        configs = ConfigRecord(dict(message.content.config_records[RECORD_KEY_CONFIGS]))  # a copy, as a network would make
        message.content = RecordDict({**message.content, RECORD_KEY_CONFIGS: configs})
        stage = str(configs[SecAggKey.STAGE])
        context = self.contexts.setdefault(
            node, Context(run_id=1, node_id=node, node_config={}, state=RecordDict(), run_config={})
        )
        trained = 0.0

        def train(asked, _context):
            nonlocal trained
            began = time.process_time()
            result = FitRes(Status(Code.OK, ""), ndarrays_to_parameters([self.updates[node]]), EXAMPLES, {})
            reply = Message(compat.fitres_to_recorddict(result, keep_input=False), reply_to=asked)
            trained = time.process_time() - began
            return reply

        started = time.process_time()
        reply = secaggplus_mod(message, context, train)
        self.client_s[node][stage] += time.process_time() - started - trained
        return reply


class OneRound(FedAvg):
    """Asks everybody, and takes the mean that the workflow computed as it is: no time is spent on averaging it again."""

    def configure_fit(self, server_round, parameters, client_manager):
        return [(proxy, FitIns(parameters, {})) for proxy in client_manager.all().values()]

    def aggregate_fit(self, server_round, results, failures):
        return results[0][1].parameters, {}


def run(updates, *, clipping_range):
    """Run one round over `updates`; return the mean, seconds of CPU of one client (median) by stage, and of the server."""
    TaskIdentity.task_id, TaskIdentity.run_id, TaskIdentity.node_id = 1, 1, 0
    grid = InProcessGrid({at + 1: update for at, update in enumerate(updates)})
    manager = SimpleClientManager()
    for node in grid.updates:
        manager.register(GridClientProxy(node, grid, 1))
    plain = Context(run_id=1, node_id=0, node_config={}, state=RecordDict(), run_config={})
    context = LegacyContext(plain, strategy=OneRound(), client_manager=manager)
    start = ndarrays_to_parameters([np.zeros(1, np.float32)])
    context.state.array_records[MAIN_PARAMS_RECORD] = compat.parameters_to_arrayrecord(start, keep_input=True)
    context.state.config_records[MAIN_CONFIGS_RECORD] = ConfigRecord({Key.CURRENT_ROUND: 1})
    workflow = SecAggPlusWorkflow(num_shares=1.0, reconstruction_threshold=2 / 3, clipping_range=clipping_range)
    started = time.process_time()
    workflow(grid, context)
    server_s = time.process_time() - started - grid.outside_s
    record = context.state.array_records[MAIN_PARAMS_RECORD]
    mean = parameters_to_ndarrays(compat.arrayrecord_to_parameters(record, keep_input=True))[0]
    stages = {stage: float(np.median([spent[stage] for spent in grid.client_s.values()])) for stage in grid.client_s[1]}
    return mean, stages, server_s
