"""`motet-coordinator doctor`: looks at the coordinator's folder, certificates, processes and door; changes nothing."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from cryptography import x509

from common import findings, lane, locks
from common.errors import MotetError
from common.findings import Finding, fail, warn, well
from server import config, door, keeper, nodes
from server.config import Home, Settings

SERVE = "Start `motet-coordinator serve`."
KEYS = ("identity.pem", "server.key", "ca.key")
LIBRARIES = ("flwr", "grpcio", "torch")


def look(home: Home) -> Iterator[Finding]:
    """Yield what is well and what is not; raises NotSetUp or ConfigError when there is no coordinator's folder to look at."""
    settings = config.read_settings(home)
    findings.refuse_root(home.folder)
    yield from findings.private(home.folder, keys=[home.keys / name for name in KEYS])
    database = home.flower / "state.db"
    if database.exists() and database.stat().st_mode & 0o077:
        yield fail("state", "Flower's database can be read by others.", mend=f"chmod 600 {database}*")
    yield from findings.disk(home.folder)
    yield from _certificates(home, settings)
    yield _roster(home)
    yield from _running(home, settings)
    yield from _door(home, settings)
    yield from findings.reach(
        config.split(settings.address), ca=home.certificates / "ca.crt", closed=not door.loopback(settings.host)
    )
    yield from findings.versions(LIBRARIES)


def _certificates(home: Home, settings: Settings) -> Iterator[Finding]:
    try:
        ca, server = (
            x509.load_pem_x509_certificate((home.certificates / f"{one}.crt").read_bytes()) for one in ("ca", "server")
        )
    except (OSError, ValueError):
        yield fail("certificates", "ca.crt or server.crt cannot be read.", mend="Restore them from your backup.")
        return
    yield findings.days_left("ca.crt", ca.not_valid_after_utc.timestamp())
    yield findings.days_left("server.crt", server.not_valid_after_utc.timestamp())
    try:
        server.verify_directly_issued_by(ca)
    except Exception:  # noqa: BLE001  (ValueError, TypeError or InvalidSignature)
        yield fail("server.crt", "It is not signed by ca.crt.", mend="Restore both from one backup.")
    try:
        names = server.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (x509.ExtensionNotFound, ValueError):
        yield fail("server.crt", "It names no host.", mend="Make it anew; see `rotate keys` in the run-book.")
        return
    known = {*names.get_values_for_type(x509.DNSName), *map(str, names.get_values_for_type(x509.IPAddress))}
    for name in (settings.host.strip("[]"), lane.NAME):
        if name in known:
            yield well("server.crt", f"It is for {name}.")
        else:
            yield fail("server.crt", f"It is not for {name}.", mend="Make it anew; see `rotate keys` in the run-book.")


def _roster(home: Home) -> Finding:
    if not home.roster_file.exists():
        return warn("roster", "There is none.", mend="Run `motet-coordinator enrol` with every hospital's request.")
    try:
        signed = config.read_roster(home)
        mine = config.identity_key(home).public_key().public_bytes_raw().hex()
    except MotetError as error:
        return fail("roster", error.what, mend=error.action)
    if signed.coordinator_identity != mine:
        return fail("roster", "It is signed by another identity.", mend="Restore keys and roster from one backup.")
    return well("roster", f"{len(signed.members)} hospitals, hash {signed.hash()[:16]}.")


def _running(home: Home, settings: Settings) -> Iterator[Finding]:
    lock = home.folder / "serve.lock"
    if not lock.exists() or not locks.held(lock):
        yield fail("serve", "The SuperLink is not kept running.", mend=SERVE)
    else:
        yield well("serve", f"It runs; the SuperLink is at {settings.superlink}.")
        yield from _nodes(home, settings)
    if waiting := sorted(keeper.unfinished(home)):
        yield warn("runs", f"{len(waiting)} unfinished, held by no process.", mend=f"{SERVE} It goes on with them.")


def _nodes(home: Home, settings: Settings) -> Iterator[Finding]:
    """Compare the node keys that the SuperLink lets in with the roster's."""
    try:
        differs = nodes.compare(nodes.known(home, settings), config.read_roster(home))
    except MotetError as error:
        yield fail("nodes", error.what, mend=error.action)
        return
    for member in differs.missing:
        yield fail("nodes", f"The SuperLink does not know the node key of {member.name}.", mend=f"{SERVE} Stop it first.")
    for name in differs.taken_away:
        yield fail("nodes", f"The node key of {name} was taken away at the SuperLink.", mend=nodes.MEND)
    for node in differs.strange:
        name = node.name or "a node without a name"
        yield fail("nodes", f"The SuperLink lets in {name}, which the roster does not name.", mend=f"{SERVE} Stop it first.")
    if not (differs.missing or differs.taken_away or differs.strange):
        yield well("nodes", "The SuperLink lets in the roster's node keys and no other.")


def _door(home: Home, settings: Settings) -> Iterator[Finding]:
    if not door.stands(settings):
        if not door.loopback(settings.host):
            yield fail(
                "door",
                "The SuperLink itself listens where hospitals reach it.",
                mend="Set up anew with --superlink and --lane on loopback ports.",
            )
        return
    if shutil.which("nginx", path=f"{os.environ.get('PATH', '')}:{door.PROGRAM_PATH}") is None:
        yield fail("door", "nginx is not installed.", mend="Install nginx and libnginx-mod-stream.")
    written = door.folder(home) / "nginx.conf"
    if not written.exists() or written.read_text() != door.text(home, settings):
        yield warn("door", "Its configuration is not this release's.", mend="Start `motet-coordinator door` again.")
    if not door.running(door.folder(home)):
        yield fail("door", "It is closed.", mend="Start `motet-coordinator door`.")
    else:
        yield well("door", "It is open.")
    yield from _logs(door.folder(home) / "logs")


def _logs(folder: Path) -> Iterator[Finding]:
    large = sum(path.stat().st_size for path in folder.glob("*.log"))
    if large > 1 << 30:
        yield warn("logs", f"The door's logs hold {large >> 20} MiB.", mend="Rotate them: deploy/systemd/motet-door.logrotate.")
