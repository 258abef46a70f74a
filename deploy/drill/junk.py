"""A stranger inside a hospital's network: 50 MB of random bytes at every port of the coordinator, plain and posted in TLS.

`python -m deploy.drill.junk ADDRESS PORT...` prints how many bytes each port took before it closed.
"""

import os
import socket
import ssl
import sys

SIZE_BYTES = 50_000_000
BLOCK = os.urandom(1 << 16)
POST = b"POST /v1/fleet/push-messages HTTP/1.1\r\nHost: h\r\nContent-Length: %d\r\n\r\n" % SIZE_BYTES
PATIENCE_S = 10.0


def main(address: str, ports: list[int]) -> None:
    """Try every port twice."""
    for port in ports:
        print(f"{port} plain {pour(address, port, tls=False)} tls {pour(address, port, tls=True)}", flush=True)


def pour(address: str, port: int, *, tls: bool) -> int:
    """Send junk until all is sent or the other side has had enough; return how many bytes went out."""
    sent = 0
    try:
        with socket.create_connection((address, port), timeout=PATIENCE_S) as plain:
            trust = ssl.create_default_context()
            trust.check_hostname, trust.verify_mode = False, ssl.CERT_NONE  # a stranger does not care whom he pesters
            with trust.wrap_socket(plain) if tls else plain as one:
                if tls:
                    one.sendall(POST)  # the body is the junk
                while sent < SIZE_BYTES:
                    one.sendall(BLOCK)
                    sent += len(BLOCK)
    except OSError:  # closed on us, or no longer read
        return sent
    return sent


if __name__ == "__main__":
    main(sys.argv[1], [int(word) for word in sys.argv[2:]])
