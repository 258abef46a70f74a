"""Flower's grid in one process. It needs private names of Flower's: a test says so when an upgrade moves them."""

import itertools
from concurrent.futures import Future, ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any, Self

from flwr.app import Context, Error, Message, RecordDict
from flwr.serverapp import Grid
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects
from flwr.supercore.inflatable.inflatable_utils import inflate_object_from_contents
from flwr.supercore.task_identity import TaskIdentity

from client import app


class LocalGrid(Grid):
    """Flower's grid in this process: each message is taken apart and put together as on the wire, and handled by the ClientApp.

    `nodes`: node id -> (name, node config); who is in `offline` is not there.
    """

    def __init__(self, nodes: dict[int, tuple[str, dict[str, str]]]) -> None:
        self.names, self.offline = {node: name for node, (name, _) in nodes.items()}, set()
        self.contexts = {
            node: Context(run_id=1, node_id=node, node_config=config, state=RecordDict(), run_config={})
            for node, (_, config) in nodes.items()
        }
        TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = 1, 1, 1  # a Message wants to know
        self._replies: dict[str, Future[Message]] = {}
        self._numbers, self._pool = itertools.count(), ThreadPoolExecutor(4)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown()
        TaskIdentity.run_id = TaskIdentity.node_id = TaskIdentity.task_id = None

    def set_run(self, run: Any) -> None:
        raise NotImplementedError

    @property
    def run(self) -> Any:
        raise NotImplementedError

    def create_message(self, *_args: Any, **_named: Any) -> Message:
        raise NotImplementedError

    def send_and_receive(self, *_args: Any, **_named: Any) -> Any:
        raise NotImplementedError

    def get_node_ids(self) -> list[int]:
        return [node for node, name in self.names.items() if name not in self.offline]

    def get_nodes(self) -> Any:
        return [SimpleNamespace(node_id=node, name=self.names[node]) for node in self.get_node_ids()]

    def push_messages(self, messages: Any) -> list[str]:
        pushed = []
        for message in messages:
            number = f"message-{next(self._numbers)}"
            message.metadata.__dict__["_message_id"] = number
            self._replies[number] = self._pool.submit(self._answer, message)
            pushed.append(number)
        return pushed

    def pull_messages(self, message_ids: Any) -> list[Message]:
        return [
            self._replies.pop(one).result() for one in list(message_ids) if one in self._replies and self._replies[one].done()
        ]

    def _answer(self, message: Message) -> Message:
        arrived = travelled(message)
        try:
            return travelled(app.app(arrived, self.contexts[message.metadata.dst_node_id]))
        except Exception as error:  # noqa: BLE001  (as Flower does, with the error's own text)
            return Message(Error(2, str(error)), reply_to=arrived)


def travelled(message: Message) -> Message:
    """Return a message as it arrives: taken apart into objects' bytes, and put together again."""
    whole = {key: one.deflate() for key, one in get_all_nested_objects(message).items()}
    arrived = inflate_object_from_contents(message.object_id, whole)
    assert isinstance(arrived, Message)
    arrived.metadata.__dict__["_message_id"] = message.metadata.message_id
    return arrived
