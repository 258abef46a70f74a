"""The door: nginx with one public port before SuperLink and lane; configured and started here."""

import ipaddress
import os
import re
import shutil
import socket
import subprocess
from pathlib import Path
from typing import Final

import jinja2

from common import files, lane
from common.errors import AlreadyRunning, ConfigError, NotSetUp
from server import config
from server.config import Home, Settings

PATHS: Final = (  # of Flower's fleet interface, all POST: what a SuperNode needs. Registering itself is not among it.
    "activate-node",
    "deactivate-node",
    "send-node-heartbeat",
    "pull-messages",
    "push-messages",
    "get-run",
    "get-fab",
    "pull-object",
    "push-object",
    "confirm-message-received",
)
MODULES: Final = (Path("/usr/lib/nginx/modules"), Path("/usr/lib64/nginx/modules"))  # Debian's, Fedora's
STREAM: Final = "ngx_stream_module.so"
PROGRAM_PATH: Final = f"{os.defpath}:/usr/sbin:/sbin:/usr/local/sbin"
CONNECTIONS_MOST: Final = 64  # of one address
REQUESTS_A_SECOND_MOST: Final = 100  # of one address
SOCKET_PATH_MOST: Final = 100  # bytes; the kernel's limit is 108
PLAIN_PATH: Final = re.compile(r"/[A-Za-z0-9/._+@-]*\Z")  # what needs no quoting in nginx's language
CHECK_S: Final = 30.0


def folder(home: Home) -> Path:
    """Return the door's folder: configuration, logs, sockets, process id."""
    return home.folder.absolute() / "door"


def stands(settings: Settings) -> bool:
    """Tell whether a door stands before the SuperLink, or hospitals reach it directly."""
    return settings.address != settings.superlink


def check(home: Home, settings: Settings) -> None:
    """Raise ConfigError where no door could be made for these settings in this place."""
    ports = [config.split(text)[1] for text in (settings.address, settings.superlink, settings.lane)]
    if ports[0] in ports[1:]:
        raise ConfigError("The door, the SuperLink and the lane need three ports.", action="Give others.")
    for text in (settings.superlink, settings.lane):
        if not loopback(config.split(text)[0]):
            raise ConfigError("Behind a door, SuperLink and lane listen on loopback.", action="Give 127.0.0.1:PORT for both.")
    place = str(folder(home))
    if not PLAIN_PATH.match(place) or len(f"{place}/fleet.sock".encode()) > SOCKET_PATH_MOST:
        raise ConfigError(
            "The door's folder has a name that is too long for a socket, or odd characters in it.",
            action="Choose a --home of at most 80 letters, digits and ./_+@- signs.",
        )


def write(home: Home, settings: Settings) -> Path:
    """Write the door's configuration and the folders that nginx needs; return it. Raises what `check` does."""
    check(home, settings)
    place = folder(home)
    for part in (place, place / "logs", place / "temp"):
        part.mkdir(mode=0o700, exist_ok=True)
    files.write(place / "nginx.conf", text(home, settings).encode())
    return place / "nginx.conf"


def text(home: Home, settings: Settings) -> str:
    """Return the door's configuration."""
    template = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        undefined=jinja2.StrictUndefined,
        autoescape=False,  # noqa: S701  (no HTML)
    ).get_template("nginx.conf.j2")
    rendered = template.render(
        module=_module(),
        door=folder(home),
        listen=_listen(settings),
        lane_name=lane.NAME,
        lane=settings.lane,
        superlink=settings.superlink,
        paths=PATHS,
        certificates=home.certificates.absolute(),
        keys=home.keys.absolute(),
        connections_most=CONNECTIONS_MOST,
        requests_a_second_most=REQUESTS_A_SECOND_MOST,
    )
    return f"{rendered}\n"


def command(home: Home, settings: Settings) -> list[str]:
    """Write the configuration anew, let nginx check it, and return the command that runs the door in the foreground.

    Raises NotSetUp without nginx or without a door to open, AlreadyRunning, or ConfigError with what nginx says of the
    configuration. As root, the door's workers run as whoever owns the coordinator's folder; otherwise as this user.
    """
    if not stands(settings):
        raise NotSetUp(
            "This coordinator has no door: hospitals reach its SuperLink directly.",
            action="Run `motet-coordinator init` with --superlink and --lane on loopback ports.",
        )
    program = shutil.which("nginx", path=f"{os.environ.get('PATH', '')}:{PROGRAM_PATH}")
    if program is None:
        raise NotSetUp("nginx is not installed.", action="Install nginx and its stream module (libnginx-mod-stream).")
    place = folder(home)
    base = [program, "-p", f"{place}/", "-c", str(write(home, settings))]
    base += ["-g", "daemon off;" + (f" user {_owner(home)};" if os.geteuid() == 0 else "")]
    if running(place):
        raise AlreadyRunning("The door is open already.", action="Stop that nginx first.")
    for stale in ("lane.sock", "fleet.sock"):  # as a killed nginx leaves them
        (place / stale).unlink(missing_ok=True)
    try:
        checked = subprocess.run([*base, "-t", "-q"], capture_output=True, text=True, timeout=CHECK_S, check=False)
    except subprocess.TimeoutExpired:
        raise ConfigError(
            f"nginx did not check its configuration in {CHECK_S:g} s.", action="Is this machine's DNS up?"
        ) from None
    if checked.returncode != 0:
        said = [line for line in checked.stderr.splitlines() if "[emerg]" in line] or ["nothing"]
        raise ConfigError(f"nginx refuses the door's configuration: {said[0]}", action="Mend what it names, or report it.")
    return base


def _listen(settings: Settings) -> list[str]:
    """Return where the door listens: on the address alone when it is loopback, on every interface otherwise."""
    host, port = config.split(settings.address)
    if loopback(host):
        return [settings.address]
    everywhere = [f"0.0.0.0:{port}"]
    return [*everywhere, f"[::]:{port} ipv6only=on"] if Path("/proc/net/if_inet6").exists() else everywhere


def loopback(host: str) -> bool:
    """Tell whether a host is this machine's loopback."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"


def _module() -> str:
    found = next((place for place in MODULES if (place / STREAM).exists()), MODULES[0])
    return str(found / STREAM)


def _owner(home: Home) -> str:
    """Return the user and group that own the coordinator's folder."""
    return f"{home.folder.owner()} {home.folder.group()}"


def running(place: Path) -> bool:
    """Tell whether an nginx runs on the door's folder, in this or another container."""
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(str(place / "fleet.sock"))
        except OSError:
            return False
    return True
