"""What a self-check finds: one line per check, whether it is well, and how to mend it; and the checks that both sides share."""

import http.client
import json
import os
import shutil
import socket
import ssl
import stat
import time
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from email.utils import parsedate_to_datetime
from importlib import metadata
from pathlib import Path
from typing import Final, Literal

from rich.console import Console

from common import files
from common.errors import ConfigError

State = Literal["ok", "warn", "fail"]
FREE_BYTES_WARN: Final = 5 << 30
FREE_BYTES_FAIL: Final = 256 << 20
FSYNC_S_WARN: Final = 0.5
CLOCK_S_WARN: Final = 60.0
CLOCK_S_FAIL: Final = 300.0  # Flower's node signatures are refused beyond
DAYS_WARN: Final = 30
REACH_S: Final = 5.0
FORBIDDEN: Final = 403


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One check: its name, how it went, what was seen, and what to do where it is not well. Nothing about a patient."""

    check: str
    state: State
    what: str
    mend: str = ""

    def plain(self) -> dict[str, str]:
        """Return the finding as JSON."""
        return asdict(self)


def well(check: str, what: str) -> Finding:
    """Return that a check is well."""
    return Finding(check=check, state="ok", what=what)


def warn(check: str, what: str, *, mend: str) -> Finding:
    """Return something to look at, which stops nothing now."""
    return Finding(check=check, state="warn", what=what, mend=mend)


def fail(check: str, what: str, *, mend: str) -> Finding:
    """Return something that must be mended."""
    return Finding(check=check, state="fail", what=what, mend=mend)


def exit_code(findings: Iterable[Finding]) -> int:
    """Return 0, or ConfigError's exit code when any check failed."""
    return ConfigError.exit_code if any(finding.state == "fail" for finding in findings) else 0


def show(findings: list[Finding], *, console: Console, as_json: bool) -> int:
    """Print the findings, the worst last, and return the exit code."""
    if as_json:
        console.print_json(json.dumps([finding.plain() for finding in findings]))
        return exit_code(findings)
    for finding in sorted(findings, key=lambda one: ("ok", "warn", "fail").index(one.state)):
        mend = f" {finding.mend}" if finding.mend else ""
        console.print(f"{finding.state:4} {finding.check}: {finding.what}{mend}", markup=False, soft_wrap=True)
    return exit_code(findings)


def address(text: str) -> tuple[str, int]:
    """Return host and port of HOST:PORT; raises ConfigError."""
    host, separator, port = text.rpartition(":")
    if not separator or not host or not port.isdecimal() or not 1 <= int(port) <= 65535:
        raise ConfigError(f"{text[:80]!r} is not HOST:PORT.", action="Give for example hub.example.org:443.")
    return host, int(port)


def refuse_root(folder: Path) -> None:
    """Raise ConfigError where root looks at another user's folder: SQLite's files beside a database would be root's then."""
    if os.geteuid() == 0 and folder.exists() and folder.stat().st_uid != 0:
        raise ConfigError("Root would leave files that the folder's owner cannot use.", action="Run this as its owner.")


def private(folder: Path, *, keys: Iterable[Path]) -> Iterator[Finding]:
    """Check that a folder is its owner's alone, and that each private key is there and 0600."""
    try:
        mode = stat.S_IMODE(folder.stat().st_mode)
    except OSError:
        yield fail("folder", f"{folder} cannot be looked at.", mend="Check the path, or run this as the user who owns it.")
        return
    if mode & 0o027:
        yield fail("folder", f"{folder} has mode {mode:04o}.", mend=f"chmod 0700 {folder}")
    else:
        yield well("folder", f"{folder} is private.")
    for key in keys:
        try:
            found = key.stat()
        except OSError:
            yield fail("keys", f"{key.name} is missing.", mend="Restore it from your backup, or set up anew.")
            continue
        if found.st_mode & 0o077:
            yield fail("keys", f"{key.name} can be read by others.", mend=f"chmod 600 {key}, and consider it lost: replace it.")
        elif not os.access(key, os.R_OK):
            yield fail("keys", f"{key.name} cannot be read by this user.", mend="Run this as the user who owns the folder.")
        else:
            yield well("keys", f"{key.name} is there, 0600.")


def disk(folder: Path) -> Iterator[Finding]:
    """Check free space, and that a file can be written and synced."""
    free = shutil.disk_usage(folder).free
    shown = f"{free / (1 << 30):.1f} GiB free"
    if free < FREE_BYTES_FAIL:
        yield fail("disk", f"{shown}.", mend="Free some space: nothing can be released without writing it down.")
    elif free < FREE_BYTES_WARN:
        yield warn("disk", f"{shown}.", mend="Free some space before the next study.")
    else:
        yield well("disk", f"{shown}.")
    probe, started = folder / ".doctor", time.monotonic()
    try:
        files.write(probe, b"x" * 4096, private=True)
        probe.unlink()
    except OSError as error:
        yield fail("sync", f"The folder cannot be written ({error.strerror}).", mend="Check its owner and the file system.")
        return
    seconds = time.monotonic() - started
    if seconds > FSYNC_S_WARN:
        yield warn("sync", f"A synced write took {seconds:.2f} s.", mend="Use a local disk: every round waits for it.")
    else:
        yield well("sync", f"A synced write took {1000 * seconds:.0f} ms.")


