"""A free port on loopback."""

import socket


def free() -> int:
    """Return the number of a loopback port that nobody listened on a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
