"""Flower's SuperNode as the relay's child: started, watched, and started again when it dies."""

import json
import logging
import subprocess
import threading
import time
from pathlib import Path

from client import relay
from client.relay import RelayHome
from common import ports
from common.errors import ConfigError
from common.processes import end, end_with_parent, flower_environment, program, uninterrupted

POLL_S = 0.2
AGAIN_S = 3.0  # between two starts
SETTLED_S = 20.0  # who ran so long was let in
GIVE_UP_S = 150.0  # without being let in; a coordinator takes up to 60 s to forget a SuperNode that was killed

log = logging.getLogger("motet.relay")


def run(home: RelayHome, *, superlink: str, lane: str, ca: Path, stop: threading.Event) -> None:
    """Keep a SuperNode running until `stop` is set; raises ConfigError when the coordinator lets none in for GIVE_UP_S."""
    let_in = time.monotonic()
    while not stop.is_set():
        with uninterrupted():
            child = _start(home, superlink=superlink, lane=lane, ca=ca)
        started = time.monotonic()
        try:
            while not stop.wait(POLL_S) and child.poll() is None:
                if time.monotonic() - started > SETTLED_S:
                    let_in = time.monotonic()
        finally:
            end(child)
        if stop.is_set():
            return
        if time.monotonic() - let_in > GIVE_UP_S:
            raise ConfigError(
                "The SuperNode ended again and again.",
                action="Run `motet-hospital doctor`: address, ca.crt, clock, or the coordinator does not know this node key.",
            )
        log.warning("the SuperNode ended (exit code %s); it is started again", child.returncode)
        stop.wait(AGAIN_S)


def _start(home: RelayHome, *, superlink: str, lane: str, ca: Path) -> subprocess.Popen[bytes]:
    known = {
        "vault": str(relay.vault_socket(home)),
        "lane": lane,
        "ca": str(ca.absolute()),
        "relay": str(home.folder.absolute()),
    }
    return subprocess.Popen(
        [
            program("flower-supernode"),
            *("--superlink", superlink, "--root-certificates", ca.absolute()),
            *("--auth-supernode-private-key", home.node_key),
            *("--host", "127.0.0.1", "--port", str(ports.free())),
            *("--node-config", " ".join(f"{key}={json.dumps(value)}" for key, value in known.items())),
        ],
        env=flower_environment(home.flower, extra={}),
        stdin=subprocess.DEVNULL,
        start_new_session=True,
        preexec_fn=end_with_parent,  # noqa: PLW1509  (one call into the C library, loaded before)
    )
