"""A benchmark's vault, once its process is prepared, serves until a signal ends it."""

import os
import signal
import threading

from client import serve


def until_ended(home):
    os.umask(0o077)
    stop, ready = threading.Event(), threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    threading.Thread(target=lambda: ready.wait() and print("vault ready", flush=True), daemon=True).start()
    serve.serve(home, progress=lambda *_: None, ready=ready, stop=stop)
