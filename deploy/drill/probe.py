"""A plain TCP server and client that time a link: round trips on one open connection, transfers on new ones.

`python -m deploy.drill.probe serve` says `ready`. `python -m deploy.drill.probe ask ADDRESS` says `ready`, then answers each
line of its input with seconds: `trip` for one byte forth and back, `send BYTES` until all are there, `fetch BYTES` likewise.
"""

import socket
import sys
import threading
import time

PORT = 7000
PATIENCE_S = 60.0
BLOCK_BYTES = 1 << 16


def serve() -> None:
    """Serve until ended: a connection's first line is a command of the client."""
    with socket.create_server(("0.0.0.0", PORT)) as door:  # inside a namespace without any other network
        print("ready", flush=True)
        while True:
            threading.Thread(target=_answer, args=(door.accept()[0],), daemon=True).start()


def ask(address: str) -> None:
    """Do what each line of the input says and print how long it took."""
    with _connect(address, command="trip 0") as echo:
        print("ready", flush=True)
        for line in sys.stdin:
            started = time.monotonic()
            if line.strip() == "trip":
                echo.sendall(b"x")
                echo.recv(1)
            else:
                _transfer(address, command=line.strip())
            print(time.monotonic() - started, flush=True)


def _transfer(address: str, *, command: str) -> None:
    with _connect(address, command=command) as one:
        kind, size = command.split()
        if kind == "send":
            one.sendall(bytes(int(size)))
            one.shutdown(socket.SHUT_WR)
        while one.recv(BLOCK_BYTES):
            pass


def _connect(address: str, *, command: str) -> socket.socket:
    one = socket.create_connection((address, PORT), timeout=PATIENCE_S)
    one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    one.sendall(command.encode().ljust(32))
    return one


def _answer(one: socket.socket) -> None:
    with one:
        one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        kind, size = one.recv(32, socket.MSG_WAITALL).split()
        if kind == b"fetch":
            one.sendall(bytes(int(size)))
            return
        while data := one.recv(BLOCK_BYTES):
            if kind == b"trip":
                one.sendall(data)
        one.sendall(b".")


if __name__ == "__main__":
    if sys.argv[1] == "serve":
        serve()
    else:
        ask(sys.argv[2])