def reach(address: tuple[str, int], *, ca: Path, closed: bool) -> Iterator[Finding]:
    """Check name, port, certificate, clock, and that the control interface does not answer; `closed`: it must not."""
    host, port = address
    name = host.strip("[]")
    try:
        socket.getaddrinfo(name, port, type=socket.SOCK_STREAM)
    except OSError:
        yield fail("name", f"{name} has no address.", mend="Check the name and this machine's DNS.")
        return
    yield well("name", f"{name} has an address.")
    try:
        trust = ssl.create_default_context(cafile=str(ca))
    except (OSError, ssl.SSLError):
        yield fail("ca", f"{ca} holds no certificate.", mend="Get ca.crt from the coordinator again.")
        return
    link = http.client.HTTPSConnection(name, port, context=trust, timeout=REACH_S)
    try:
        try:
            link.connect()
        except ssl.SSLCertVerificationError as error:
            yield fail("tls", f"The certificate does not hold: {error.verify_message}.", mend="Compare ca.crt, name and clock.")
            return
        except ssl.SSLError:
            yield fail("tls", "The port does not speak TLS.", mend="Check the port: it is the coordinator's --address.")
            return
        except OSError as error:
            what = error.strerror or "no answer in time"
            yield fail("port", f"{name}:{port} cannot be reached ({what}).", mend="Check the firewall, and that it is up.")
            return
        yield well("port", f"{name}:{port} answers.")
        certificate = link.sock.getpeercert() if isinstance(link.sock, ssl.SSLSocket) else None
        yield days_left("tls", ssl.cert_time_to_seconds(str((certificate or {}).get("notAfter"))))
        yield from _asked(link, closed=closed)
    finally:
        link.close()


def days_left(check: str, until: float) -> Finding:
    """Judge a certificate by its last second, Unix time."""
    days = int((until - time.time()) // 86_400)
    if days < 0:
        return fail(check, "The certificate has expired.", mend="Replace it; see `rotate keys` in the run-book.")
    if days < DAYS_WARN:
        return warn(
            check, f"The certificate holds for {days} more days.", mend="Replace it; see `rotate keys` in the run-book."
        )
    return well(check, f"The certificate holds for {days} more days.")


def _asked(link: http.client.HTTPSConnection, *, closed: bool) -> Iterator[Finding]:
    try:
        link.request("POST", "/v1/control/list-nodes", body=b"", headers={"content-type": "application/protobuf"})
        answer = link.getresponse()  # its body, of whatever length, is not read
    except (OSError, http.client.HTTPException):
        yield fail("control", "The port speaks no HTTP.", mend="Check the port: it is the coordinator's --address.")
        return
    yield clock(answer.headers.get("date"))
    if answer.status == FORBIDDEN:
        yield well("control", "The control interface does not answer there.")
    else:
        judge = fail if closed else warn
        yield judge(
            "control",
            "The control interface answers there, and it has no authentication.",
            mend="Stand a door before it: `motet-coordinator init` with --superlink and --lane on loopback.",
        )


def clock(date: str | None) -> Finding:
    """Judge this machine's clock by the other side's Date header."""
    try:
        off = abs(time.time() - parsedate_to_datetime(date or "").timestamp())
    except (ValueError, TypeError):
        return warn("clock", "The other side tells no time.", mend="Compare the clocks by hand.")
    mend = "Turn on time synchronisation (timedatectl set-ntp true) on both sides."
    if off > CLOCK_S_FAIL:
        return fail("clock", f"The clocks differ by {off:.0f} s.", mend=mend)
    if off > CLOCK_S_WARN:
        return warn("clock", f"The clocks differ by {off:.0f} s.", mend=mend)
    return well("clock", f"The clocks differ by {off:.0f} s.")


def versions(names: Iterable[str]) -> Iterator[Finding]:
    """Name the versions of what is installed, and what departs from the pins of this release."""
    pins = dict(
        line.split(";")[0].strip().split("==", 1) for line in metadata.requires("motet") or () if "==" in line.split(";")[0]
    )
    found, odd = [], []
    for name in ("motet", *names):
        try:
            version = metadata.version(name)
        except metadata.PackageNotFoundError:
            odd.append(f"{name} is missing")
            continue
        found.append(f"{name} {version}")
        if name in pins and version.split("+")[0] != pins[name]:
            odd.append(f"{name} is {version}, this release is tested with {pins[name]}")
    if odd:
        yield fail("versions", f"{'; '.join(odd)}.", mend="Install again with -c deploy/constraints.txt.")
    else:
        yield well("versions", ", ".join(found))
