"""Flower's SuperLink and its executor: started with TLS, node keys and a database; told of the nodes; handed a run."""

import contextlib
import json
import os
import socket
import ssl
import subprocess
import time
import tomllib
import urllib.error
import urllib.request
from importlib import resources
from pathlib import Path

from common import files
from common.crypto.keys import fresh_secret
from common.errors import ConfigError, NotSetUp, PortInUse
from common.processes import end_with_parent, flower_environment, program
from server import config
from server.config import Home, Settings

CONNECTION = "federation"
START_S = 60.0
COMMAND_S = 120.0


def environment(home: Home) -> dict[str, str]:
    """Return the environment of the coordinator's Flower processes; the ServerApp finds its folder in it."""
    return flower_environment(home.flower, extra={"MOTET_COORDINATOR": str(home.folder.absolute())})


def start(home: Home, settings: Settings) -> subprocess.Popen[bytes]:
    """Start the SuperLink and wait until it answers; raises PortInUse, or ConfigError when it does not come up."""
    _refuse_taken_port(settings)
    host, port = config.split(settings.superlink)
    child = _keep_running(
        home,
        "superlink",
        program("flower-superlink"),
        *("--host", host, "--port", str(port)),
        *("--ssl-ca-certfile", home.certificates / "ca.crt"),
        *("--ssl-certfile", home.certificates / "server.crt"),
        *("--ssl-keyfile", home.keys / "server.key"),
        "--enable-supernode-auth",
        "--disable-runtime-dependency-installation",
        *("--database", home.flower / "state.db"),
        *("--isolation", "process", "--superexec-auth-secret-file", _secret(home)),
    )
    trust = ssl.create_default_context(cafile=str(home.certificates / "ca.crt"))
    end = time.monotonic() + START_S
    while time.monotonic() < end and child.poll() is None:
        try:
            with urllib.request.urlopen(f"https://{settings.superlink}/health", context=trust, timeout=2):
                return child
        except (urllib.error.URLError, OSError):
            time.sleep(0.1)
    if child.poll() is None:
        child.terminate()
    raise ConfigError("The SuperLink did not start.", action=f"Read {home.folder / 'superlink.log'}.")


def start_executor(home: Home, settings: Settings) -> subprocess.Popen[bytes]:
    """Start the executor that runs ServerApps as processes of their own: a run survives the SuperLink's death."""
    return _keep_running(
        home,
        "superexec",
        program("flower-superexec"),
        *("--runtime-api-address", settings.superlink),
        *("--root-certificates", home.certificates / "ca.crt"),
        *("--superexec-auth-secret-file", _secret(home)),
    )


def _keep_running(home: Home, name: str, *command: str | Path) -> subprocess.Popen[bytes]:
    os.umask(0o077)
    with (home.folder / f"{name}.log").open("ab") as log:
        return subprocess.Popen(
            command,
            env=environment(home),
            stdout=log,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
            preexec_fn=end_with_parent,  # noqa: PLW1509  (one call into the C library, loaded before)
        )


def _secret(home: Home) -> Path:
    """Return the file with the secret that SuperLink and executor share, made where it is missing."""
    path = home.keys / "superexec.secret"
    if not path.exists():
        files.write_new(path, fresh_secret(), private=True)
    return path


def write_connection(home: Home, settings: Settings) -> None:
    """Tell Flower's command line where the SuperLink is."""
    text = (
        f'[superlink]\ndefault = "{CONNECTION}"\n\n[superlink.{CONNECTION}]\naddress = "{settings.superlink}"\n'
        f"root-certificates = {json.dumps(str((home.certificates / 'ca.crt').absolute()))}\n"
    )
    tomllib.loads(text)
    files.write(home.flower / "config.toml", text.encode(), private=True)


def submit(home: Home, *, run: str) -> int:
    """Hand a prepared run to the SuperLink with `flwr run`; return Flower's run id.

    Raises ConfigError where Flower does not say that it took the run: it may have, all the same.
    """
    bundle = Path(str(resources.files("server").joinpath("bundle")))
    if not (bundle / "pyproject.toml").is_file():
        raise NotSetUp("The bundle is missing from this installation.", action="Install Motet again.")
    text = _answer(home, "run", bundle, CONNECTION, "--run-config", f'run="{run}"', "--format", "json")
    try:
        return int(json.loads(text[text.index("{") : text.rindex("}") + 1])["run-id"])
    except (ValueError, KeyError, TypeError):
        raise ConfigError("The SuperLink did not take the run.", action="Is `motet-coordinator serve` up?") from None


def active(home: Home, *, run_id: int) -> bool:
    """Tell whether Flower still works on a run; a SuperLink that does not answer counts as not."""
    text = _answer(home, "ls", CONNECTION, "--run-id", str(run_id), "--format", "json")
    try:
        runs = json.loads(text[text.index("{") : text.rindex("}") + 1])["runs"]
        return not any(str(run["status"]).startswith("finished") for run in runs)
    except (ValueError, KeyError, TypeError):
        return False


def stop(home: Home, *, run_id: int) -> None:
    """Stop a run with `flwr stop`, as far as the SuperLink answers."""
    with contextlib.suppress(OSError):
        _answer(home, "stop", str(run_id), CONNECTION)


def _answer(home: Home, *arguments: str | Path) -> str:
    """Return what Flower's command line says; nothing where it does not end within COMMAND_S: it is killed then."""
    try:
        done = subprocess.run(
            [program("flwr"), *arguments],
            env=environment(home),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            timeout=COMMAND_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return ""
    return done.stdout.decode(errors="replace")


def _refuse_taken_port(settings: Settings) -> None:
    host, port = config.split(settings.superlink)
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            raise PortInUse(
                f"Port {port} is in use on {host}.", action="Stop what listens there, or init with another."
            ) from None
