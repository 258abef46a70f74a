"""Flower's SuperNode as the relay's child: started, watched, and started again when it dies."""

import json
import logging
import os
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path

from client import relay
from client.relay import RelayHome
from common import ports
from common.errors import ConfigError
from common.processes import end, end_with_parent, flower_environment, program, uninterrupted

POLL_S = 0.2
AGAIN_S = 3.0  # between two starts
SETTLED_S = 20.0  # who ran so long was let in
READ_S = 2.0  # for the last lines of a SuperNode that ended
GIVE_UP_S = 150.0  # without being let in; a coordinator takes up to 60 s to forget a SuperNode that was killed
LEAVING = b"SuperNode terminated"  # Flower's last words; after an error of the SuperLink's it may say them and never exit
LEAVES_S = 10.0
REFUSED = b"[code: 2004]"  # Flower's, of a node key that the SuperLink does not know, or that is in use still
ENDED = "the SuperNode ended (exit code %s); it is started again"
NOT_LET_IN = "the coordinator does not let this node key in: revoked, not enrolled, or a relay was killed less than 60 s ago"

log = logging.getLogger("motet.relay")


def run(home: RelayHome, *, superlink: str, lane: str, ca: Path, stop: threading.Event) -> None:
    """Keep a SuperNode running until `stop` is set; raises ConfigError when the coordinator lets none in for GIVE_UP_S."""
    let_in = time.monotonic()
    while not stop.is_set():
        refused, leaving = threading.Event(), threading.Event()
        reading, writing = os.pipe()
        with uninterrupted():
            child = _start(home, superlink=superlink, lane=lane, ca=ca, errors=writing)
        os.close(writing)
        reader = threading.Thread(target=_pass_on, args=(reading, {REFUSED: refused, LEAVING: leaving}), daemon=True)
        reader.start()
        started = time.monotonic()
        try:
            while not stop.wait(POLL_S) and child.poll() is None:
                if time.monotonic() - started > SETTLED_S:
                    let_in = time.monotonic()
                if leaving.is_set() and not _exits(child, stop=stop):
                    break
        finally:
            end(child)
        if stop.is_set():
            return
        reader.join(READ_S)
        if time.monotonic() - let_in > GIVE_UP_S:
            if refused.is_set():
                raise ConfigError(
                    "The coordinator does not let this node key in.",
                    action="Ask it whether this hospital was revoked, or enrolled with another relay's folder.",
                )
            raise ConfigError(
                "The SuperNode ended again and again.",
                action="Run `motet-hospital doctor`: address, ca.crt, clock, or the coordinator does not know this node key.",
            )
        if refused.is_set():
            log.warning(NOT_LET_IN)
        else:
            log.warning(ENDED, child.returncode)
        stop.wait(AGAIN_S)


def _exits(child: subprocess.Popen[bytes], *, stop: threading.Event) -> bool:
    """Tell whether a SuperNode that said its last words exits within LEAVES_S, or is to be ended."""
    until = time.monotonic() + LEAVES_S
    while child.poll() is None and time.monotonic() < until and not stop.wait(POLL_S):
        pass
    return child.poll() is not None


def _pass_on(reading: int, said: Mapping[bytes, threading.Event]) -> None:
    """Write what the SuperNode says to our own standard error, and set the event of a text that is in a line."""
    with os.fdopen(reading, "rb") as lines:
        for line in lines:
            for text, event in said.items():
                if text in line:
                    event.set()
            sys.stderr.write(line.decode(errors="replace"))
            sys.stderr.flush()


def _start(home: RelayHome, *, superlink: str, lane: str, ca: Path, errors: int | None = None) -> subprocess.Popen[bytes]:
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
        stderr=errors,
        start_new_session=True,
        preexec_fn=end_with_parent,  # noqa: PLW1509  (one call into the C library, loaded before)
    )
