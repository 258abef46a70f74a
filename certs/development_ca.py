"""Makes a certificate authority and a loopback server certificate for experiments; run it with .venv/bin/python."""  # noqa: INP001

import argparse
import sys
from pathlib import Path

from common import commands
from common.errors import AlreadyExists, ConfigError
from server import certificates

FILES = ("ca.crt", "ca.key", "server.crt", "server.key")


def main() -> None:
    """Write ca.crt, server.crt and their keys (0600) into a folder (0700); never overwrites."""
    parser = argparse.ArgumentParser(description=__doc__)
    default = Path(__file__).resolve().parent / "private"
    parser.add_argument("folder", nargs="?", type=Path, default=default, help="where to write; default: certs/private")
    parser.add_argument("--host", default="127.0.0.1", help="host name or address of the server certificate")
    options = parser.parse_args()
    folder: Path = options.folder
    taken = [name for name in FILES if (folder / name).exists()]
    if taken:
        raise AlreadyExists(f"{folder} holds {', '.join(taken)} already.", action="Choose another folder, or move it away.")
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        certificates.create(folder, keys=folder, federation="development", hosts=(options.host,))
    except OSError as error:
        raise ConfigError(f"{folder} cannot be written ({error.strerror}).", action="Choose another folder.") from None
    sys.stdout.write(f"Wrote {', '.join(FILES)} to {folder}.\n")


if __name__ == "__main__":
    commands.run_function(main)
